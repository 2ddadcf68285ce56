"""Text, white space and tags copied for `html_nested`, tags with the attributes that are read later, and the state they share."""

from __future__ import annotations

import numpy as np

from puna.data.html_bounds import attribute_value, hash_range, look_up, name_table
from puna.data.html_references import write_escaped, write_reference
from puna.data.kernels.decorators import inlined, kernel

SIZE, DEPTH, PHASE, FAILED, PARAGRAPHS, ITEMS, LINKS, BUTTONS, FORMS, HEAD_ENDED = range(10)  # of `state`
STATE = 10
MAX_DEPTH = 400
ROOM = 4 * MAX_DEPTH + 64  # bytes that must be left before a token, which may close everything; what is longer asks for itself
BEFORE, INSIDE, AFTER = range(3)  # the body: values of PHASE
READ = ("class", "id", "role", "style", "hidden", "alt", "itemprop")
READ_KEYS, READ_CODES = name_table({name: 1 << place for place, name in enumerate(READ)})


@inlined
def is_tag(text, position):
    """Whether a start or end tag begins here."""
    if text[position] != 60 or position + 1 >= len(text):
        return False
    byte = text[position + 1]
    if byte == 47 and position + 2 < len(text):
        byte = text[position + 2]
    return 97 <= byte <= 122 or 65 <= byte <= 90


@kernel
def blank(text, position, out, state):
    """White space where no text may stand; it is kept in the body and after it, as the standard has it."""
    while position < len(text) and not is_tag(text, position):
        if text[position] not in (9, 10, 12, 13, 32) or state[SIZE] + ROOM > len(out):
            state[FAILED] = 1
            return len(text)
        if state[PHASE] != BEFORE:
            out[state[SIZE]] = text[position]
            state[SIZE] += 1
        position += 1
    return position


@kernel
def plain_text(text, position, out, state):
    """Text up to the next tag, references read and markup signs escaped; returns the position after it."""
    size = state[SIZE]
    while position < len(text):
        byte = text[position]
        if byte == 60 and is_tag(text, position):
            break
        if size + ROOM > len(out) or byte == 0:
            state[FAILED] = 1
            return len(text)
        if byte == 38:
            position, size = write_reference(text, position, out, size, False)
            if position < 0:
                state[FAILED] = 1
                return len(text)
        elif byte == 60 or byte == 62 or (byte == 0xC2 and position + 1 < len(text) and text[position + 1] == 0xA0):
            size = write_escaped(np.int64(160) if byte == 0xC2 else np.int64(byte), out, size)
            position += 2 if byte == 0xC2 else 1
        else:
            out[size] = byte
            size += 1
            position += 1
    state[SIZE] = size
    return position


@kernel
def after_raw(text, position, key):
    """Position after the end tag of the raw element of this name; -1 where there is none."""
    while position + 1 < len(text):
        if text[position] == 60 and text[position + 1] == 47:
            stop = position + 2
            while stop < len(text) and text[stop] > 32 and text[stop] != 47 and text[stop] != 62:
                stop += 1
            if hash_range(text, position + 2, stop) == key:
                while stop < len(text) and text[stop] != 62:
                    stop += 1
                return stop + 1
        position += 1
    return -1


@kernel
def write_tag(text, position, name_end, out, state):
    """Write a start tag with the attributes that are read later; returns the position after it."""
    size = state[SIZE]
    if size + 2 * (name_end - position) + ROOM > len(out):
        state[FAILED] = 1
        return len(text)
    for index in range(position, name_end):
        out[size] = text[index]
        size += 1
    place, written = name_end, 0
    while place < len(text) and text[place] != 62:
        if text[place] <= 32 or text[place] == 47:
            place += 1
            continue
        begin = place
        place += 1
        while place < len(text) and text[place] > 32 and text[place] not in (47, 61, 62):
            place += 1
        stop = place
        code = look_up(READ_KEYS, READ_CODES, hash_range(text, begin, stop))
        value, value_end, place = attribute_value(text, place)
        if code > 0 and not written & code:  # of two attributes of one name the first counts
            written |= code
            size = _write_attribute(text, begin, stop, value, value_end, out, size)
            if size < 0:
                state[FAILED] = 1
                return len(text)
    state[FAILED] |= place >= len(text)
    out[size] = 62
    state[SIZE] = size + 1
    return place + 1


@kernel
def _write_attribute(text, begin, stop, value, value_end, out, size):
    """Write ` name="value"`; returns the new size, -1 where a character reference needs a parser or there is no room."""
    if size + ROOM > len(out):
        return -1
    out[size] = 32
    size += 1
    for index in range(begin, stop):
        out[size] = text[index]
        size += 1
    out[size], out[size + 1] = 61, 34
    size += 2
    while value < value_end:
        byte = text[value]
        if size + ROOM > len(out) or byte == 0 or byte == 13:
            return -1
        if byte == 38:
            value, size = write_reference(text, value, out, size, True)
            if value < 0 or value > value_end:
                return -1
        elif byte == 34:
            size = write_escaped(np.int64(34), out, size)
            value += 1
        else:
            out[size] = byte
            size += 1
            value += 1
    out[size] = 34
    return size + 1
