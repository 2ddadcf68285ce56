"""Keys of normalised lines and texts, and the removal of lines, without making a string."""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.kernels.tables import DIGIT, LETTER, MARK, SEVERAL, SIZE, SPACE, WORD
from puna.data.kernels.utf8 import SEED, decode, finish, kind_of, step

NEWLINE, BLANK, NOUGHT, UNDERSCORE = 0x0A, 0x20, 0x30, 0x5F
# marks are vowels in the scripts of India and South-East Asia; elsewhere they are accents and points, left out by many writers
FIRST_VOWEL_MARK, LAST_VOWEL_MARK = 0x0900, 0x1FFF
ZERO = np.uint64(0)


@njit(cache=True, nogil=True)
def keys_of_lines(data, offsets, kind, one, starts, extra, languages, fold_digits, min_letters, keys, ends):  # type: ignore[no-untyped-def]
    """One key for every line of every document; 0 for a line of fewer letters than `min_letters`.

    Args:
        data, offsets: UTF-8 bytes of the documents.
        kind, one, starts, extra: `tables().kind` and the parts of `line_fold()`.
        languages: uint64 [documents], a hash of the language, which is part of the key.
        fold_digits: bool [documents]; where it is false, a line with digits is compared with its digits and signs.
        keys: uint64, room for all lines; ends: int64 [documents], receives the ends.
    """
    count = 0
    for doc in range(len(offsets) - 1):
        begin, stop = offsets[doc], offsets[doc + 1]
        while True:
            end = begin
            while end < stop and data[end] != NEWLINE:
                end += 1
            key = ZERO
            if end - begin >= min_letters:
                exact = not fold_digits[doc] and _has_digit(data, begin, end, kind, one, starts, extra)
                key = _line_key(data, begin, end, kind, one, starts, extra, languages[doc], exact, min_letters)
            keys[count] = key
            count += 1
            begin = end + 1
            if end >= stop:
                break
        ends[doc] = count
    return count


@njit(cache=True, nogil=True)
def folded_run(code, one, starts, extra):  # type: ignore[no-untyped-def]
    """What a code point is folded to: a single code point, or (-1, begin, end) of a run in `extra`."""
    if code >= SIZE:
        return code, 0, 0
    folded = np.int64(one[code])
    if folded < SEVERAL:
        return folded, 0, 0
    return np.int64(-1), np.int64(starts[folded - SEVERAL]), np.int64(starts[folded - SEVERAL + 1])


@njit(cache=True, nogil=True)
def _has_digit(data, i, end, kind, one, starts, extra):  # type: ignore[no-untyped-def]
    while i < end:
        code, i = decode(data, i, end)
        code, first, last = folded_run(code, one, starts, extra)
        if code >= 0 and kind_of(kind, code) & DIGIT:
            return True
        for j in range(first, last):
            if kind_of(kind, extra[j]) & DIGIT:
                return True
    return False


@njit(cache=True, nogil=True)
def _line_key(data, i, end, kind, one, starts, extra, language, exact, min_letters):  # type: ignore[no-untyped-def]
    state, letters, begun, space, digits = SEED ^ language, 0, False, False, False
    while i < end:
        code, i = decode(data, i, end)
        code, first, last = folded_run(code, one, starts, extra)
        while code >= 0 or first < last:
            if code < 0:
                code = np.int64(extra[first])
                first += 1
            bits = kind_of(kind, code)
            if bits & SPACE:
                space, digits = True, False
            elif exact or _counts(bits, code):
                if bits & DIGIT and not exact:
                    code = -1 if digits else NOUGHT
                    digits = True
                else:
                    digits = False
                if code >= 0:
                    if space and begun:
                        state = step(state, BLANK)
                    state = step(state, code)
                    begun, space = True, False
                    letters += (bits & LETTER) != 0
            else:
                digits = False
            code = np.int64(-1)
    return finish(state) if letters >= min_letters else ZERO


@njit(cache=True, nogil=True)
def _counts(bits, code):  # type: ignore[no-untyped-def]
    if bits & WORD:
        return code != UNDERSCORE
    return (bits & MARK) != 0 and FIRST_VOWEL_MARK <= code <= LAST_VOWEL_MARK


@njit(cache=True, nogil=True)
def keys_of_texts(data, offsets, kind, one, starts, extra, keys):  # type: ignore[no-untyped-def]
    """A key of every text that ignores case and white space; 0 for a text of white space only."""
    for doc in range(len(offsets) - 1):
        i, end = offsets[doc], offsets[doc + 1]
        state, begun, space = SEED, False, False
        while i < end:
            code, i = decode(data, i, end)
            if kind_of(kind, code) & SPACE:
                space = True
                continue
            if space and begun:
                state = step(state, BLANK)
            begun, space = True, False
            code, first, last = folded_run(code, one, starts, extra)
            if code >= 0:
                state = step(state, code)
            for j in range(first, last):
                state = step(state, np.int64(extra[j]))
        keys[doc] = finish(state) if begun else ZERO


@njit(cache=True, nogil=True)
def copy_without(data, offsets, drop, line_ends, out, out_offsets, removed):  # type: ignore[no-untyped-def]
    """Copy the texts without the lines marked in `drop` (bool, one for every line, in order).

    In a text that loses a line, three or more line breaks become two and none stay at the ends. `out` has room for all
    bytes; `out_offsets`, int64 [documents + 1], and `removed`, int64 [documents], receive what their names say.
    """
    place, line = 0, 0
    out_offsets[0] = 0
    for doc in range(len(offsets) - 1):
        begin, stop = offsets[doc], offsets[doc + 1]
        gone = 0
        for j in range(line, line_ends[doc]):
            gone += drop[j]
        removed[doc] = gone
        if not gone:
            out[place : place + stop - begin] = data[begin:stop]
            place += stop - begin
        else:
            place = _copy_kept(data, begin, stop, drop[line : line_ends[doc]], out, place)
        line = line_ends[doc]
        out_offsets[doc + 1] = place
    return place


@njit(cache=True, nogil=True)
def _copy_kept(data, i, stop, drop, out, place):  # type: ignore[no-untyped-def]
    line, breaks, begun = 0, 0, False
    while i < stop:
        byte = data[i]
        i += 1
        if byte == NEWLINE:
            # the break that ends a dropped line goes with it
            breaks += not drop[line]
            line += 1
        elif not drop[line]:
            if begun:
                for _ in range(min(breaks, 2)):
                    out[place] = NEWLINE
                    place += 1
            out[place] = byte
            place += 1
            breaks, begun = 0, True
    return place
