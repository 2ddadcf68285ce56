"""HTML to text: main content only, one block a line, code and formulas whole, picture descriptions kept (paper section
3.1.1).

resiliparse scores and cuts the page tree (16 times the speed of trafilatura on documentation pages); three things it does not
do are done before: lists without links are content here and not navigation, formulas become their TeX source, and the
character set is settled from transport, page and bytes. Markdown markers are removed, which the paper found to help a model
trained on web text.
"""

from __future__ import annotations

import html as html_entities
import re
from dataclasses import dataclass
from typing import Any

MAX_HTML_CHARS = 4 << 20  # bounds the time a page can take; the parser is linear
PLAIN_SHARE = 0.1  # main content below this share of the visible text is distrusted
LINKED_SHARE = 0.5  # ... unless that much of the visible text is links, which is a page of navigation

BOILERPLATE = ["nav", "footer", "aside", "form", "button", "select", "[role=navigation]", "[role=banner]", "[role=contentinfo]"]

# a list whose items hold no links is content; resiliparse takes short ones for menus
LINKLESS_LIST = re.compile(r"<(ul|ol)\b([^>]*)>((?:(?!<a\b|<ul\b|<ol\b|</ul|</ol).)*)</(?:ul|ol)\s*>", re.I | re.S)
LIST_ITEM = re.compile(r"<(/?)li\b", re.I)
MATH = re.compile(r"<math\b([^<>]{0,2000})>((?:(?!<math).){0,20000}?)</math\s*>", re.I | re.S)
TEX_ANNOTATION = re.compile(r"<annotation[^<>]{0,300}tex[^<>]{0,300}>([^<]{0,5000})</annotation", re.I | re.S)
ALTTEXT = re.compile(r"""alttext\s*=\s*("[^"]*"|'[^']*')""", re.I)
TEX_SCRIPT = re.compile(
    r"""<script\b[^<>]{0,300}type\s*=\s*["']?math/tex[^<>]{0,300}>((?:(?!<script).){0,20000}?)</script\s*>""", re.I | re.S
)
# bounded, like all of these: no page takes more than linear time
ANCHOR = re.compile(r"<a\b[^<>]{0,2000}>((?:(?!<a\b).){0,2000}?)</a\s*>", re.I | re.S)
TAG = re.compile(r"<[^>]*>")
SPACE_LIKE = re.compile("[\u00a0\u2007\u202f]")
UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\ufeff\u00ad]")  # joiners U+200C and U+200D are letters of Hindi
CELLS = re.compile(r"(?<! ) *\t[ \t]*")
BLANK_LINES = re.compile(r"\n{3,}")

HEADING = re.compile(r"^#{1,6} +(?=\S)", re.M)
EMPHASIS = re.compile(r"(?<![\w*_\\])(\*\*|\*)(?=\S)([^*\n]{1,200}?)(?<=\S)\1(?![\w*(])")
UNDERLINED = re.compile(
    r"(?<!\w)__(?=\S)([^_\n]{1,200}? [^_\n]{1,200}?)(?<=\S)__(?!\w)"
)  # of several words: `__init__` is a name
MARKDOWN_LINK = re.compile(r"!?\[([^\]\n]{1,200})\]\((?:https?:|/|#)[^)\s]{0,500}\)")
FENCE = re.compile(r"^(?:```|~~~)[\w+-]*\n?", re.M)
INLINE_CODE = re.compile(r"(?<!`)`([^`\n]{1,200})`(?!`)")


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
    source = _decode(content, kind, charset)
    if kind != "html":
        return Extracted(_finish(source, keep_markers), seen_chars=len(source))
    return _from_html(source[:MAX_HTML_CHARS], keep_markers)


def _decode(content: bytes, kind: str, charset: str) -> str:
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    try:
        return content.decode("utf-8-sig")  # text that is valid UTF-8 is UTF-8, whatever a server claims
    except UnicodeDecodeError:
        declared = map_encoding_to_html5(charset, False) if charset else None
        encoding = declared or detect_encoding(content, from_html_meta=kind == "html") or "cp1252"
        return bytes_to_str(content, encoding, errors="replace")


def _from_html(source: str, keep_markers: bool) -> Extracted:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(_lists(_formulas(source)))
    if tree.body is None:
        return Extracted("")
    links = [len(TAG.sub("", inner).strip()) for inner in ANCHOR.findall(source)]
    link_chars, seen = sum(links), len(tree.body.text or "")
    text = extract_plain_text(tree, main_content=True, list_bullets=False, alt_texts=True)
    if len(text) < PLAIN_SHARE * seen and link_chars < LINKED_SHARE * seen:
        plain = extract_plain_text(tree, main_content=False, list_bullets=False, alt_texts=True, skip_elements=BOILERPLATE)
        text = max(text, plain, key=len)
    return Extracted(_finish(text, keep_markers), len(links), link_chars, seen)


def _formulas(source: str) -> str:
    """Replace MathML and MathJax elements by their TeX source, where the page carries it."""
    if "<math" in source.lower():
        source = MATH.sub(_tex_of_math, source)
    return TEX_SCRIPT.sub(lambda found: f"<span>${html_entities.escape(found[1].strip())}$</span>", source)


def _tex_of_math(found: re.Match[str]) -> str:
    annotation = TEX_ANNOTATION.search(found[2])
    if annotation:
        return f"<span>${annotation[1].strip()}$</span>"
    alttext = ALTTEXT.search(found[1])
    return f"<span>${alttext[1][1:-1].strip()}$</span>" if alttext else found[0]


def _lists(source: str) -> str:
    return LINKLESS_LIST.sub(_as_blocks, source)


def _as_blocks(found: re.Match[str]) -> str:
    items = LIST_ITEM.sub(r"<\1div", found[3])
    return f"<div{found[2]}>{items}</div>"


def _finish(text: str, keep_markers: bool) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = UNSEEN.sub("", SPACE_LIKE.sub(" ", text))
    if not keep_markers:
        text = remove_markdown(text)
    if "\t\t" in text:
        text = CELLS.sub("\t", text)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return BLANK_LINES.sub("\n\n", text).strip("\n")


def remove_markdown(text: str) -> str:
    """Remove heading, emphasis, link, fence and inline-code markers, and keep what they mark.

    Signs between letters or digits stay (`2**3`, `snake_case`, `5*x*2`), so arithmetic and names survive.
    """
    if "```" in text or "~~~" in text:
        text = FENCE.sub("", text)
    if "](" in text:
        text = MARKDOWN_LINK.sub(r"\1", text)
    if "`" in text:
        text = INLINE_CODE.sub(r"\1", text)
    if "*" in text:
        text = EMPHASIS.sub(r"\2", EMPHASIS.sub(r"\2", text))
    if "__" in text:
        text = UNDERLINED.sub(r"\1", text)
    return HEADING.sub("", text) if "# " in text else text


def extract_batch(contents: Any, formats: Any, charsets: Any, groups: Any) -> Any:
    """The texts of a batch of pages: a table of text, links, link_chars, seen_chars."""
    import pyarrow as pa

    given = zip(contents.to_pylist(), formats.to_pylist(), charsets.to_pylist(), groups.to_pylist(), strict=True)
    found = [extract(content, kind, charset, keep_markers=group == "code") for content, kind, charset, group in given]
    columns = {"text": pa.array([page.text for page in found], pa.string())}
    names = ("links", "link_chars", "seen_chars")
    return pa.table(columns | {name: pa.array([getattr(page, name) for page in found], pa.int64()) for name in names})
