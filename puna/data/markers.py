"""Markdown markers are removed, which the paper found to help a model trained on web text (section 3.1.1); code keeps its signs.

Heading, emphasis, link, fence and inline-code markers go and what they mark stays. Signs between letters or digits stay (`2**3`,
`snake_case`, `5*x*2`), so do formulas between TeX delimiters, and the inside of code, where the same signs mean something.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable

OPEN, CLOSE = "\x02", "\x03"  # what extraction puts around code and formulas
PROTECTED = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}?")
SIGNS = ("`", "~~~", "*", "](", "__", "#")  # a text without any of these has no markers
FENCED = re.compile(r"^(```|~~~)[^\n`]*\n(.*?)(?:^\1[ \t]*$\n?|\Z)", re.M | re.S)
INLINE_CODE = re.compile(rf"`(?<!``)([^`\n{OPEN}{CLOSE}]{{1,200}})`(?!`)")
_TEX = f"[^{OPEN}{CLOSE}]{{1,500}}?"
TEX = re.compile(rf"(\\\([^\n{OPEN}{CLOSE}]{{1,500}}?\\\)|\\\[{_TEX}\\\]|\$\${_TEX}\$\$)")
HEADING = re.compile(r"^#{1,6} +(?=\S)", re.M)
# what may not stand before a sign is asked after it, so that the search looks for the sign and not at every letter
EMPHASIS = re.compile(rf"\*(?<![\w*_\\]\*)(\*?)(?=\S)([^*\n{OPEN}{CLOSE}]{{1,200}}?)(?<=\S)\*\1(?![\w*(])")
# of several words: `__init__` is a name
_IN = rf"[^_\n{OPEN}{CLOSE}]{{1,200}}?"
UNDERLINED = re.compile(rf"__(?<!\w__)(?=\S)({_IN} {_IN})(?<=\S)__(?!\w)")
LINK = re.compile(rf"!?\[([^\]\n{OPEN}{CLOSE}]{{1,200}})\]\((?:https?:|/|#)[^)\s{OPEN}{CLOSE}]{{0,500}}\)")


def remove_markdown(text: str) -> str:
    """The text without markdown markers; code between fences or backticks, and formulas, lose only what encloses them.

    Args:
        text: may hold code that is enclosed in the control characters `OPEN` and `CLOSE` already; these go too.
    """
    if any(sign in text for sign in SIGNS):
        if "```" in text or "~~~" in text:
            text = _outside(text, lambda part: FENCED.sub(rf"{OPEN}\2{CLOSE}", part))
        if "`" in text:
            text = _unmarked(INLINE_CODE, rf"{OPEN}\1{CLOSE}", text)
        if "\\(" in text or "\\[" in text or "$$" in text:
            text = _unmarked(TEX, rf"{OPEN}\1{CLOSE}", text)
        text = _plain(text)
    return text.replace(OPEN, "").replace(CLOSE, "")


def _outside(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to everything that is not enclosed."""
    if OPEN not in text:
        return change(text)
    parts, position = [], 0
    for found in PROTECTED.finditer(text):
        parts += [change(text[position : found.start()]), found[0]]
        position = found.end()
    return "".join([*parts, change(text[position:])])


def _plain(text: str) -> str:
    """Links, emphasis and headings that stand outside code lose their signs."""
    if "](" in text:
        text = _unmarked(LINK, r"\1", text)
    if "*" in text:
        text = _unmarked(EMPHASIS, r"\2", _unmarked(EMPHASIS, r"\2", text))
    if "__" in text:
        text = _unmarked(UNDERLINED, r"\1", text)
    return _unmarked(HEADING, "", text) if text.startswith("#") or "\n#" in text else text


def _unmarked(pattern: re.Pattern[str], left: str, text: str) -> str:
    """Every match outside code replaced by `left`; where code begins and ends is found out when there is a match at all."""
    if OPEN not in text:
        return pattern.sub(left, text)
    code: list[int] = []

    def replaced(found: re.Match[str]) -> str:
        if not code:
            code.extend(place for span in PROTECTED.finditer(text) for place in span.span())
        return found[0] if bisect(code, found.start()) % 2 else found.expand(left)

    return pattern.sub(replaced, text)
