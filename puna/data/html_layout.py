"""The content of a page as text: a block a line, cells of a row between tabs, code and preformatted text as they are.

White space follows the rules browsers apply when they render: runs collapse, lines begin and end without blanks, only `pre`
keeps what is written. Code and formulas are enclosed in two control characters, so that what later removes markdown markers
leaves them alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.html_nodes import (
    BLOCK,
    BREAK,
    CELL,
    CODE,
    CODE_BOX,
    DEFINITIONS,
    FORMULA,
    HEADING,
    IMAGE,
    ITEM,
    KEEPS_SPACE,
    LIST,
    PARAGRAPH,
    PRE,
    QUOTE,
    ROW,
    RULE,
    TABLE,
    TEXT,
)
from puna.data.kernels.decorators import inlined, kernel

OPEN, CLOSE = 2, 3  # control characters around code
LONG_CELL = 200  # bytes of text; a longer cell with line breaks is layout and no datum
NOTHING, SPACE, LINE, BLANK = range(4)  # what stands between what was written and what comes next
STATE = 9


@njit(cache=True, nogil=True)
def layout_rows(kind, parent, flags, text):
    """int8 [nodes]: 1 for rows and cells of tables that only lay out the page.

    Their cells hold several blocks, long text with line breaks, or lines of code.
    """
    count = len(kind)
    blocks, breaks = np.zeros(count, np.int32), np.zeros(count, np.int32)
    layout = np.zeros(count, np.int8)
    for node in range(count - 1, 0, -1):
        above, what = parent[node], kind[node]
        if what == CELL:
            if blocks[node] > 1 or (breaks[node] and text[node] > LONG_CELL) or flags[node] & KEEPS_SPACE:
                layout[above] = layout[node] = 1
            continue
        blocks[above] += blocks[node] + (what in (BLOCK, PARAGRAPH)) + 2 * (what in (LIST, TABLE, PRE, HEADING))
        breaks[above] += breaks[node] + (what == BREAK)
    for node in range(1, count):
        if kind[node] == CELL:
            layout[node] |= layout[parent[node]]
    return layout


@kernel
def write_text(source, kind, section, parent, last, start, end, flags, kept, layout, out, state):
    """Write the text of the kept nodes as UTF-8.

    Args:
        out: uint8, room for all of `source` and 8 bytes more for every node.
        state: int64 [STATE], zero before.

    Returns:
        The size of the text.
    """
    # state: size, pending, tabs, hard blanks, code depth, pre depth, cell depth, whether code is open, cells of the row so far
    count, open_node = len(kind), 0
    for node in range(1, count):
        while last[open_node] <= node:
            _leave(kind, section, flags, kept, layout, open_node, out, state)
            open_node = parent[open_node]
        if kind[node] == TEXT:
            if kept[node]:
                _write(source, start[node], end[node], out, state)
            continue
        open_node = node
        if kept[node]:
            _enter(source, kind, section, start, end, flags, layout, node, out, state)
    while open_node > 0:
        _leave(kind, section, flags, kept, layout, open_node, out, state)
        open_node = parent[open_node]
    return state[0]


@kernel
def close_up(text, keep_markers):
    """Take the control characters around code out of a written text, in place.

    Returns:
        The new size; -1, with nothing changed, where something outside code may be a markdown marker (`puna.data.markers`).
    """
    size, inside, changed = 0, False, False
    for position in range(len(text)):
        byte = text[position]
        if byte in (OPEN, CLOSE):
            inside, changed = byte == OPEN, True
            continue
        if not (keep_markers or inside) and _may_mark(text, position):
            return -1
        size += 1
    if changed:
        size = 0
        for byte in text:
            if byte != OPEN and byte != CLOSE:
                text[size] = byte
                size += 1
    return size


@kernel
def _may_mark(text, position):
    byte = text[position]
    if byte == 42 or byte == 96:  # * `
        return True
    before = text[position - 1] if position else np.uint8(10)
    if byte == 35:  # a # that begins a line
        return before == 10
    if byte == 40 or byte == 91:  # a link ](, or TeX between \( or \[
        return before == 92 or (byte == 40 and before == 93)
    return byte == before and (byte == 95 or byte == 126 or byte == 36)  # __ ~~ $$


@inlined
def _gap(kind, section, node):
    """What separates the node from its neighbours."""
    what = kind[node]
    if what in (PARAGRAPH, HEADING, LIST, PRE) or section[node] in (QUOTE, DEFINITIONS):
        return BLANK
    if what in (TABLE, RULE):
        return BLANK
    return LINE if what in (BLOCK, ITEM, ROW, CELL) else NOTHING


@inlined
def _separate(state, gap):
    if state[6]:  # inside a datum of a table
        gap = min(gap, SPACE)
    state[1] = max(state[1], gap)
    if gap >= LINE:
        state[3] = 0


@kernel
def _enter(source, kind, section, start, end, flags, layout, node, out, state):
    what = kind[node]
    if what == CELL and not layout[node]:
        if state[8]:
            state[2] += 1
        state[8] += 1
        state[3] = 0
        state[6] += 1
    elif what == BREAK:
        if state[5]:
            _newline(out, state)
        else:
            _separate(state, LINE)
    else:
        _separate(state, _gap(kind, section, node))
        if what == ROW:
            state[2] = state[8] = 0
    if what in (PRE, CODE, FORMULA) or flags[node] & (KEEPS_SPACE | CODE_BOX):
        state[4] += 1
    if what == PRE or flags[node] & KEEPS_SPACE:
        state[5] += 1
    if what == IMAGE and end[node] > start[node] and not _is_file_name(source, start[node], end[node]):
        state[1] = max(state[1], SPACE)
        _write(source, start[node], end[node], out, state)
        state[1] = max(state[1], SPACE)


@kernel
def _leave(kind, section, flags, kept, layout, node, out, state):
    if not kept[node]:
        return
    what = kind[node]
    if what in (PRE, CODE, FORMULA) or flags[node] & (KEEPS_SPACE | CODE_BOX):
        state[4] -= 1
        if state[4] == 0 and state[7]:
            size = state[0]
            while size > 0 and out[size - 1] <= 32 and out[size - 1] != OPEN:
                size -= 1
            out[size] = CLOSE
            state[0] = size + 1
            state[7] = 0
    if what == PRE or flags[node] & KEEPS_SPACE:
        state[5] -= 1
    if what == CELL and not layout[node]:
        state[6] -= 1
        state[3] = 0
    elif what != BREAK:
        _separate(state, _gap(kind, section, node))
    if what == ROW:
        state[2] = state[8] = 0


@kernel
def _is_file_name(source, start, end):
    return end - start > 4 and (source[end - 4] == 46 or source[end - 5] == 46) and source[end - 1] not in (46, 41)


@kernel
def _newline(out, state):
    """A line end inside preformatted text; blanks before it go, and so does one where a block ended the line already."""
    if state[1] >= LINE:
        return
    _flush(out, state)
    size = state[0]
    while size > 0 and (out[size - 1] == 32 or out[size - 1] == 9):
        size -= 1
    out[size] = 10
    state[0] = size + 1


@kernel
def _flush(out, state):
    """Write what separates, before something visible is written."""
    size, gap = state[0], state[1]
    if size > 0 and gap >= LINE:
        ends = 0
        while ends < 2 and size > ends and out[size - 1 - ends] == 10:
            ends += 1
        for _ in range(gap - 1 - ends):
            out[size] = 10
            size += 1
    for _ in range(state[2]):
        out[size] = 9
        size += 1
    if state[3]:
        for _ in range(state[3]):
            out[size] = 32
            size += 1
    elif gap == SPACE and size > 0 and not state[2] and (out[size - 1] > 32 or out[size - 1] == CLOSE):
        out[size] = 32
        size += 1
    if state[4] and not state[7]:
        out[size] = OPEN
        size += 1
        state[7] = 1
    state[0], state[1], state[2], state[3] = size, NOTHING, 0, 0


@kernel
def _write(source, start, end, out, state):
    position = start
    pre = state[5] > 0
    while position < end:
        byte = source[position]
        width = 1
        if byte == 38:  # the serialiser escapes four signs and the quote
            following = source[position + 1] if position + 1 < end else np.uint8(0)
            if following == 97:
                width = 5
            elif following == 108:
                byte, width = np.uint8(60), 4
            elif following == 103:
                byte, width = np.uint8(62), 4
            elif following == 113:
                byte, width = np.uint8(34), 6
            elif following == 110:
                byte, width = np.uint8(160), 6
        elif byte == 0xC2 or byte == 0xE2 or byte == 0xEF or byte == 0x7F:
            byte, width = _unseen(source, position, end)
        if byte == 0:  # nothing to see
            position += width
            continue
        if byte == 160 and width > 1:
            if pre:
                _put(out, state, np.uint8(32))
            elif state[4] or (state[1] < LINE and state[0] > 0 and not state[2]):
                state[3] += 1
        elif byte > 32:
            _put(out, state, byte)
            if width == 1:
                position = _run(source, position, end, out, state)
        elif width == 3:
            _put(out, state, np.uint8(32))
        elif pre and byte == 10:
            _newline(out, state)
        elif pre and (byte == 32 or byte == 9):
            _put(out, state, byte)
        elif byte in (32, 9, 10, 12):
            state[1] = max(state[1], SPACE)
        position += width


@inlined
def _run(source, position, end, out, state):
    """Copy what follows the visible byte at `position` while it is plain; returns the position of the last byte taken."""
    size = state[0]
    while position + 1 < end:
        byte = source[position + 1]
        if byte <= 32 or byte == 38 or byte == 0xC2 or byte == 0xE2 or byte == 0xEF or byte == 0x7F:
            break
        out[size] = byte
        size += 1
        position += 1
    state[0] = size
    return position


@inlined
def _unseen(source, position, end):
    """(byte, width) at `position`: 0 for what has no picture (controls, soft hyphen, zero-width space, byte order mark), 160 for
    the no-break space, 32 for the figure space and the narrow no-break space, the byte itself for all else."""
    byte = source[position]
    if byte == 0x7F:
        return np.uint8(0), 1
    second = source[position + 1] if position + 1 < end else np.uint8(0)
    if byte == 0xC2:
        if second == 0xA0:
            return np.uint8(160), 2
        return (np.uint8(0), 2) if 0x80 <= second <= 0x9F or second == 0xAD else (byte, 1)
    third = source[position + 2] if position + 2 < end else np.uint8(0)
    if byte == 0xE2 and second == 0x80:
        if third == 0x87 or third == 0xAF:
            return np.uint8(32), 3
        return (np.uint8(0), 3) if third == 0x8B else (byte, 1)
    return (np.uint8(0), 3) if byte == 0xEF and second == 0xBB and third == 0xBF else (byte, 1)


@inlined
def _put(out, state, byte):
    if state[1] or state[2] or state[3] or (state[4] and not state[7]):
        _flush(out, state)
    out[state[0]] = byte
    state[0] += 1
