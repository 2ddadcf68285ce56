"""Long documents for long-context data: documents that are long enough, or several short ones of a source after one another
(paper section 4.3.4: 16K, 32K, 64K and 128K tokens, sorted into buckets of length).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import PositiveInt, field_validator

from puna.core.settings import Settings as BaseSettings
from puna.post.synth.passages import passages
from puna.post.synth.sources import Document, Sources
from puna.post.synth.steps import Item


class Lengths(BaseSettings):
    """How long the documents are and how they are cut.

    Attributes:
        characters: lengths in characters, one bucket each, taken in turn (four characters are about a token).
        passage: characters of a passage (paper: chunks of 8K tokens).
        join: whether short documents of one source and language are joined until they reach a length.
        groups, langs: of the data mix, and languages; empty for all.
    """

    characters: tuple[PositiveInt, ...] = (65_536, 131_072, 262_144, 524_288)
    passage: PositiveInt = 32_768
    join: bool = True
    groups: tuple[str, ...] = ()
    langs: tuple[str, ...] = ()

    @field_validator("characters")
    @classmethod
    def _some(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("at least one length is needed")
        return value


@dataclass(frozen=True)
class LongDocument:
    """A text, the passages it falls into, and its language and bucket of length."""

    text: str
    passages: tuple[str, ...]
    lang: str
    bucket: int


def long_documents(lengths: Lengths, count: int, sources: Sources, rng: random.Random) -> Iterator[Item]:
    """At most `count` items whose `given` is a LongDocument of a bucket's length or up to a passage longer, of two passages
    or more; buckets in turn."""
    buckets, made = list(lengths.characters), 0
    waiting: dict[tuple[str, str, str], list[Document]] = {}
    for document in sources.documents(*lengths.groups):
        if lengths.langs and document.lang not in lengths.langs:
            continue
        wanted = buckets[made % len(buckets)]
        kind = (document.source, document.licence, document.lang)
        held = [*(waiting.get(kind, []) if lengths.join else []), document]
        if sum(len(one.text) + 2 for one in held) < wanted:
            waiting[kind] = held
            continue
        waiting[kind] = []
        yield _joined(held, wanted, lengths, rng)
        made += 1
        if made == count:
            return


def _joined(held: list[Document], wanted: int, lengths: Lengths, rng: random.Random) -> Item:
    rng.shuffle(held)
    text = _cut("\n\n".join(one.text.strip() for one in held), wanted + lengths.passage)
    given = LongDocument(text, tuple(passages(text, lengths.passage)), held[0].lang, wanted)
    return Item("-".join(one.id for one in held[:3]), held[0].source, held[0].licence, given, tuple(one.id for one in held))


def _cut(text: str, characters: int) -> str:
    """The first lines of a text that has more characters than wanted."""
    if len(text) <= characters:
        return text
    return text[:characters].rpartition("\n")[0] or text[:characters]


def nearest(wanted: str, others: Iterable[str], count: int) -> list[str]:
    """The passages most like a text by BM25, the likest first."""
    from puna.post.tools.search import Search

    listed = list(others)
    return [listed[hit.document] for hit in Search(("", one) for one in listed).find(wanted, count)]
