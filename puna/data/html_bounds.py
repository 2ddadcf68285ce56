"""A page rewritten so that parsing it takes bounded time and memory, whatever it holds.

A parser that follows the HTML standard is not linear: every paragraph repeats the formatting elements left open before it, every
closing tag searches the open elements, every attribute is compared with the others of its tag. A page of 130 KB can cost a
minute and gigabytes. One pass over the bytes (0.1 ms for 36 KB) leaves out what cannot matter, scripts, styles, comments,
drawings and attributes that nobody reads, and takes away what makes the parser slow, and ends the page where the budget of tags
ends. Known pipelines fork a child for every page and kill it after a timeout; here the same page gives the same text on every
machine.
"""

from __future__ import annotations

import numpy as np

from puna.data.kernels.decorators import inlined, kernel

MAX_TAGS = 60_000  # of a page; the worst page found by search takes half a second with so many
MAX_ATTRIBUTES = 48  # of one tag

# The parser keeps at most three open formatting elements that are equal in name and attributes, so that without
# attributes their number is bounded. A link ends the link before it and may keep its own.
FORMATTING = ("b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u")
LEFT_OUT = ("option", "optgroup")  # tags only: thousands of them in one list are slow, and the list is no content
ONCE = ("html", "body")  # a second one only merges its attributes into the first
RAW = ("textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext")  # what they hold is no markup
REMOVED = ("script", "style")  # with what they hold
DRAWING = "svg"
OPENS = ("p", "br")  # an end tag without a start tag makes an element of these; of others it says nothing and is slow
SLOTS = 256  # names are told apart by this many hashes

S32, ZERO, ONE = np.uint64(32), np.uint64(0), np.uint64(1)

_PLAIN, _FORMATTING, _LEFT_OUT, _ONCE, _RAW, _REMOVED, _DRAWING, _OPENS = range(8)

# attributes that extraction reads, that tell formulas from other things, or that change how a parser builds the tree
READ = "class id role style hidden alt itemprop type encoding alttext data-latex display mode open close"

# What a page says of formulas, seen on the way; without the sign nobody needs to look for the thing.
SCRIPT_SIGN, RENDERED_SIGN, MATH_SIGN, PICTURE_SIGN = 1, 2, 4, 8


def name_hash(name: str) -> int:
    """FNV-1a of a lower-case ASCII name, as `hash_range` computes it from bytes."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def name_table(entries: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The codes of some names, for `look_up`."""
    return hash_table({name_hash(name): code for name, code in entries.items()})


def hash_table(codes: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Open table of 64-bit hashes (uint64, 0 where free) and their codes (int64), a quarter full at most."""
    slots = 1 << (4 * len(codes)).bit_length()
    keys, values = np.zeros(slots, dtype=np.uint64), np.zeros(slots, dtype=np.int64)
    for key, code in codes.items():
        slot = (key ^ (key >> 32)) & (slots - 1)
        while keys[slot]:
            slot = (slot + 1) & (slots - 1)
        keys[slot], values[slot] = key, code
    return keys, values


@inlined
def hash_range(text, start, end):
    """FNV-1a of text[start:end] with ASCII letters lowered."""
    value = np.uint64(0xCBF29CE484222325)
    for position in range(start, end):
        byte = text[position]
        if 65 <= byte <= 90:
            byte += np.uint8(32)
        value = (value ^ np.uint64(byte)) * np.uint64(0x100000001B3)
    return value


@inlined
def look_up(keys, codes, key):
    """The code of a hash, or -1."""
    mask = np.uint64(len(keys) - 1)
    slot = (key ^ (key >> S32)) & mask
    while keys[slot] != key:
        if keys[slot] == ZERO:
            return np.int64(-1)
        slot = (slot + ONE) & mask
    return codes[slot]


def _tag_table() -> tuple[np.ndarray, np.ndarray]:
    kinds = {
        _FORMATTING: FORMATTING,
        _LEFT_OUT: LEFT_OUT,
        _ONCE: ONCE,
        _RAW: RAW,
        _REMOVED: REMOVED,
        _DRAWING: (DRAWING,),
        _OPENS: OPENS,
    }
    return name_table({name: kind * 64 + index for kind, names in kinds.items() for index, name in enumerate(names)})


KEYS, CODES = _tag_table()
READ_KEYS, READ_CODES = name_table(dict.fromkeys(READ.split(), 1))
CLASS_HASH, MATH_HASH, PICTURE_HASH, CONTAINER_HASH = (
    np.uint64(name_hash(name)) for name in ("class", "math", "img", "mjx-container")
)


def bounded(source: bytes) -> tuple[bytes, int]:
    """The page without styles, comments, drawings and scripts (TeX ones stay), within the bounds of this file.

    Args:
        source: HTML in UTF-8.

    Returns:
        The page, and which of SCRIPT_SIGN, RENDERED_SIGN, MATH_SIGN and PICTURE_SIGN it has.
    """
    text = np.frombuffer(source, dtype=np.uint8)
    out = np.empty(2 * len(text) + 64, dtype=np.uint8)  # a blank may be added before an attribute and before the slash of a tag
    size, signs = _rewrite(text, out, KEYS, CODES, np.zeros(SLOTS, np.int64))
    return out[:size].tobytes(), int(signs)


@kernel
def _find(text, start, first, second):
    """Position of the byte pair (first, second) at or after start; the end where there is none."""
    for position in range(start, len(text) - 1):
        if text[position] == first and text[position + 1] == second:
            return position
    return len(text)


@inlined
def _is_letter(byte):
    return 97 <= byte <= 122 or 65 <= byte <= 90


@inlined
def end_of_name(text, start):
    """Where the name of the tag that begins at `start` ends."""
    end = start
    while end < len(text) and text[end] > 32 and text[end] != 47 and text[end] != 62:
        end += 1
    return end


@kernel
def _copy_tag(text, position, name_end, bare, out, size):
    """Copy a tag with the attributes that somebody reads, none where `bare`.

    Returns:
        Position after the tag's `>`, the new size, and the signs of formulas in its class.
    """
    size = _copy(text, position, name_end, out, size)
    place, attributes, signs, slash = name_end, 0, 0, False
    while place < len(text) and text[place] != 62:
        if text[place] <= 32 or text[place] == 47:
            slash = text[place] == 47
            place += 1
            continue
        slash = False
        attributes += 1
        begin = place
        place += 1
        while place < len(text) and text[place] > 32 and text[place] not in (47, 61, 62):
            place += 1
        name = hash_range(text, begin, place)
        value, value_end, place = attribute_value(text, place)
        place = min(place, len(text))
        if name == CLASS_HASH:
            signs |= _class_signs(text, value, value_end)
        if not bare and attributes <= MAX_ATTRIBUTES and look_up(READ_KEYS, READ_CODES, name) > 0:
            out[size] = 32
            size = _copy(text, begin, place, out, size + 1)
    if slash and not bare:  # it ends elements of MathML
        out[size], out[size + 1] = 32, 47
        size += 2
    if place < len(text):
        out[size] = 62
        size += 1
    return min(place + 1, len(text)), size, signs


@inlined
def attribute_value(text, place):
    """(begin, end) of the value of an attribute whose name ended at `place`, and the position after it."""
    following = place
    while following < len(text) and text[following] <= 32:
        following += 1
    if following >= len(text) or text[following] != 61:
        return place, place, place
    place = following + 1
    while place < len(text) and text[place] <= 32:
        place += 1
    if place < len(text) and (text[place] == 34 or text[place] == 39):
        begin = place + 1
        stop = begin
        while stop < len(text) and text[stop] != text[place]:
            stop += 1
        return begin, stop, stop + 1
    begin = place
    while place < len(text) and text[place] > 32 and text[place] != 62:
        place += 1
    return begin, place, place


@inlined
def _class_signs(text, start, end):
    """RENDERED_SIGN and PICTURE_SIGN for what a class may mean; the tag decides which of them counts."""
    signs, key = 0, np.uint64(0)
    for position in range(start, end):
        byte = text[position]
        if 65 <= byte <= 90:
            byte += np.uint8(32)
        key = (key << np.uint64(8)) | np.uint64(byte)
        if byte == 120 or byte == 104:  # an x or an h ends "tex" and "math"
            if (key & np.uint64(0xFFFFFF)) == np.uint64(0x746578) or (key & np.uint64(0xFFFFFFFF)) == np.uint64(0x6D617468):
                signs |= PICTURE_SIGN
            if (key & np.uint64(0xFFFFFFFFFF)) == np.uint64(0x6B61746578) or key == np.uint64(0x6D77652D6D617468):
                signs |= RENDERED_SIGN  # "katex", "mwe-math"
            elif (key & np.uint64(0xFFFFFFFFFFFFFF)) == np.uint64(0x6D6174686A6178):
                signs |= RENDERED_SIGN  # "mathjax"
    return signs


@inlined
def _tag_signs(name, in_class):
    if name == MATH_HASH:
        return MATH_SIGN
    if name == PICTURE_HASH:
        return in_class
    return RENDERED_SIGN if name == CONTAINER_HASH else in_class & RENDERED_SIGN


@kernel
def _element_end(text, start, name_start, name_end):
    """Where the end tag of the element of that name begins at or after start; the end of the text where there is none."""
    length, name = name_end - name_start, hash_range(text, name_start, name_end)
    position = start
    while True:
        position = _find(text, position, 60, 47)
        if position + 2 + length > len(text):
            return len(text)
        if hash_range(text, position + 2, position + 2 + length) == name:
            return position
        position += 2


@kernel
def _is_tex(text, start, end):
    """Whether the attributes of a script name the type math/tex or math/mml."""
    for position in range(start, end - 5):
        if text[position] == 109 and text[position + 1] == 97 and text[position + 2] == 116 and text[position + 4] == 47:
            return True
    return False


@kernel
def _comment_end(text, start):
    """Position after a comment, doctype, processing instruction or CDATA that begins at `start` with `<!` or `<?` or `</`."""
    if start + 3 < len(text) and text[start + 1] == 33 and text[start + 2] == 45 and text[start + 3] == 45:
        position = start + 4
        if position < len(text) and text[position] == 62:
            return position + 1
        position -= 2
        while True:
            position = _find(text, position, 45, 45)
            if position >= len(text):
                return len(text)
            after = position + 3 if position + 2 < len(text) and text[position + 2] == 33 else position + 2
            if after < len(text) and text[after] == 62 and position > start + 2:
                return after + 1
            position += 1
    for position in range(start, len(text)):
        if text[position] == 62:
            return position + 1
    return len(text)


@inlined
def _copy(text, start, end, out, size):
    for position in range(start, end):
        out[size] = text[position]
        size += 1
    return size


@inlined
def _copy_text(text, position, out, size):
    """Copy a byte and all before the next tag, ends of line as the standard reads them; returns the new (position, size)."""
    while True:
        byte = text[position]
        position += 1
        if byte == 13:
            byte = np.uint8(10)
            position += position < len(text) and text[position] == 10
        out[size] = byte
        size += 1
        if position >= len(text) or text[position] == 60:
            return position, size


@kernel
def _rewrite(text, out, keys, codes, unclosed):
    """Copy what is kept of `text` to `out`; returns its size and the signs of formulas."""
    size, position, tags, seen, drawings_end, signs = 0, 0, 0, 0, True, 0
    while position < len(text):
        byte = text[position]
        if byte != 60 or position + 1 >= len(text):
            position, size = _copy_text(text, position, out, size)
            continue
        closing = text[position + 1] == 47
        start = position + 2 if closing else position + 1
        if start >= len(text) or not _is_letter(text[start]):
            if closing or text[position + 1] == 33 or text[position + 1] == 63:
                position = _comment_end(text, position)
            else:
                size = _copy(text, position, position + 1, out, size)
                position += 1
            continue
        tags += 1
        if tags > MAX_TAGS:
            break
        name_end = end_of_name(text, start)
        name = hash_range(text, start, name_end)
        slot = np.int64(name & np.uint64(SLOTS - 1))
        code = look_up(keys, codes, name)
        kind, index = (code >> 6, code & 63) if code >= 0 else (_PLAIN, 0)
        before = size
        after, size, in_class = _copy_tag(text, position, name_end, closing or kind == _FORMATTING, out, size)
        signs |= _tag_signs(name, in_class)
        body_end = after
        if not closing:
            if kind in (_RAW, _REMOVED):
                body_end = _element_end(text, after, start, name_end)
            elif kind == _DRAWING and drawings_end:
                body_end = _element_end(text, after, start, name_end)
                if body_end == len(text):  # without an end tag only the tag itself goes
                    drawings_end, body_end = False, after
            elif kind == _ONCE:
                kind = _LEFT_OUT if (seen >> index) & 1 else kind
                seen |= 1 << index
        removed = kind in (_LEFT_OUT, _DRAWING)
        removed = removed or (closing and unclosed[slot] == 0 and kind != _OPENS)
        unclosed[slot] = max(unclosed[slot] + (-1 if closing else 1), 0)
        if kind == _REMOVED and not closing:
            if _is_tex(text, name_end, after):
                signs |= SCRIPT_SIGN
            else:
                removed = True
        size = before if removed else _copy(text, after, body_end, out, size)
        position = body_end
    return size, signs
