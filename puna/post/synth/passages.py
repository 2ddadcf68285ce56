"""Documents in passages: whole lines or sentences, up to a number of characters, nothing lost (paper section 4.3.4)."""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"(?<=[.!?。।])\s+")


def passages(text: str, characters: int) -> list[str]:
    """The text in pieces of at most `characters`, cut between lines, else between sentences, else anywhere; never empty.

    Joined with single spaces or line ends, the pieces are the text without its outer white space.
    """
    found: list[str] = []
    for piece in _pieces(text, characters):
        if found and len(found[-1]) + 1 + len(piece) <= characters:
            found[-1] += "\n" + piece
        else:
            found.append(piece)
    return found or [""]


def sentences(text: str) -> list[str]:
    """The sentences of a text, split after a full stop and white space, and at line ends."""
    return [one.strip() for line in text.splitlines() for one in _SENTENCE.split(line) if one.strip()]


def _pieces(text: str, characters: int) -> list[str]:
    pieces = []
    for line in filter(None, map(str.strip, text.splitlines())):
        parts = [line] if len(line) <= characters else _SENTENCE.split(line)
        pieces += [part[i : i + characters] for part in parts for i in range(0, len(part), characters)]
    return pieces
