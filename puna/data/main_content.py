"""Which nodes of a page are its content: furniture is dropped by what tags, classes and links say, then the part that holds
the prose is found and cleaned.

The idea of scoring paragraphs and passing the score on to what encloses them is Readability's (Arc90); a page is a set of
arrays here (`puna.data.html_nodes`), every step is one pass over them, and shares are taken of the page's own text, so that
pages of lists, tables or code are not measured by the rules of newspaper articles. Sizes are bytes of UTF-8: a letter of
Chinese says as much as three of English.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.html_nodes import (
    ARTICLE,
    ARTICLE_BODY,
    ASIDE,
    BLOCK,
    BODY,
    CELL,
    CODE,
    COMMENTS,
    FOOTER,
    FORM,
    FORMULA,
    FURNITURE_ROLE,
    HEADING,
    HIDDEN,
    IMAGE,
    ITEM,
    LINK,
    LIST,
    MAIN,
    MAIN_ROLE,
    NAV,
    NEGATIVE,
    NUMBERS,
    PARAGRAPH,
    POSITIVE,
    PRE,
    SKIPPED,
    TABLE,
    TEXT,
    TITLE,
)

FURNITURE_SHARE = 0.4  # what holds this share of the page's text is content, whatever its name says
MIXED_SHARE = 0.15  # ... where the name has a word of content too ("post-related")
HIDDEN_SHARE = 0.6
COMMENTS_OUTSIDE = 600  # bytes of long paragraphs outside: then comments are not what the page is about
SCOPE_SHARE = 0.3  # an element that says it is the content is believed with this share of the text
BLOCK_BYTES = 25  # a shorter block has no score (Readability)
LONG_BYTES = 140  # a block of prose, of which teasers have few
LINKED = 0.5  # a block with this share of its text inside links is no prose
CLIMB = 1.25  # the part is widened to what encloses it while that holds so much more prose
LIST_LINKED, LIST_ITEM_BYTES = 0.6, 60  # a list of links, whose items say little besides
BOX_LINKED, BOX_BYTES = 0.6, 200  # a box of links, with little text besides
SIBLING_BYTES, SIBLING_LINKED, SIBLING_SHARE = 80, 0.25, 0.2  # what stands beside the best part and belongs to it (Readability)
ENOUGH = 250  # bytes of content below which the choice is distrusted


@njit(cache=True, nogil=True)
def measure(source, kind, parent, start, end, flags):
    """Text of every node and of the page.

    Returns:
        int32 [nodes] each: text and text inside links of the subtree; text, link text and commas of a block's own runs; the
        block a node belongs to; then visible characters, links, and characters inside links of the whole page.
    """
    count = len(kind)
    text, linked = np.zeros(count, np.int32), np.zeros(count, np.int32)
    own, own_linked, commas = np.zeros(count, np.int32), np.zeros(count, np.int32), np.zeros(count, np.int32)
    block, inside = np.zeros(count, np.int32), np.zeros(count, np.int8)  # inside: 1 a link, 2 what is never shown
    seen, links, link_chars = 0, 0, 0
    for node in range(1, count):
        above = parent[node]
        inside[node] = inside[above]
        block[node] = block[above]
        if kind[node] == SKIPPED:
            inside[node] |= 2
        elif kind[node] == LINK:
            links += inside[node] == 0
            inside[node] |= 1
        elif BLOCK <= kind[node] <= PRE:
            block[node] = node
        elif kind[node] == TEXT and inside[node] < 2:
            size, chars, signs = _visible(source, start[node], end[node])
            seen += chars
            text[node] = size
            own[block[node]] += size
            commas[block[node]] += signs
            if inside[node]:
                link_chars += chars
                linked[node] = size
                own_linked[block[node]] += size
    for node in range(count - 1, 0, -1):
        text[parent[node]] += text[node]
        linked[parent[node]] += linked[node]
    return text, linked, own, own_linked, commas, block, seen, links, link_chars


@njit(cache=True, nogil=True)
def _visible(source, start, end):
    """(bytes, characters, commas and the like) of a text, a run of white space counting once."""
    size, chars, signs, blank = 0, 0, 0, True
    position = start
    while position < end:
        byte = source[position]
        if byte <= 32:
            if not blank:
                size += 1
                chars += 1
            blank = True
            position += 1
            continue
        blank = False
        size += 1
        chars += byte & 0xC0 != 0x80
        if byte == 44 or (byte == 0x8C and position > start and source[position - 1] in (0xBC, 0xD8)):
            signs += 1  # , and the commas of Chinese and Arabic
        elif byte in (0x81, 0x82) and position > start + 1 and source[position - 1] == 0x80 and source[position - 2] == 0xE3:
            signs += 1  # the comma and full stop of Japanese
        elif byte == 38:
            while position < end and source[position] != 59:
                position += 1
        position += 1
    trailing = blank and size > 0
    return size - trailing, chars - trailing, signs


@njit(cache=True, nogil=True)
def content_nodes(source, kind, section, parent, last, start, end, flags, sizes):
    """Which nodes are content, as int8 [nodes]: 1 for content. `sizes` is what `measure` returned."""
    text, linked, own, own_linked, commas, block = sizes
    dropped = _furniture(source, kind, section, parent, last, start, end, flags, text, linked, own, own_linked, block)
    prose, long = _prose(kind, parent, dropped, own, own_linked)
    scope = _scope(kind, section, last, flags, dropped, prose)
    root = _root(kind, parent, last, dropped, own, own_linked, commas, prose, long, scope)
    kept = _subtree(root, parent, last, dropped)
    top = _join(kind, parent, last, dropped, own, own_linked, long, scope, root, kept)
    _clean(kind, section, parent, last, flags, dropped, own, own_linked, top, kept)
    total = text[0] - linked[0]
    if _amount(kept, kind, text, linked) < min(ENOUGH, 0.5 * total):
        kept = _subtree(scope, parent, last, dropped)
        if _amount(kept, kind, text, linked) < min(ENOUGH, 0.5 * total):
            for node in range(1, len(kind)):
                dropped[node] = dropped[parent[node]] or kind[node] == SKIPPED or flags[node] & HIDDEN != 0
            kept = _subtree(0, parent, last, dropped)
    _keep_title(kind, section, last, dropped, root, kept)
    _drop_lonely_headings(kind, section, parent, last, kept, text)
    return kept


@njit(cache=True, nogil=True)
def _amount(kept, kind, text, linked):
    total = 0
    for node in range(len(kind)):
        if kept[node] and kind[node] == TEXT:
            total += text[node] - linked[node]
    return total


@njit(cache=True, nogil=True)
def _furniture(source, kind, section, parent, last, start, end, flags, text, linked, own, own_linked, block):
    """int8 [nodes]: 1 in every subtree that its tag, role, class or style calls furniture and that holds little of the text."""
    count = len(kind)
    dropped = np.zeros(count, np.int8)
    total = max(text[0] - linked[0], 1)
    long = np.zeros(count, np.int32)
    for node in range(count - 1, 0, -1):
        if block[node] == node and own[node] >= LONG_BYTES and own_linked[node] < LINKED * own[node]:
            long[node] += own[node]
        long[parent[node]] += long[node]
    for node in range(1, count):
        if dropped[parent[node]] or kind[node] == SKIPPED:
            dropped[node] = 1
            continue
        mark, part = flags[node], section[node]
        if part == BODY or kind[node] == TEXT or (mark == 0 and part == 0):
            continue
        share = (text[node] - linked[node]) / total
        if mark & HIDDEN:
            dropped[node] = share < HIDDEN_SHARE
        elif part in (NAV, FOOTER, ASIDE, FORM) or mark & FURNITURE_ROLE:
            dropped[node] = share < FURNITURE_SHARE
        elif kind[node] in (PRE, CODE, FORMULA, HEADING) and not mark & NUMBERS:
            continue
        elif mark & NUMBERS:
            dropped[node] = _mostly_digits(source, kind, start, end, node, last[node])
        elif mark & COMMENTS:
            dropped[node] = long[0] - long[node] >= COMMENTS_OUTSIDE or share < MIXED_SHARE
        elif mark & NEGATIVE and part != ARTICLE and part != MAIN:
            few_links = linked[node] <= SIBLING_LINKED * text[node]
            dropped[node] = share < (MIXED_SHARE if mark & POSITIVE or few_links else FURNITURE_SHARE)
    return dropped


@njit(cache=True, nogil=True)
def _mostly_digits(source, kind, start, end, first, stop):
    digits, others = 0, 0
    for node in range(first, stop):
        if kind[node] == TEXT:
            for position in range(start[node], end[node]):
                byte = source[position]
                if 48 <= byte <= 57:
                    digits += 1
                elif byte > 32:
                    others += 1
    return digits > 2 * others


@njit(cache=True, nogil=True)
def _prose(kind, parent, dropped, own, own_linked):
    """float64 [nodes] twice, of each subtree: bytes of unlinked text, and of those in long blocks."""
    count = len(kind)
    prose, long = np.zeros(count), np.zeros(count)
    for node in range(count - 1, -1, -1):
        if not dropped[node] and own[node] and kind[node] != HEADING:
            free = own[node] - own_linked[node]
            prose[node] += free
            if free >= LONG_BYTES and own_linked[node] < LINKED * own[node]:
                long[node] += free
        if node:
            prose[parent[node]] += prose[node]
            long[parent[node]] += long[node]
    return prose, long


@njit(cache=True, nogil=True)
def _scope(kind, section, last, flags, dropped, prose):
    """The smallest element that says it is the content: `main`, in it the only `article`, in it `articleBody`; else the page."""
    scope = 0
    for wanted in range(3):
        first, stop, number = 0, 0, 0
        for node in range(scope + 1, last[scope]):
            if dropped[node] or prose[node] < SCOPE_SHARE * prose[scope] or node < stop:
                continue
            if wanted == 0:
                says = section[node] == MAIN or flags[node] & MAIN_ROLE != 0
            elif wanted == 1:
                says = section[node] == ARTICLE
            else:
                says = flags[node] & ARTICLE_BODY != 0
            if says:
                first, stop, number = node, last[node], number + 1
        if number == 1:
            scope = first
    return scope


@njit(cache=True, nogil=True)
def _root(kind, parent, last, dropped, own, own_linked, commas, prose, long, scope):
    """The node with the highest score inside the scope, widened to what encloses it while that holds much more prose."""
    score = np.zeros(len(kind))
    for node in range(scope, last[scope]):
        free = own[node] - own_linked[node]
        if dropped[node] or free < BLOCK_BYTES or own_linked[node] > LINKED * own[node] or kind[node] == HEADING:
            continue
        points = 1 + commas[node] + min(free / 100, 10.0 if kind[node] == PRE else 3.0)
        above, level = node, 0
        while above > scope and level < 6:
            # a block's own paragraphs between line breaks count for the block itself, like paragraphs inside it
            if level or kind[node] == BLOCK or kind[node] == CELL:
                score[above] += points / (1 if level < 2 else 3 * (level - 1))
            above = parent[above]
            level += 1
        if above == scope:
            score[scope] += points / (1 if level < 2 else 3 * (level - 1))
    best, found = 0.0, scope
    for node in range(scope, last[scope]):
        if score[node] > best:
            best, found = score[node], node
    while found > scope and kind[found] != BLOCK and kind[found] != CELL:
        found = parent[found]  # a list or a table is part of something
    above = found
    while above > scope:
        above = parent[above]
        if long[above] >= CLIMB * long[found] and prose[above] >= CLIMB * prose[found]:
            found = above
    return found


@njit(cache=True, nogil=True)
def _subtree(root, parent, last, dropped):
    kept = np.zeros(len(parent), np.int8)
    for node in range(root, last[root]):
        kept[node] = not dropped[node]
    return kept


@njit(cache=True, nogil=True)
def _join(kind, parent, last, dropped, own, own_linked, long, scope, root, kept):
    """Keep what stands beside the root, and beside what encloses it inside the scope, where it is prose too."""
    text, linked = np.zeros(len(kind)), np.zeros(len(kind))
    for node in range(last[scope] - 1, scope, -1):
        if not dropped[node]:
            text[node] += own[node]
            linked[node] += own_linked[node]
            text[parent[node]] += text[node]
            linked[parent[node]] += linked[node]
    limit = scope
    while root > limit:
        above = parent[root]
        node = above + 1
        while node < last[above]:
            free = text[node] - linked[node]
            if node == root or dropped[node]:
                joins = False
            elif kind[node] == TEXT:
                joins = own[above] - own_linked[above] >= SIBLING_BYTES
            elif kind[node] == HEADING:
                joins = True
            elif scope > 0:
                joins = free >= BLOCK_BYTES and linked[node] <= SIBLING_LINKED * text[node]
            elif kind[node] == PARAGRAPH:
                joins = free >= SIBLING_BYTES and linked[node] <= SIBLING_LINKED * text[node]
            else:
                joins = long[node] >= SIBLING_SHARE * long[root] and linked[node] <= SIBLING_LINKED * text[node]
            if joins:
                for inner in range(node, last[node]):
                    kept[inner] = not dropped[inner]
            node = last[node]
        root = above
        kept[root] = 1
    return root


@njit(cache=True, nogil=True)
def _clean(kind, section, parent, last, flags, dropped, own, own_linked, root, kept):
    """Take lists and boxes of links out of the content."""
    count = last[root]
    text, linked, items = np.zeros(count), np.zeros(count), np.zeros(count)
    for node in range(count - 1, root, -1):
        if kept[node]:
            text[node] += own[node]
            linked[node] += own_linked[node]
            above = parent[node]
            text[above] += text[node]
            linked[above] += linked[node]
            items[above] += items[node] + (kind[node] == ITEM)
    for node in range(root + 1, count):
        if not kept[node]:
            continue
        if not kept[parent[node]]:  # it went with what encloses it
            kept[node] = 0
            continue
        free = text[node] - linked[node]
        if kind[node] == LIST:
            if linked[node] > LIST_LINKED * text[node] and free < LIST_ITEM_BYTES * max(items[node], 1):
                kept[node] = 0
        elif kind[node] in (BLOCK, TABLE, PARAGRAPH) and linked[node] > BOX_LINKED * text[node] and free < BOX_BYTES:
            kept[node] = 0


@njit(cache=True, nogil=True)
def _keep_title(kind, section, last, dropped, root, kept):
    """Keep the last h1 before the content where the content has none."""
    title = -1
    for node in range(last[root]):
        if section[node] == TITLE and not dropped[node]:
            if node > root:
                return
            title = node
    if title > 0:
        for node in range(title, last[title]):
            kept[node] = not dropped[node]


@njit(cache=True, nogil=True)
def _drop_lonely_headings(kind, section, parent, last, kept, text):
    """Drop a heading that nothing follows before a heading of its level or the end, because what it headed was dropped."""
    following = 0  # level of the next heading, 0 at the end, 99 for content
    for node in range(len(kind) - 1, 0, -1):
        if kept[node] and kind[node] == HEADING:
            if following <= section[node] and section[node] != TITLE:
                kept[node : last[node]] = 0
            else:
                following = section[node]
        elif (
            kept[node]
            and ((kind[node] == TEXT and text[node] > 0) or kind[node] == IMAGE)
            and not _in_heading(kind, parent, node)
        ):
            following = 99


@njit(cache=True, nogil=True)
def _in_heading(kind, parent, node):
    for _ in range(6):
        node = parent[node]
        if node <= 0:
            return False
        if kind[node] == HEADING:
            return True
    return False
