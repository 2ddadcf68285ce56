"""Markdown markers are removed, which the paper found to help a model trained on web text (section 3.1.1); code keeps its signs.

Heading, emphasis, link, fence and inline-code markers go and what they mark stays. Signs between letters or digits stay (`2**3`,
`snake_case`, `5*x*2`), so do formulas between TeX delimiters, and the inside of code, where the same signs mean something.
"""

from __future__ import annotations

import re
from collections.abc import Callable

OPEN, CLOSE = "\x02", "\x03"  # what extraction puts around code and formulas
PROTECTED = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}?")
SIGNS = ("`", "~~~", "*", "](", "__", "#")  # a text without any of these has no markers
FENCED = re.compile(r"^(```|~~~)[^\n`]*\n(.*?)(?:^\1[ \t]*$\n?|\Z)", re.M | re.S)
INLINE_CODE = re.compile(r"(?<!`)`([^`\n]{1,200})`(?!`)")
TEX = re.compile(r"(\\\([^\n]{1,500}?\\\)|\\\[.{1,500}?\\\]|\$\$.{1,500}?\$\$)", re.S)
HEADING = re.compile(r"^#{1,6} +(?=\S)", re.M)
# what may not stand before a sign is asked after it, so that the search looks for the sign and not at every letter
EMPHASIS = re.compile(r"\*(?<![\w*_\\]\*)(\*?)(?=\S)([^*\n]{1,200}?)(?<=\S)\*\1(?![\w*(])")
# of several words: `__init__` is a name
UNDERLINED = re.compile(r"__(?<!\w__)(?=\S)([^_\n]{1,200}? [^_\n]{1,200}?)(?<=\S)__(?!\w)")
LINK = re.compile(r"!?\[([^\]\n]{1,200})\]\((?:https?:|/|#)[^)\s]{0,500}\)")


def remove_markdown(text: str) -> str:
    """The text without markdown markers; code between fences or backticks, and formulas, lose only what encloses them.

    Args:
        text: may hold code that is enclosed in the control characters `OPEN` and `CLOSE` already; these go too.
    """
    if any(sign in text for sign in SIGNS):
        if "```" in text or "~~~" in text:
            text = _outside(text, lambda part: FENCED.sub(rf"{OPEN}\2{CLOSE}", part))
        if "`" in text:
            text = _outside(text, lambda part: INLINE_CODE.sub(rf"{OPEN}\1{CLOSE}", part))
        if "\\(" in text or "\\[" in text or "$$" in text:
            text = _outside(text, lambda part: TEX.sub(rf"{OPEN}\1{CLOSE}", part))
        text = _outside(text, _plain)
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
    if "](" in text:
        text = LINK.sub(r"\1", text)
    if "*" in text:
        text = EMPHASIS.sub(r"\2", EMPHASIS.sub(r"\2", text))
    if "__" in text:
        text = UNDERLINED.sub(r"\1", text)
    return HEADING.sub("", text) if text.startswith("#") or "\n#" in text else text
