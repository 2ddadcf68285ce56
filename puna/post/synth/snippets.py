"""Snippets: a random stretch of a document that inspires an exercise or an instruction (paper 4.3.1).

Whole lines, so that a snippet begins and ends where a reader would cut; one snippet per document.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pydantic import PositiveInt

from puna.core.settings import Settings as BaseSettings
from puna.post.synth.sources import Document, Sources
from puna.post.synth.steps import Item


class Snippets(BaseSettings):
    """Which documents snippets are cut from (groups of the data mix, languages; empty for all), and how long they are."""

    groups: tuple[str, ...] = ()
    langs: tuple[str, ...] = ()
    least_chars: PositiveInt = 80
    most_chars: PositiveInt = 1200


def snippets(settings: Snippets, count: int, sources: Sources, rng: Random) -> Iterator[Item]:
    """At most `count` items whose `given` is a snippet: a sample of the documents, in their order."""
    chosen: list[tuple[int, Item]] = []
    for number, document in enumerate(d for d in sources.documents(*settings.groups) if _fits(d, settings)):
        place = number if number < count else rng.randrange(number + 1)
        if place < count:
            chosen[place : place + 1] = [(number, _item(document, cut(document.text, settings, rng)))]
    yield from (item for _, item in sorted(chosen, key=lambda one: one[0]))


def _item(document: Document, snippet: str) -> Item:
    return Item(document.id, document.source, document.licence, snippet, (document.id,), document.lang or "en")


def _fits(document: Document, settings: Snippets) -> bool:
    written = len(document.text) >= settings.least_chars and not document.text.isspace()
    return written and (not settings.langs or document.lang in settings.langs)


def cut(text: str, settings: Snippets, rng: Random) -> str:
    """Some whole lines of a text, at most `most_chars` long unless one line is longer, which is then cut."""
    lines = [line for line in text.splitlines() if line.strip()]
    begin = rng.randrange(len(lines))
    while begin and sum(map(len, lines[begin:])) < settings.least_chars:
        begin -= 1
    end, size = begin + 1, len(lines[begin])
    while end < len(lines) and size + len(lines[end]) < settings.most_chars:
        size, end = size + len(lines[end]) + 1, end + 1
    return "\n".join(lines[begin:end])[: settings.most_chars]
