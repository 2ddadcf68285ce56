"""Train the vocabulary: byte-level BPE merges over the kept documents, plus a few words the chat format needs whole (paper 3.2).

Training reads counts of pieces, never texts: those of a documents artifact, which it counts itself, or those of
`data.token_counts`, which counts shards side by side. Groups of documents are balanced by a limit on the characters each counts
for, so that no group swamps the others. The paper has 100K tokens of a general vocabulary and 28K more for other languages: a
second stage whose inputs hold a tokenizer extends it, with the languages the recipe names, and its ranks stay as they are. Role
names and the blank line of the header are whole tokens: a header costs four.

    counts:    {uses: data.token_counts, from: documents}
    general:   {uses: tokenizer.train, from: counts, vocab: 100256, languages: [en]}
    tokenizer: {uses: tokenizer.train, from: [counts, general], vocab: 128256, languages: [de, fr, it, pt, hi, es, th]}
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from pydantic import Field

from puna.core.errors import InputError
from puna.core.settings import Settings as StageSettings
from puna.core.stage import StageContext
from puna.tokenizer import special
from puna.tokenizer.bpe import SPLIT_PATTERN, Tokenizer
from puna.tokenizer.chat import HEADER_END, ROLES
from puna.tokenizer.counts import (
    CountedPart,
    Part,
    PieceCounts,
    Totals,
    add_up,
    count_documents,
    described_parts,
    document_shards,
    read_part,
)
from puna.tokenizer.fertility import fertility, tokens_of
from puna.tokenizer.ranks import with_words

KIND = "tokenizer"
REVISION = 3  # the chat template shows pictures
BYTES = 256
SHARE_UNIT = 1 << 20  # a group's share is a fraction of this, so that balanced counts stay whole numbers


class Settings(StageSettings):
    """What the vocabulary is made of.

    `vocab` counts everything: bytes, merges, words and the 256 special slots. A merge made fewer than `min_frequency` times in
    the training text is not worth a row of the embedding. `words` become single tokens (each must be one piece of the split
    pattern), and so do the words of the chat format, named or not. `group_chars` limits the characters that each group of
    documents counts for. `groups` and `languages` limit training to documents of these; none named means all.
    """

    vocab: int = Field(default=1280, ge=BYTES + special.SLOTS, le=2**20)
    min_frequency: int = Field(default=2, ge=1)
    words: tuple[str, ...] = (*ROLES, HEADER_END)
    group_chars: int | None = Field(default=20_000_000, ge=1)
    groups: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train on the kept texts of the `documents` input, or on `token_counts`, and write the four tokenizer files.

    Raises InputError for an empty corpus, a word that is no single piece, or a vocabulary too small for its words or its base. A
    corpus with fewer merges than asked for gives a smaller vocabulary and a note.
    """
    room = settings.vocab - special.SLOTS
    given = ctx.inputs.optional("tokenizer")
    base = Tokenizer.load(given.path) if given else None
    words = _checked_words((*ROLES, HEADER_END, *settings.words), room, base)
    parts = _parts(ctx)
    chosen = _chosen(parts, settings)
    shares = _group_shares(chosen, settings.group_chars)
    ctx.progress(1, 3)
    tokenizer = _train(chosen, shares, settings, words, base)
    ctx.progress(2, 3)
    if tokenizer.vocab_size < settings.vocab:
        ctx.note(
            f"the corpus gives {tokenizer.base_size - (base.base_size if base else BYTES)} tokens beyond the "
            f"{'base' if base else 'bytes'}: vocabulary {tokenizer.vocab_size}, {settings.vocab} was asked for"
        )
    tokenizer.save(ctx.out)
    sources = sum((counted.sources for counted in chosen.values()), Counter())
    for (source, licence), rows in sorted(sources.items()):
        ctx.add_source(source, licence, rows)
    summary = {
        "vocab_size": tokenizer.vocab_size,
        "base_size": tokenizer.base_size,
        "digest": tokenizer.digest,
        "documents": sum(sources.values()),
        "shares": {group: round(share, 6) for group, share in shares.items()},
        **_measured(tokenizer, parts),
    }
    if base:
        summary["extends"] = {
            "digest": base.digest,
            "base_size": base.base_size,
            "fertility": _measured(base, parts)["fertility"],
        }
    return summary


def _train(
    parts: dict[Part, CountedPart], shares: dict[str, float], settings: Settings, words: list[bytes], base: Tokenizer | None
) -> Tokenizer:
    from puna.tokenizer.merging import train_ranks

    room = settings.vocab - special.SLOTS
    unit = 1 if all(share == 1.0 for share in shares.values()) else SHARE_UNIT
    scaled = [_scaled(counted.pieces, max(1, round(shares[part.group] * unit))) for part, counted in parts.items()]
    trained = train_ranks(add_up(scaled), room, minimum=settings.min_frequency * unit, base=base.ranks if base else None)
    return Tokenizer.from_ranks(with_words(trained.ranks, words, room))


def _scaled(pieces: PieceCounts, factor: int) -> PieceCounts:
    return pieces if factor == 1 else pieces.scaled(factor)


def _parts(ctx: StageContext) -> dict[Part, CountedPart]:
    """The counts that the inputs hold or give."""
    counts = ctx.inputs.optional("token_counts")
    if counts is not None:
        return {part: read_part(counts.path, row) for part, row in described_parts(counts.path).items()}
    return count_documents(document_shards(ctx.inputs.one("documents").path))


def _chosen(parts: dict[Part, CountedPart], settings: Settings) -> dict[Part, CountedPart]:
    """The parts that training reads; InputError when they hold no text."""
    chosen = {
        part: counted
        for part, counted in parts.items()
        if (not settings.groups or part.group in settings.groups) and (not settings.languages or part.lang in settings.languages)
    }
    if not any(len(counted.pieces) for counted in chosen.values()):
        have = ", ".join(map(str, parts)) or "nothing"
        raise InputError(
            "no text is left to train a tokenizer on",
            where=f"groups and languages there are: {have}",
            fix="see the funnel of the documents stage, and `groups` and `languages` of this one",
        )
    return chosen


def _group_shares(parts: dict[Part, CountedPart], limit: int | None) -> dict[str, float]:
    """The weight of each group's counts, so that it counts for at most `limit` characters."""
    chars: dict[str, int] = defaultdict(int)
    for part, counted in parts.items():
        chars[part.group] += counted.pieces.totals.chars
    return {group: 1.0 if limit is None else min(1.0, limit / max(count, 1)) for group, count in sorted(chars.items())}


def _checked_words(words: tuple[str, ...], room: int, base: Tokenizer | None) -> list[bytes]:
    import regex

    for word in words:
        if regex.findall(SPLIT_PATTERN, word) != [word]:
            raise InputError(
                f"{word!r} cannot be a single token: the split pattern does not keep it in one piece",
                where="words",
                fix="give words of letters (one leading space is fine), up to three digits, or a run of punctuation",
            )
    distinct = list(dict.fromkeys(word.encode() for word in words))
    longer = [word for word in distinct if len(word) > 1]
    fixed = base.base_size if base else BYTES
    new = [word for word in longer if base is None or word not in base.ranks]
    if fixed + len(new) > room:
        raise InputError(
            f"a vocabulary of {room + special.SLOTS} has no room for {len(new)} words beside "
            f"{'the base' if base else 'bytes'} and special tokens",
            where="vocab",
            fix=f"set vocab to at least {fixed + special.SLOTS + len(new)}",
        )
    return longer


def _measured(tokenizer: Tokenizer, parts: dict[Part, CountedPart]) -> dict[str, Any]:
    """Characters and bytes per token of each group, and fertility in each language, over everything that was counted."""
    groups: dict[str, tuple[int, Totals]] = {}
    languages: dict[str, tuple[int, Totals]] = {}
    for part, counted in parts.items():
        tokens = tokens_of(tokenizer, counted.pieces)
        for sums, key in ((groups, part.group), (languages, part.lang)):
            before, totals = sums.get(key, (0, Totals()))
            sums[key] = before + tokens, totals + counted.pieces.totals
    return {
        "compression": {
            group: {"chars_per_token": round(of.chars / tokens, 4), "bytes_per_token": round(of.bytes / tokens, 4)}
            for group, (tokens, of) in sorted(groups.items())
        },
        "fertility": {lang: fertility(tokens, of) for lang, (tokens, of) in sorted(languages.items())},
    }
