"""The tree of a parsed page as flat arrays, so that scoring and layout are loops of machine code and no Python per node.

resiliparse builds the tree by the HTML standard and writes it out again; what it writes is strictly nested, so one pass over
those bytes gives the nodes in document order: tag, parent, end of the subtree, place of the text, and what class, id, role
and style say.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.html_bounds import hash_range, look_up, name_hash, name_table
from puna.data.kernels.decorators import kernel

# Other modules compile these numbers into their kernels; clear `__pycache__` after renumbering them.
# Tags by what they mean for text; the kinds from BLOCK to PRE are blocks.
INLINE, BLOCK, PARAGRAPH, HEADING, LIST, ITEM, TABLE, ROW, CELL, PRE = range(10)
CODE, LINK, BREAK, RULE, IMAGE, SKIPPED, FORMULA, TEXT = range(10, 18)
KINDS = {
    BLOCK: "address article blockquote body center details dd div dl dt figure figcaption fieldset header hgroup legend main "
    "section summary form nav footer aside menu dir caption",
    PARAGRAPH: "p",
    HEADING: "h1 h2 h3 h4 h5 h6",
    LIST: "ul ol",
    ITEM: "li",
    TABLE: "table thead tbody tfoot",
    ROW: "tr",
    CELL: "td th",
    PRE: "pre listing xmp plaintext",
    CODE: "code kbd samp tt var",
    LINK: "a",
    BREAK: "br",
    RULE: "hr",
    IMAGE: "img",
    SKIPPED: "script style template noscript iframe object embed svg canvas select textarea button audio video map head title "
    "meta link datalist input progress meter noembed noframes frameset frame area base param source track wbr col colgroup rp "
    "dialog",
    FORMULA: "puna-formula",
}
VOID = "area base br col embed hr img input link meta param source track wbr basefont bgsound frame keygen"
RAW = "script style xmp iframe noembed noframes plaintext"
SECTIONING = {"nav": 1, "footer": 2, "aside": 3, "form": 4, "body": 5, "article": 6, "main": 7, "header": 8, "figure": 9}
SECTIONING |= {"blockquote": 10, "dl": 11} | {f"h{level}": 20 + level for level in range(1, 7)}
NAV, FOOTER, ASIDE, FORM, BODY, ARTICLE, MAIN, HEADER, FIGURE, QUOTE, DEFINITIONS = range(1, 12)
TITLE = 21  # h1; h2 to h6 follow

# Flags of a node.
NEGATIVE, POSITIVE, COMMENTS, HIDDEN, NUMBERS = (1 << bit for bit in range(5))
MAIN_ROLE, FURNITURE_ROLE, ARTICLE_BODY, KEEPS_SPACE, CODE_BOX = (1 << bit for bit in range(5, 10))

WORDS = {
    NEGATIVE: "ad ads adbox adsense advert advertisement advertising adwrap affiliate banner breadcrumb breadcrumbs byline "
    "catlinks consent contentinfo cookie cookies copyright credits disclaimer donate editsection feedback flyout "
    "follow foot footer gdpr hatnote infolinks jumpto legal linkbox links login logo masthead megamenu menu menubar "
    "metadata mobilemenu modal nav navbar navbox navi navigation navlinks newsletter noprint outbrain overlay pager "
    "pagination paging paginator popular popup printfooter privacy promo promoted promotion recirculation recommend "
    "recommendation recommendations recommended related relatedposts relatedlinks rss search searchbox searchform "
    "share sharebar sharedaddy sharing shoutbox sidebar sidebars sidebarleft sidebarright sidenav signin signup "
    "sitemap skip social socialmedia sponsor sponsored subnav subscribe subscription taboola tagcloud tags teaser "
    "teasers toolbar tooltip topbar topnav toplinks trending widget widgets",
    POSITIVE: "article articlebody articletext blogpost body content entry hentry main maincontent post posting story text",
    COMMENTS: "comment comments commentlist commentarea disqus respond replies commentform fbcomments livefyre",
    NUMBERS: "lineno linenos linenumber linenumbers linenodiv gutter linenum lnum",
    CODE_BOX: "code sourcecode codehilite prettyprint syntaxhighlighter",
    KEEPS_SPACE: "blob",  # lines of code as GitHub marks them up
}
ROLES = {
    FURNITURE_ROLE: "navigation banner contentinfo search complementary menu menubar toolbar alert dialog",
    MAIN_ROLE: "main",
}


def _flag_table(flags: dict[int, str]) -> tuple[np.ndarray, np.ndarray]:
    return name_table({word: flag for flag, words in flags.items() for word in words.split()})


WORD_KEYS, WORD_CODES = _flag_table(WORDS)
ROLE_KEYS, ROLE_CODES = _flag_table(ROLES)


def _tags() -> tuple[np.ndarray, np.ndarray]:
    """Code of a tag: kind + 32 * section + 1024 * void + 2048 * raw."""
    entries: dict[str, int] = {}
    for kind, names in KINDS.items():
        for name in names.split():
            entries[name] = kind
    for name, section in SECTIONING.items():
        entries[name] = entries.get(name, INLINE) + 32 * section
    for bit, names in ((1024, VOID), (2048, RAW)):
        for name in names.split():
            entries[name] = entries.get(name, INLINE) + bit
    return name_table(entries)


TAG_KEYS, TAG_CODES = _tags()
CLASS, ID, ROLE, STYLE, HIDDEN_NAME, ALT, ITEMPROP = (
    np.uint64(name_hash(name)) for name in ("class", "id", "role", "style", "hidden", "alt", "itemprop")
)
BODY_PROPERTY = np.uint64(name_hash("articlebody"))


@njit(cache=True, nogil=True)
def read_nodes(source):
    """Nodes of serialised HTML (uint8) in document order.

    Returns:
        kind, section int16; parent, last (end of the subtree, exclusive), start, end (bytes of a text node or of an `alt`) int32;
        flags int32; all cut to the number of nodes.
    """
    size = 4
    for byte in source:
        size += 2 * (byte == 60)
    kind, section = np.empty(size, np.int16), np.empty(size, np.int16)
    parent, last = np.empty(size, np.int32), np.empty(size, np.int32)
    start, end, flags = np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size, np.int32)
    kind[0], section[0], parent[0] = BLOCK, 0, -1
    count, open_node, position, length = 1, 0, 0, len(source)
    while position < length:
        if source[position] != 60:
            begin = position
            while position < length and source[position] != 60:
                position += 1
            kind[count], section[count], parent[count] = TEXT, 0, open_node
            start[count], end[count], last[count] = begin, position, count + 1
            count += 1
            continue
        following = source[position + 1] if position + 1 < length else 0
        if following == 33 or following == 63:
            position = _after_comment(source, position)
            continue
        if following == 47:
            while position < length and source[position] != 62:
                position += 1
            position += 1
            if open_node > 0:
                last[open_node] = count
                open_node = parent[open_node]
            continue
        name_end = position + 1
        while name_end < length and source[name_end] > 32 and source[name_end] != 62:
            name_end += 1
        name = hash_range(source, position + 1, name_end)
        code = max(look_up(TAG_KEYS, TAG_CODES, name), 0)
        kind[count], section[count], parent[count] = code & 31, (code >> 5) & 31, open_node
        position = _attributes(source, name_end, count, start, end, flags)
        node, last[count] = count, count + 1
        count += 1
        if code & 1024:
            continue
        open_node = node
        if code & 2048:
            begin = position
            position = _raw_end(source, position, name)
            if position > begin:
                kind[count], section[count], parent[count] = TEXT, 0, open_node
                start[count], end[count], last[count] = begin, position, count + 1
                count += 1
    while open_node >= 0:
        last[open_node] = count
        open_node = parent[open_node]
    return kind[:count], section[:count], parent[:count], last[:count], start[:count], end[:count], flags[:count]


@kernel
def _after_comment(source, position):
    comment = position + 3 < len(source) and source[position + 2] == 45 and source[position + 3] == 45
    place = position + 4 if comment else position
    while place < len(source):
        if source[place] == 62 and (not comment or (source[place - 1] == 45 and source[place - 2] == 45)):
            return place + 1
        place += 1
    return len(source)


@kernel
def _raw_end(source, position, name):
    """Where the end tag of a raw text element begins."""
    while position + 1 < len(source):
        if source[position] == 60 and source[position + 1] == 47:
            stop = position + 2
            while stop < len(source) and source[stop] != 62 and source[stop] > 32:
                stop += 1
            if hash_range(source, position + 2, stop) == name:
                return position
        position += 1
    return len(source)


@kernel
def _attributes(source, position, node, start, end, flags):
    """Read the attributes of the tag whose name ends at `position` into the node; returns the position after the tag."""
    while position < len(source) and source[position] != 62:
        if source[position] <= 32:
            position += 1
            continue
        begin = position
        while position < len(source) and source[position] != 61 and source[position] != 62 and source[position] > 32:
            position += 1
        name = hash_range(source, begin, position)
        value, value_end = position, position
        if position + 1 < len(source) and source[position] == 61 and source[position + 1] == 34:
            value = value_end = position + 2
            while value_end < len(source) and source[value_end] != 34:
                value_end += 1
            position = value_end + 1
        elif position == begin:
            position += 1
        if name in (CLASS, ID):
            flags[node] |= _words(source, value, value_end)
        elif name == ROLE:
            code = look_up(ROLE_KEYS, ROLE_CODES, hash_range(source, value, value_end))
            flags[node] |= max(code, 0)
        elif name == STYLE:
            flags[node] |= _style(source, value, value_end)
        elif name == HIDDEN_NAME:
            flags[node] |= HIDDEN
        elif name == ALT:
            start[node], end[node] = value, value_end
        elif name == ITEMPROP and hash_range(source, value, value_end) == BODY_PROPERTY:
            flags[node] |= ARTICLE_BODY
    return position + 1


@kernel
def _words(source, start, end):
    """Flags of the words of a class or id; a word ends at a sign, a digit or before a capital that follows a small letter."""
    flags, begin = 0, start
    for position in range(start, end + 1):
        byte = source[position] if position < end else np.uint8(32)
        capital = 65 <= byte <= 90
        letter = capital or 97 <= byte <= 122
        turn = capital and position > begin and 97 <= source[position - 1] <= 122
        if not letter or turn:
            if position - begin > 1:
                flags |= max(look_up(WORD_KEYS, WORD_CODES, hash_range(source, begin, position)), 0)
            begin = position if letter else position + 1
    return flags


@kernel
def _style(source, start, end):
    """HIDDEN for `display: none` and `visibility: hidden`, KEEPS_SPACE for `white-space: pre...`; blanks do not count."""
    flags, key = 0, np.uint64(0)
    for position in range(start, end):
        byte = source[position]
        if byte <= 32:
            continue
        if 65 <= byte <= 90:
            byte += np.uint8(32)
        key = (key << np.uint64(8)) | np.uint64(byte)
        if key == np.uint64(0x6C61793A6E6F6E65) or key == np.uint64(0x793A68696464656E):  # "lay:none", "y:hidden"
            flags |= HIDDEN
        elif key == np.uint64(0x73706163653A7072):  # "space:pr"
            flags |= KEEPS_SPACE
    return flags
