"""Signs and lines of every document in two passes over its bytes: counts for the quality signals."""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.kernels.tables import BULLET, END, SPACE
from puna.data.kernels.utf8 import SEED, decode, finish, kind_of, step

# columns of the table of counts
(CHARS, HASH_SIGNS, ELLIPSES, UNREADABLE, BRACES, NEWLINES, LOREM, LINES, BULLETS, ELLIPSIS_LINES, PUNCTUATED, SHORT, FEW_WORDS,
 REPEATED, REPEATED_CHARS, LINE_CHARS) = range(16)  # fmt: skip
COLUMNS = 16
SHORT_LINE_CHARS = 30  # FineWeb (Penedo et al. 2024)
FEW_LINE_WORDS = 3  # C4 (Raffel et al. 2020) keeps lines of at least three words
NEWLINE, DOT, ELLIPSIS = 0x0A, 0x2E, 0x2026
LOREM_IPSUM = np.frombuffer(b"lorem ipsum", dtype=np.uint8)
LOWER_BIT = np.uint8(0x20)
_PLAIN, _INSIDE, _DOT, _NEWLINE, _HASH, _BRACE, _L, _THREE_BYTES = range(8)


def _signs_of_bytes() -> np.ndarray:
    """What `_signs` does at each byte: nothing for nearly all, `_INSIDE` a character of several bytes it is no character."""
    signs = np.full(256, _PLAIN, dtype=np.uint8)
    signs[0x80:0xC0] = _INSIDE
    for sign, marks in (
        (_DOT, b"."),
        (_NEWLINE, b"\n"),
        (_HASH, b"#"),
        (_BRACE, b"{}"),
        (_L, b"lL"),
        (_THREE_BYTES, b"\xe2\xef"),
    ):
        signs[list(marks)] = sign
    return signs


SIGNS = _signs_of_bytes()
ZERO, ONE, S32 = np.uint64(0), np.uint64(1), np.uint64(32)


@njit(cache=True, nogil=True)
def count_signs_and_lines(data, offsets, kind, starts, ends, counts):  # type: ignore[no-untyped-def]
    """Fill `counts`, int64 [documents, COLUMNS], zero before; `starts` and `ends` are those of the documents' words."""
    keys = np.zeros(16, np.uint64)
    word = 0
    for doc in range(len(offsets) - 1):
        row = counts[doc]
        _signs(data, offsets[doc], offsets[doc + 1], row)
        slots = 16
        while slots < 2 * (row[NEWLINES] + 1):
            slots *= 2
        if slots > len(keys):
            keys = np.zeros(slots, np.uint64)
        keys[:slots] = ZERO
        begin, stop = offsets[doc], offsets[doc + 1]
        while begin < stop:
            end = begin
            while end < stop and data[end] != NEWLINE:
                end += 1
            first_word = word
            while word < ends[doc] and starts[word] < end:
                word += 1
            _line(data, begin, end, kind, word - first_word, keys[:slots], row)
            begin = end + 1
        word = ends[doc]


@njit(cache=True, nogil=True)
def _signs(data, i, stop, row):  # type: ignore[no-untyped-def]
    dots, first, inside = 0, i, 0
    while i < stop:
        b = data[i]
        sign = SIGNS[b]
        if sign == _PLAIN:
            i += 1
            continue
        if sign == _INSIDE:
            inside += 1
        elif sign == _DOT:
            dots = dots + 1 if i > first and data[i - 1] == DOT else 1
            if dots % 3 == 0:
                row[ELLIPSES] += 1
        elif sign == _NEWLINE:
            row[NEWLINES] += 1
        elif sign == _HASH:
            row[HASH_SIGNS] += 1
        elif sign == _BRACE:
            row[BRACES] += 1
        elif sign == _L:
            if not row[LOREM] and i + len(LOREM_IPSUM) <= stop:
                row[LOREM] = _is_lorem(data, i)
        elif b == 0xE2 and i + 3 <= stop and data[i + 1] == 0x80 and data[i + 2] == 0xA6:
            row[ELLIPSES] += 1
        elif b == 0xEF and i + 3 <= stop and data[i + 1] == 0xBF and data[i + 2] == 0xBD:
            row[UNREADABLE] += 1
        i += 1
    row[CHARS] = stop - first - inside


@njit(cache=True, nogil=True)
def _is_lorem(data, i):  # type: ignore[no-untyped-def]
    for j in range(len(LOREM_IPSUM)):
        b = data[i + j]
        if 0x41 <= b <= 0x5A:
            b |= LOWER_BIT
        if b != LOREM_IPSUM[j]:
            return 0
    return 1


@njit(cache=True, nogil=True)
def _line(data, begin, end, kind, words, keys, row):  # type: ignore[no-untyped-def]
    first = begin
    while first < end:
        code, after = decode(data, first, end)
        if not kind_of(kind, code) & SPACE:
            break
        first = after
    if first >= end:
        return
    state, chars = SEED, 0
    for i in range(begin, end):
        chars += (data[i] & 0xC0) != 0x80
    last, last_code = _last_visible(data, first, end, kind)
    for i in range(first, last):
        state = step(state, np.int64(data[i]))
    row[LINES] += 1
    row[LINE_CHARS] += chars
    row[SHORT] += chars <= SHORT_LINE_CHARS
    row[FEW_WORDS] += words < FEW_LINE_WORDS
    row[PUNCTUATED] += (kind_of(kind, last_code) & END) != 0
    dots = last - first >= 3 and data[last - 1] == DOT and data[last - 2] == DOT and data[last - 3] == DOT
    row[ELLIPSIS_LINES] += dots or last_code == ELLIPSIS
    code, after = decode(data, first, end)
    if kind_of(kind, code) & BULLET and after < end:
        code, after = decode(data, after, end)
        row[BULLETS] += (kind_of(kind, code) & SPACE) != 0
    if _seen(keys, finish(state)):
        row[REPEATED] += 1
        row[REPEATED_CHARS] += chars


@njit(cache=True, nogil=True)
def _last_visible(data, first, end, kind):  # type: ignore[no-untyped-def]
    """(byte after, code point) of the last character that is no white space; there is one at `first`."""
    last = end
    while True:
        start = last - 1
        while start > first and (data[start] & 0xC0) == 0x80:
            start -= 1
        code, after = decode(data, start, last)
        if start <= first or not kind_of(kind, code) & SPACE:
            return after, code
        last = start


@njit(cache=True, nogil=True)
def _seen(keys, key):  # type: ignore[no-untyped-def]
    """Whether a key was in the table before; it is afterwards."""
    mask = np.uint64(len(keys) - 1)
    slot = (key ^ (key >> S32)) & mask
    while keys[slot] != ZERO:
        if keys[slot] == key:
            return True
        slot = (slot + ONE) & mask
    keys[slot] = key
    return False
