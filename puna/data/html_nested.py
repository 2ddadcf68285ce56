"""Pages whose tags are closed where they ought to be, written out as a parser would, without a parser.

The tree that the HTML standard (WHATWG, section 13.2.6) builds is the nesting as written whenever no rule of repair applies, and
then parsing, serialising and reading again is three passes for nothing. One pass over the bytes keeps the stack of open elements
and gives up at the first token for which the standard asks for more than implied ends of p, li, dd, dt and of parts of a table,
an implied tbody or colgroup, void and raw elements. Of attributes only those stay that `html_nodes` reads, and what raw elements
(`textarea`, `title`, `iframe`) hold is left out, since nobody sees it.
"""

from __future__ import annotations

import numpy as np

from puna.data.html_bounds import end_of_name, hash_range, look_up, name_hash, name_table
from puna.data.html_tags import (
    AFTER,
    BEFORE,
    BUTTONS,
    DEPTH,
    FAILED,
    FORMS,
    HEAD_ENDED,
    INSIDE,
    ITEMS,
    LINKS,
    MAX_DEPTH,
    PARAGRAPHS,
    PHASE,
    ROOM,
    SIZE,
    STATE,
    after_raw,
    blank,
    is_tag,
    plain_text,
    write_tag,
)
from puna.data.kernels.decorators import inlined, kernel

# What the standard does with a tag of each kind.
(ORDINARY, VOID, RULE, BLOCK, PREFORMATTED, HEADING, FORMATTING, LINK, PARAGRAPH, ITEM, DEFINITION, TABLE, SECTION, ROW, CELL,
 CAPTION, COLUMNS, COLUMN, RAW, BUTTON, FORM, SELECT, RUBY_PART, HTML, HEAD, BODY, REFUSED) = range(27)  # fmt: skip
KINDS = {
    VOID: "area base basefont bgsound br embed img input keygen link meta param source track wbr",
    RULE: "hr",
    BLOCK: "address article aside blockquote center details dir div dl fieldset figcaption figure footer header hgroup main menu "
    "nav ol section summary ul",
    PREFORMATTED: "pre listing",
    HEADING: "h1 h2 h3 h4 h5 h6",
    FORMATTING: "b big code em font i s small strike strong tt u",
    LINK: "a",
    PARAGRAPH: "p",
    ITEM: "li",
    DEFINITION: "dd dt",
    TABLE: "table",
    SECTION: "tbody thead tfoot",
    ROW: "tr",
    CELL: "td th",
    CAPTION: "caption",
    COLUMNS: "colgroup",
    COLUMN: "col",
    RAW: "iframe noembed noframes textarea title",
    BUTTON: "button",
    FORM: "form",
    SELECT: "select",
    RUBY_PART: "rb rp rt rtc",
    HTML: "html",
    HEAD: "head",
    BODY: "body",
    # object and its like open a scope; the others change how everything after them is read
    REFUSED: "applet dialog frame frameset image isindex marquee math nobr object optgroup option plaintext script search style "
    "svg template xmp",
}
IN_HEAD = "base basefont bgsound link meta noscript title"
SPECIAL = "noscript"  # of the ordinary ones; blocks, parts of tables and the like are special all the same

HEAD_BIT = 64


def _tags() -> tuple[np.ndarray, np.ndarray]:
    entries = {name: kind for kind, names in KINDS.items() for name in names.split()}
    return name_table(entries | {name: entries.get(name, ORDINARY) | HEAD_BIT for name in IN_HEAD.split()})


TAG_KEYS, TAG_KINDS = _tags()
TBODY, COLGROUP, P = (np.frombuffer(name, dtype=np.uint8) for name in (b"tbody", b"colgroup", b"p"))
SPECIAL_HASH, SECTION_HASH, COLUMNS_HASH, RUBY_HASH, ADDRESS_HASH, DIV_HASH, SCRIPT_HASH, STYLE_HASH = (
    np.uint64(name_hash(name)) for name in (SPECIAL, "tbody", "colgroup", "ruby", "address", "div", "script", "style")
)


def serialised(source: bytes) -> bytes | None:
    """The body of a page as a parser would write it, with the attributes that matter; None when the page needs a parser.

    Args:
        source: what `puna.data.html_bounds.bounded` left of a page without formulas.
    """
    text = np.frombuffer(source, dtype=np.uint8)
    out = np.empty(2 * len(text) + 8 * ROOM, dtype=np.uint8)
    size = _serialise(text, out, np.zeros(STATE, np.int64), np.zeros(MAX_DEPTH, np.uint64), np.zeros(MAX_DEPTH, np.int64))
    return out[:size].tobytes() if size >= 0 else None


@kernel
def _serialise(text, out, state, keys, kinds):
    position = 0
    while position < len(text):
        if state[FAILED] or state[SIZE] + ROOM > len(out) or state[DEPTH] + 4 > MAX_DEPTH:
            return -1
        if is_tag(text, position):
            if text[position + 1] == 47:
                position = _end_tag(text, position, out, state, keys, kinds)
            else:
                position = _start_tag(text, position, out, state, keys, kinds)
        elif state[PHASE] != INSIDE or TABLE <= kinds[state[DEPTH] - 1] <= ROW or kinds[state[DEPTH] - 1] == COLUMNS:
            position = blank(text, position, out, state)
        else:
            position = plain_text(text, position, out, state)
    return -1 if state[FAILED] or state[PHASE] == BEFORE else state[SIZE]


@inlined
def _push(key, kind, state, keys, kinds):
    keys[state[DEPTH]], kinds[state[DEPTH]] = key, kind
    state[DEPTH] += 1
    _count(kind, 1, state)


@inlined
def _count(kind, by, state):
    if kind == PARAGRAPH:
        state[PARAGRAPHS] += by
    elif kind in (ITEM, DEFINITION):
        state[ITEMS] += by
    elif kind == LINK:
        state[LINKS] += by
    elif kind == BUTTON:
        state[BUTTONS] += by
    elif kind == FORM:
        state[FORMS] += by


@inlined
def _pop(out, state, kinds):
    """Close the innermost element; `html_nodes` does not ask for the name."""
    state[DEPTH] -= 1
    _count(kinds[state[DEPTH]], -1, state)
    size = state[SIZE]
    out[size], out[size + 1], out[size + 2] = 60, 47, 62
    state[SIZE] = size + 3


@kernel
def _open(name, key, kind, out, state, keys, kinds):
    """Open an element that nobody wrote."""
    size = state[SIZE]
    out[size] = 60
    for index in range(len(name)):
        out[size + 1 + index] = name[index]
    out[size + 1 + len(name)] = 62
    state[SIZE] = size + 2 + len(name)
    _push(key, kind, state, keys, kinds)


@kernel
def _close_implied(out, state, kinds, but):
    """Close what needs no end tag, except elements of the kind `but`."""
    while kinds[state[DEPTH] - 1] in (PARAGRAPH, ITEM, DEFINITION, RUBY_PART) and kinds[state[DEPTH] - 1] != but:
        _pop(out, state, kinds)


@kernel
def _close_paragraph(out, state, kinds):
    """Before a block: an open paragraph in scope ends; fails where something else is open inside it."""
    if state[PARAGRAPHS] == 0:
        return
    depth = state[DEPTH] - 1
    while depth >= 0 and kinds[depth] not in (TABLE, CELL, CAPTION, BUTTON):
        if kinds[depth] == PARAGRAPH:
            if depth == state[DEPTH] - 1:
                _pop(out, state, kinds)
            else:
                state[FAILED] = 1
            return
        depth -= 1


@kernel
def _close_item(kind, out, state, keys, kinds):
    """Before an li, dd or dt: the one before it ends; fails where something else is open inside that."""
    if state[ITEMS] == 0:
        return
    depth, clean = state[DEPTH] - 1, True
    while depth >= 0:
        what = kinds[depth]
        if what == kind:
            if not clean:
                state[FAILED] = 1
            while clean and state[DEPTH] > depth:
                _pop(out, state, kinds)
            return
        passing = what in (ORDINARY, FORMATTING, LINK, PARAGRAPH, RUBY_PART) or keys[depth] in (ADDRESS_HASH, DIV_HASH)
        if not passing or keys[depth] == SPECIAL_HASH:
            return
        clean = clean and what in (PARAGRAPH, RUBY_PART)
        depth -= 1


@kernel
def _link_open(state, kinds):
    """Whether a link is open since the last cell or caption: a second one would end it."""
    depth = state[DEPTH] - 1
    while state[LINKS] and depth >= 0 and kinds[depth] not in (CELL, CAPTION):
        if kinds[depth] == LINK:
            return True
        depth -= 1
    return False


@kernel
def _start_tag(text, position, out, state, keys, kinds):
    name_end = end_of_name(text, position + 1)
    key = hash_range(text, position + 1, name_end)
    code = max(look_up(TAG_KEYS, TAG_KINDS, key), 0)
    kind = code & (HEAD_BIT - 1)
    if state[PHASE] != INSIDE:
        begins_body = key == SPECIAL_HASH and state[HEAD_ENDED]
        if state[PHASE] == AFTER or begins_body or not (kind in (HTML, HEAD, BODY) or code & HEAD_BIT):
            state[FAILED] = 1
            return len(text)
        if kind == BODY:
            state[PHASE] = INSIDE
    else:
        _prepare(kind, out, state, keys, kinds)
    if state[FAILED]:
        return len(text)
    silent = state[PHASE] == BEFORE
    begin = state[SIZE]
    after = write_tag(text, position, name_end, out, state)
    if silent:
        state[SIZE] = begin
    elif kind not in (VOID, RULE, COLUMN, RAW):
        _push(key, kind, state, keys, kinds)
    if kind == RAW:
        after = after_raw(text, after, key)
        state[FAILED] |= after < 0
        if not silent:
            out[state[SIZE]], out[state[SIZE] + 1] = 60, 47
            for index in range(name_end - position - 1):
                out[state[SIZE] + 2 + index] = text[position + 1 + index]
            state[SIZE] += name_end - position + 1
            out[state[SIZE]] = 62
            state[SIZE] += 1
    elif kind == PREFORMATTED and after < len(text) and text[after] == 10:
        after += 1
    return after if after >= 0 else len(text)


@kernel
def _prepare(kind, out, state, keys, kinds):
    """What the standard does before it inserts an element of this kind into the body; fails where it would do more."""
    top = kinds[state[DEPTH] - 1]
    if top == COLUMNS and kind != COLUMN:
        _pop(out, state, kinds)
        top = kinds[state[DEPTH] - 1]
    if SECTION <= kind <= CELL or CAPTION <= kind <= COLUMN or TABLE <= top <= ROW or top == COLUMNS:
        _prepare_table(kind, out, state, keys, kinds)
    elif kind in (BLOCK, PREFORMATTED, RULE):
        _close_paragraph(out, state, kinds)
    elif kind == HEADING:
        _close_paragraph(out, state, kinds)
        state[FAILED] |= kinds[state[DEPTH] - 1] == HEADING
    elif kind in (ITEM, DEFINITION):
        _close_item(kind, out, state, keys, kinds)
        _close_paragraph(out, state, kinds)
    elif kind == PARAGRAPH:
        _close_paragraph(out, state, kinds)
    elif kind == TABLE:  # in a page without a doctype it would not end a paragraph
        depth = state[DEPTH]
        _close_paragraph(out, state, kinds)
        state[FAILED] |= depth != state[DEPTH]
    elif kind == LINK:
        state[FAILED] |= _link_open(state, kinds)
    elif kind == FORM:
        state[FAILED] |= state[FORMS] > 0
        _close_paragraph(out, state, kinds)
    elif kind == BUTTON:
        state[FAILED] |= state[BUTTONS] > 0
    elif kind == RUBY_PART:
        state[FAILED] |= keys[state[DEPTH] - 1] != RUBY_HASH
    elif kind in (HTML, HEAD, BODY, REFUSED):
        state[FAILED] = 1
    state[FAILED] |= top == SELECT


@kernel
def _prepare_table(kind, out, state, keys, kinds):
    """A tag inside a table: cells and rows end those before them, a row without a section gets one."""
    if kind in (SECTION, ROW, CELL):
        if kinds[state[DEPTH] - 1] not in (TABLE, SECTION, ROW):
            _close_implied(out, state, kinds, -1)
            if kinds[state[DEPTH] - 1] == CELL:
                _pop(out, state, kinds)
        if kind != CELL and kinds[state[DEPTH] - 1] == ROW:
            _pop(out, state, kinds)
        if kind == SECTION and kinds[state[DEPTH] - 1] == SECTION:
            _pop(out, state, kinds)
    top = kinds[state[DEPTH] - 1]
    if kind == ROW and top == TABLE:
        _open(TBODY, SECTION_HASH, SECTION, out, state, keys, kinds)
        top = SECTION
    elif kind == COLUMN and top == TABLE:
        _open(COLGROUP, COLUMNS_HASH, COLUMNS, out, state, keys, kinds)
        top = COLUMNS
    fits = (kind == CELL and top == ROW) or (kind == ROW and top == SECTION) or (kind == COLUMN and top == COLUMNS)
    state[FAILED] |= not (fits or (top == TABLE and kind in (SECTION, CAPTION, COLUMNS)))


@kernel
def _end_tag(text, position, out, state, keys, kinds):
    name_end = end_of_name(text, position + 2)
    key = hash_range(text, position + 2, name_end)
    kind = max(look_up(TAG_KEYS, TAG_KINDS, key), 0) & (HEAD_BIT - 1)
    after = name_end
    while after < len(text) and text[after] != 62:
        after += 1
    if key in (SCRIPT_HASH, STYLE_HASH):  # the element itself is gone, and an end tag alone means nothing
        return after + 1
    if state[PHASE] == INSIDE and kind != BODY and kind != HTML:
        if kind in (BLOCK, PREFORMATTED, HEADING, ITEM, DEFINITION, BUTTON, FORM) or TABLE <= kind <= CAPTION:
            _close_implied(out, state, kinds, kind)
        if TABLE <= kind <= ROW:
            _close_parts(kind, out, state, kinds)
        in_table = TABLE <= kinds[state[DEPTH] - 1] <= ROW or kinds[state[DEPTH] - 1] == COLUMNS
        if kind == PARAGRAPH and state[PARAGRAPHS] == 0 and not in_table:
            _open(P, key, kind, out, state, keys, kinds)  # an end alone makes an empty paragraph
        if keys[state[DEPTH] - 1] != key or state[DEPTH] < 2:
            state[FAILED] = 1
        else:
            _pop(out, state, kinds)
    elif kind == BODY and state[PHASE] == INSIDE:
        for depth in range(1, state[DEPTH]):
            state[FAILED] |= kinds[depth] not in (PARAGRAPH, ITEM, DEFINITION)
        state[PHASE] = AFTER
    else:
        in_head = state[PHASE] == BEFORE and (kind == HEAD or key == SPECIAL_HASH)
        state[FAILED] |= not in_head and not (kind == HTML and state[PHASE] == AFTER)
    state[HEAD_ENDED] |= kind == HEAD
    state[FAILED] |= after >= len(text)
    return after + 1


@kernel
def _close_parts(kind, out, state, kinds):
    """Before the end of a row, section or table: the parts that are open inside it end."""
    top = kinds[state[DEPTH] - 1]
    while (top in (CELL, COLUMNS) or SECTION <= top <= ROW) and top != kind:
        if top == SECTION and kind != TABLE:
            return
        _pop(out, state, kinds)
        top = kinds[state[DEPTH] - 1]
