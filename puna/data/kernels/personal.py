"""Where personal data may lie: one pass over the bytes of a batch of texts (`puna.data.pii_seeds` says what a seed is).

Every function takes a byte index and gives one back. Seeds are told in characters: `shift` is what a byte index is ahead of
the character's, counted from the beginning of the text.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.kernels.tables import DIGIT, SPACE
from puna.data.kernels.utf8 import decode, kind_of
from puna.data.pii_seeds import (
    ACCOUNT,
    DOTTED,
    EMAIL,
    FEWEST_DIGITS,
    FISCAL,
    HEXADECIMAL,
    LABELLED,
    LABELLED_GAP,
    NUMBER,
    NUMBER_GAP,
    SPELLED,
)

COLUMNS = 5  # text, kind of seed, first and last+1 character, digits
NO_SEED = -1
ZERO, NINE, DOT, COLON, AT = 0x30, 0x39, 0x2E, 0x3A, 0x40
LOWER_BIT = np.uint8(0x20)
DOTTED_GROUPS, DOTTED_DIGITS = 4, 3
HEX_GROUPS, HEX_COLONS, HEX_DIGITS = 3, 7, 4  # `MIN_IPV6_GROUPS` of `puna.data.pii`; colons and digits of a whole address


def _classes(members: dict[np.uint8, str]) -> np.ndarray:
    table = np.zeros(256, dtype=np.uint8)
    for bit, signs in members.items():
        table[list(signs.encode())] |= bit
    return table


def _first_signs() -> np.ndarray:
    table = np.zeros(256, dtype=np.uint8)
    table[0x80:] = WIDE
    for sign, signs in ((FIGURE, FIGURES), (CAPITAL, CAPITALS), (OPENING, "[({"), (AT_SIGN, "@"), (COLON_SIGN, ":")):
        table[list(signs.encode())] = sign
    return table


FIGURES, CAPITALS, SMALL = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"
UPPER, ALNUM, WORDLY, HEX, LOCAL, BETWEEN, FISCAL_DIGIT, FISCAL_MONTH = (np.uint8(1 << bit) for bit in range(8))
CLASS = _classes({
    UPPER: CAPITALS,
    ALNUM: FIGURES + CAPITALS,
    WORDLY: FIGURES + CAPITALS + SMALL + "_",
    HEX: FIGURES + "ABCDEFabcdef",
    LOCAL: FIGURES + CAPITALS + SMALL + "_.+'-",  # of the part of an address before the @
    BETWEEN: " ().-/",  # digits of one number
    FISCAL_DIGIT: FIGURES + "LMNPQRSTUV",
    FISCAL_MONTH: "ABCDEHLMPRST",
})  # fmt: skip
BEFORE_NUMBER = _classes({np.uint8(1): " \t\n\r\f\v\x1c\x1d\x1e\x1f.:#=+("})  # between a label and the first digit
LABEL_ENDS = _classes({np.uint8(1): "lnoestrxypLNOESTRXYP"})  # last letters of the labels of phone numbers
PLAIN, WIDE, FIGURE, CAPITAL, OPENING, AT_SIGN, COLON_SIGN = range(7)
SIGN = _first_signs()  # what a seed may begin with
_U, _F = UPPER, FISCAL_DIGIT
SPACED = np.uint8(0)  # in a shape: there may be one space
FISCAL_SHAPE = np.array(
    [_U] * 6 + [SPACED] + [_F] * 2 + [SPACED, FISCAL_MONTH] + [_F] * 2 + [SPACED, _U] + [_F] * 3 + [SPACED, _U], dtype=np.uint8
)
ACCOUNT_SHAPE = np.array(([SPACED] + [ALNUM] * 4) * 2, dtype=np.uint8)  # after country and check digits


@njit(cache=True, nogil=True)
def find_seeds(data, offsets, kind, rows):  # type: ignore[no-untyped-def]
    """Fill `rows`, int32 [seeds, COLUMNS], which has room for a seed every two bytes; returns the number of seeds.

    Seeds of one kind are in order within a text. `kind` is that of `puna.data.kernels.tables`.
    """
    count = 0
    for doc in range(len(offsets) - 1):
        begin, stop = offsets[doc], offsets[doc + 1]
        i, shift = begin, begin
        while i < stop:
            sign = SIGN[data[i]]
            if sign == PLAIN:
                i += 1
                continue
            if sign == WIDE:
                code, after = decode(data, i, stop)
                if not kind_of(kind, code) & DIGIT:
                    shift += after - i - 1
                    i = after
                    continue
            if sign in (WIDE, FIGURE):
                i, shift, count = _number(data, begin, stop, kind, i, shift, doc, rows, count)
                continue
            what, start, end = _seed_at(data, begin, stop, kind, i, sign)
            if what != NO_SEED:
                count = _put(rows, count, doc, what, start - shift, end - shift, 0)
            i += 1
    return count


@njit(cache=True, nogil=True)
def _put(rows, count, doc, kind, start, end, digits):  # type: ignore[no-untyped-def]
    row = rows[count]
    row[0], row[1], row[2], row[3], row[4] = doc, kind, start, end, digits
    return count + 1


@njit(cache=True, nogil=True)
def _seed_at(data, begin, stop, kind, i, sign):  # type: ignore[no-untyped-def]
    """Kind and bytes of the seed that the sign at `i` tells of, or NO_SEED; all signs within are of one byte."""
    if sign == AT_SIGN:
        if i > begin and i + 1 < stop and CLASS[data[i + 1]] & WORDLY and (CLASS[data[i - 1]] & LOCAL or data[i - 1] >= 0x80):
            return EMAIL, i, i + 1
    elif sign == OPENING:
        if i + 3 < stop and (data[i + 1] | LOWER_BIT) == 0x61 and (data[i + 2] | LOWER_BIT) == 0x74:
            closing = data[i + 3]
            if closing == 0x5D or closing == 0x29 or closing == 0x7D:
                return SPELLED, i, i + 4
    elif sign == COLON_SIGN:
        return _hexadecimal(data, begin, stop, i)
    elif i + 1 < stop and CLASS[data[i + 1]] & UPPER and (i == begin or not CLASS[data[i - 1]] & WORDLY):
        if _has_shape(data, i, stop, FISCAL_SHAPE):
            return FISCAL, i, i + 1
        after = _digit(data, _digit(data, i + 2, stop, kind), stop, kind)
        if after > 0 and _has_shape(data, after, stop, ACCOUNT_SHAPE):
            return ACCOUNT, i, i + 1
    return NO_SEED, i, i


@njit(cache=True, nogil=True)
def _hexadecimal(data, begin, stop, i):  # type: ignore[no-untyped-def]
    """The whole run of hexadecimal digits and colons whose first colon is at `i`, when it may be an address."""
    start = i
    while start > begin and i - start <= HEX_DIGITS and CLASS[data[start - 1]] & HEX:
        start -= 1
    if i - start > HEX_DIGITS:
        return NO_SEED, i, i
    if start > begin and (CLASS[data[start - 1]] & WORDLY or data[start - 1] == COLON or data[start - 1] == DOT):
        return NO_SEED, i, i
    end, colons, groups, digits = start, 0, 0, 0
    short = False
    while end < stop and digits <= HEX_DIGITS:
        if data[end] == COLON:
            short |= end > start and data[end - 1] == COLON
            colons += 1
            digits = 0
        elif CLASS[data[end]] & HEX:
            groups += digits == 0
            digits += 1
        else:
            break
        end += 1
    if digits > HEX_DIGITS or (end < stop and CLASS[data[end]] & WORDLY):
        return NO_SEED, i, i
    if groups >= HEX_GROUPS and (short or colons == HEX_COLONS):
        return HEXADECIMAL, start, end
    return NO_SEED, i, i


@njit(cache=True, nogil=True)
def _has_shape(data, i, stop, shape):  # type: ignore[no-untyped-def]
    """Whether the text from `i` on has signs of these classes."""
    for wanted in shape:
        if i < stop and wanted == SPACED:
            i += data[i] == 0x20
        elif i < stop and CLASS[data[i]] & wanted:
            i += 1
        else:
            return False
    return True


@njit(cache=True, nogil=True)
def _digit(data, i, stop, kind):  # type: ignore[no-untyped-def]
    """The byte after the digit at `i`; -1 where there is none, or `i` is -1."""
    if i < 0 or i >= stop:
        return np.int64(-1)
    if data[i] < 0x80:
        return np.int64(i + 1) if ZERO <= data[i] <= NINE else np.int64(-1)
    code, after = decode(data, i, stop)
    return np.int64(after) if kind_of(kind, code) & DIGIT else np.int64(-1)


@njit(cache=True, nogil=True)
def _number(data, begin, stop, kind, i, shift, doc, rows, count):  # type: ignore[no-untyped-def]
    """Put the seeds of the digits from `i` on; returns the byte after the last digit, its shift and the number of seeds."""
    first_byte, first = i, i - shift
    start, last_end, total, digits, gap = first, first, 0, 0, 0
    group, groups, dotted = 0, 1, False
    last, last_shift = i, shift
    while i < stop and gap <= LABELLED_GAP:
        after = _digit(data, i, stop, kind)
        if after < 0:
            if not CLASS[data[i]] & BETWEEN:
                break
            gap += 1
            i += 1
            continue
        if gap > NUMBER_GAP:
            count = _put_number(rows, count, doc, start, last_end, digits, dotted)
            start, digits, dotted = i - shift, 0, False
        if gap:
            groups = groups + 1 if gap == 1 and data[i - 1] == DOT and group <= DOTTED_DIGITS else 1
            group = 0
        dotted |= groups >= DOTTED_GROUPS
        total += 1
        digits += 1
        group += 1
        gap = 0
        shift += after - i - 1
        i = after
        last, last_shift, last_end = i, shift, i - shift
    count = _put_number(rows, count, doc, start, last_end, digits, dotted)
    if total >= FEWEST_DIGITS:
        chars = _to_label(data, begin, first_byte, kind)
        if chars >= 0:
            count = _put(rows, count, doc, LABELLED, first - chars, last_end, total)
    return last, last_shift, count


@njit(cache=True, nogil=True)
def _put_number(rows, count, doc, start, end, digits, dotted):  # type: ignore[no-untyped-def]
    if digits >= FEWEST_DIGITS:
        count = _put(rows, count, doc, NUMBER, start, end, digits)
    if dotted:
        count = _put(rows, count, doc, DOTTED, start, end, digits)
    return count


@njit(cache=True, nogil=True)
def _to_label(data, begin, i, kind):  # type: ignore[no-untyped-def]
    """Characters between the digit at `i` and the word before it; -1 when that is no label of a phone number."""
    chars = 0
    while i > begin:
        previous = i - 1
        while previous > begin and (data[previous] & 0xC0) == 0x80:
            previous -= 1
        if data[previous] < 0x80:
            if not BEFORE_NUMBER[data[previous]]:
                return chars if LABEL_ENDS[data[previous]] else -1
        else:
            code, _ = decode(data, previous, i)
            bits = kind_of(kind, code)
            if not bits & SPACE:
                return -1 if bits & DIGIT else chars
        chars += 1
        i = previous
    return -1
