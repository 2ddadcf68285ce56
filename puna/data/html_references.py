"""Character references (`&eacute;`, `&#8217;`) to the characters they stand for, and back to the few that markup needs.

The table is the standard's (Python's `html.entities`), but for names of two characters and names without a semicolon: a page
with one of these is left to the parser.
"""

from __future__ import annotations

from functools import reduce
from html.entities import html5

import numpy as np

from puna.data.html_bounds import hash_table, look_up
from puna.data.kernels.decorators import kernel

OFFSET, PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a
LONGEST = 32
MASK = (1 << 64) - 1


def _table() -> tuple[np.ndarray, np.ndarray]:
    """The names with one code point each."""
    single = {name[:-1]: ord(value) for name, value in html5.items() if name.endswith(";") and len(value) == 1}
    return hash_table({reduce(_hash_step, name.encode(), int(OFFSET)): point for name, point in single.items()})


def _hash_step(value: int, byte: int) -> int:
    return ((value ^ byte) * int(PRIME)) & MASK


KEYS, POINTS = _table()


@kernel
def write_reference(text, position, out, size, quoted):
    """Write what the `&` at `position` begins, escaped again where it must be; a double quote must where it is `quoted`.

    Returns:
        The position after the reference and the new size of `out`; -1 as position where only a parser can tell.
    """
    following = text[position + 1] if position + 1 < len(text) else np.uint8(32)
    if following == 35:
        point, after = _number(text, position + 2)
    elif 97 <= (following | 32) <= 122:
        point, after = _name(text, position + 1)
    elif 48 <= following <= 57:
        point, after = np.int64(-1), position
    else:
        return position + 1, write_escaped(np.int64(38), out, size)
    if point < 0:
        return -1, size
    if point == 34 and not quoted:
        out[size] = 34
        return after, size + 1
    return after, write_escaped(point, out, size)


@kernel
def _name(text, begin):
    """(code point, position after the semicolon) of a name; -1 where there is no such name."""
    key, position = OFFSET, begin
    while position < len(text) and position - begin < LONGEST:
        byte = text[position]
        if byte == 59:
            point = look_up(KEYS, POINTS, key)
            return point, position + 1
        if not (97 <= (byte | 32) <= 122 or 48 <= byte <= 57):
            break
        key = (key ^ np.uint64(byte)) * PRIME
        position += 1
    return np.int64(-1), position


@kernel
def _number(text, begin):
    """(code point, position after the semicolon) of a number; -1 for one that the standard replaces."""
    hexadecimal = begin < len(text) and text[begin] | 32 == 120
    position = begin + hexadecimal
    first, value = position, np.int64(0)
    while position < len(text) and position - first < 8:
        byte = np.int64(text[position])
        if 48 <= byte <= 57:
            digit = byte - 48
        elif hexadecimal and 97 <= (byte | 32) <= 102:
            digit = (byte | 32) - 87
        else:
            break
        value = value * (16 if hexadecimal else 10) + digit
        position += 1
    sound = 9 <= value < 0x80 or 0xA0 <= value < 0xD800 or 0xE000 <= value < 0x110000
    # an end of line is skipped after <pre>, and a carriage return is replaced
    if not sound or value in (10, 13) or position == first or position >= len(text) or text[position] != 59:
        return np.int64(-1), position
    return value, position + 1


@kernel
def write_escaped(point, out, size):
    """Write a code point in UTF-8; markup signs, the double quote and the no-break space as references. Returns the new size."""
    if point in (34, 38, 60, 62, 160):
        if point == 34:
            size = _letters(out, size, 113, 117, 111, 116)  # quot
        elif point == 38:
            size = _letters(out, size, 97, 109, 112, 0)  # amp
        elif point == 160:
            size = _letters(out, size, 110, 98, 115, 112)  # nbsp
        else:
            size = _letters(out, size, 108 if point == 60 else 103, 116, 0, 0)  # lt, gt
    elif point < 0x80:
        out[size] = point
        size += 1
    elif point < 0x800:
        out[size], out[size + 1] = 0xC0 | (point >> 6), 0x80 | (point & 0x3F)
        size += 2
    elif point < 0x10000:
        out[size], out[size + 1], out[size + 2] = 0xE0 | (point >> 12), 0x80 | ((point >> 6) & 0x3F), 0x80 | (point & 0x3F)
        size += 3
    else:
        out[size], out[size + 1] = 0xF0 | (point >> 18), 0x80 | ((point >> 12) & 0x3F)
        out[size + 2], out[size + 3] = 0x80 | ((point >> 6) & 0x3F), 0x80 | (point & 0x3F)
        size += 4
    return size


@kernel
def _letters(out, size, first, second, third, fourth):
    out[size] = 38
    size += 1
    for letter in (first, second, third, fourth):
        if letter:
            out[size] = letter
            size += 1
    out[size] = 59
    return size + 1
