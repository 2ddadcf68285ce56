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
    dots = 0
    while i < stop:
        b = data[i]
        if b == DOT:
            dots += 1
            if dots == 3:
                row[ELLIPSES] += 1
                dots = 0
        else:
            dots = 0
        if b < 0x80:
            row[CHARS] += 1
            if b == NEWLINE:
                row[NEWLINES] += 1
            elif b == 0x23:
                row[HASH_SIGNS] += 1
            elif b == 0x7B or b == 0x7D:
                row[BRACES] += 1
            elif (b | LOWER_BIT) == 0x6C and not row[LOREM] and i + len(LOREM_IPSUM) <= stop:
                row[LOREM] = _is_lorem(data, i)
        elif (b & 0xC0) != 0x80:
            row[CHARS] += 1
            if b == 0xE2 and i + 3 <= stop and data[i + 1] == 0x80 and data[i + 2] == 0xA6:
                row[ELLIPSES] += 1
            elif b == 0xEF and i + 3 <= stop and data[i + 1] == 0xBF and data[i + 2] == 0xBD:
                row[UNREADABLE] += 1
        i += 1


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
    state, chars, i, last, last_code = SEED, 0, begin, first, np.int64(0)
    while i < end:
        here = i
        code, i = decode(data, i, end)
        chars += 1
        if here >= first and not kind_of(kind, code) & SPACE:
            last, last_code = i, code
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
