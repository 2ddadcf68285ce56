"""Pages to text: main content only, one block a line, code and formulas whole, picture descriptions kept (paper section 3.1.1).

Steps, each in a file of its own: the character set (`charset`), the bounds that keep parsing linear (`html_bounds`),
resiliparse's parser and formulas as TeX (`formulas`), which a page that is nested as it should be and has no formula does not
need (`html_nested`), and then, on flat arrays of the tree's nodes (`html_nodes`), what is content (`main_content`) and how it is
laid out as text (`html_layout`). Markdown markers are removed outside code (`markers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from puna.data.charset import decode_page, utf8_page
from puna.data.markers import remove_markdown

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CHARS = 4 << 20  # of a page that are read; `html_bounds` bounds the rest of what it can cost
CODE_GROUP = "code"  # documents of this part of the mix keep their signs

SPACE_LIKE = re.compile("[\u00a0\u2007\u202f]")
UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\ufeff\u00ad]")  # joiners U+200C and U+200D are letters of Hindi
BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class Extracted:
    """Text of a page with what its links say about it: number of links, characters inside links, characters seen in all."""

    text: str
    links: int = 0
    link_chars: int = 0
    seen_chars: int = 0


def extract(content: bytes, kind: str, charset: str, *, keep_markers: bool = False) -> Extracted:
    """The text of one page.

    Args:
        content: bytes as they were fetched.
        kind: "html" or "text".
        charset: declared by the transport; empty when unknown.
        keep_markers: leave markdown markers alone (source code uses the same signs).
    """
    if kind == "html":
        return _from_html(utf8_page(content, charset, max_chars=MAX_CHARS), keep_markers)
    source = decode_page(content, charset, html=False)
    return Extracted(_from_text(source, keep_markers), seen_chars=len(source))


def extract_batch(contents: Iterable[bytes], formats: Iterable[str], charsets: Iterable[str], groups: Iterable[str]) -> pa.Table:
    """The texts of many pages as columns, row by row like the pages.

    Args:
        contents, formats, charsets: as `extract` takes them.
        groups: part of the data mix; rows of the group "code" keep their markers.

    Returns:
        Arrow table of `text` (large_string), `links`, `link_chars`, `seen_chars` (int64).
    """
    import pyarrow as pa

    rows = [
        extract(content, kind, charset or "", keep_markers=group == CODE_GROUP)
        for content, kind, charset, group in zip(contents, formats, charsets, groups, strict=True)
    ]
    numbers = {name: pa.array([getattr(row, name) for row in rows], pa.int64()) for name in ("links", "link_chars", "seen_chars")}
    return pa.table({"text": pa.array([row.text for row in rows], pa.large_string())} | numbers)


def _from_html(source: bytes, keep_markers: bool) -> Extracted:
    from puna.data.html_bounds import bounded
    from puna.data.html_nested import serialised
    from puna.data.html_text import text_of_html

    kept, signs = bounded(source)
    body = None if signs else serialised(kept)
    found = text_of_html(_parsed(kept, signs) if body is None else body, keep_markers=keep_markers)
    text, links, link_chars, seen = found
    return Extracted(text.strip("\n"), links, link_chars, seen)


def _parsed(page: bytes, signs: int) -> bytes:
    """The body of a page as resiliparse's parser writes it, formulas as TeX; empty for a page without one."""
    from resiliparse.parse.html import HTMLTree

    from puna.data.formulas import replace_formulas

    tree = HTMLTree.parse(page.decode("utf-8", "replace"))
    if tree.body is None:
        return b""
    replace_formulas(tree, signs)
    return tree.body.html.encode("utf-8", "replace")


def _from_text(text: str, keep_markers: bool) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = UNSEEN.sub("", SPACE_LIKE.sub(" ", text))
    if not keep_markers:
        text = BLANK_LINES.sub("\n\n", "\n".join(line.rstrip() for line in remove_markdown(text).split("\n")))
    return text.strip("\n")
