"""Train the vocabulary: byte-level BPE merges over the kept documents, plus a few words the chat format needs whole (paper 3.2).

The paper mixes 100K tokens of a general vocabulary with 28K for other languages; here the groups of documents are balanced
instead, by a limit on the characters taken from each, so that no group swamps the others. rustbpe does the counting and merging
(it was three times as fast as the Hugging Face trainer on one core). Among pairs with equal counts it joins the one with the
smallest left id, then the smallest right id, so the result does not depend on threads or on the order of documents; a slow
trainer in the tests states the same rule. Role names and the blank line of the header are whole tokens: a header costs four.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.core.settings import Settings as StageSettings
from puna.core.stage import StageContext
from puna.tokenizer import special
from puna.tokenizer.bpe import SPLIT_PATTERN, Tokenizer, safe_pieces
from puna.tokenizer.chat import HEADER_END, ROLES
from puna.tokenizer.hf import merges

KIND = "tokenizer"
REVISION = 1
BYTES = 256
SAMPLE_CHARS = 500_000  # characters per group on which the summary measures compression


class Settings(StageSettings):
    """What the vocabulary is made of.

    `vocab` counts everything: bytes, merges, words and the 256 special slots. A merge made fewer than `min_frequency` times in
    the training text is not worth a row of the embedding. `words` become single tokens (each must be one piece of the split
    pattern), and so do the words of the chat format, named or not. `group_chars` limits the characters taken from each group of
    documents.
    """

    vocab: int = Field(default=1280, ge=BYTES + special.SLOTS, le=2**20)
    min_frequency: int = Field(default=2, ge=1)
    words: tuple[str, ...] = (*ROLES, HEADER_END)
    group_chars: int | None = Field(default=20_000_000, ge=1)


class Document(NamedTuple):
    """What training needs of a kept document."""

    id: str
    group: str
    source: str
    licence: str
    text: str


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train on the kept texts of the `documents` input and write the four tokenizer files.

    Raises InputError for an empty corpus, a word that is no single piece, or a vocabulary too small for its words. A corpus with
    fewer merges than asked for gives a smaller vocabulary and a note.
    """
    room = settings.vocab - special.SLOTS
    words = _checked_words((*ROLES, HEADER_END, *settings.words), room)
    documents = Path(ctx.inputs.one("documents").path)
    shares = _group_shares(documents, settings.group_chars)
    trained = train_ranks((document.text for document in _chosen(documents, shares, ctx)), room)
    ctx.progress(1, 3)
    counts, sources = _usage(trained, _chosen(documents, shares, ctx))
    frequent = drop_rare(trained, counts, settings.min_frequency)
    tokenizer = Tokenizer.from_ranks(with_words(frequent, words, room))
    ctx.progress(2, 3)
    if tokenizer.vocab_size < settings.vocab:
        ctx.note(
            f"the corpus gives {tokenizer.base_size - BYTES} tokens beyond the bytes: vocabulary {tokenizer.vocab_size}, "
            f"{settings.vocab} was asked for"
        )
    tokenizer.save(ctx.out)
    for (source, licence), rows in sorted(sources.items()):
        ctx.add_source(source, licence, rows)
    return {
        "vocab_size": tokenizer.vocab_size,
        "base_size": tokenizer.base_size,
        "digest": tokenizer.digest,
        "documents": sum(sources.values()),
        "shares": {group: round(share, 6) for group, share in shares.items()},
        "compression": _compression(tokenizer, _chosen(documents, shares, ctx)),
    }


def train_ranks(texts: Iterator[str], size: int) -> dict[bytes, int]:
    """Ranks of up to `size` tokens: the 256 bytes, then merges in the order they were made; fewer if the texts hold fewer."""
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator((piece for text in texts for piece in safe_pieces(text)), size, pattern=SPLIT_PATTERN)
    return {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}


def drop_rare(ranks: dict[bytes, int], counts: list[int], minimum: int) -> dict[bytes, int]:
    """Cut the tail of merges that were made fewer than `minimum` times.

    `counts[rank]` is how often the token stands in the encoded training text. A merge was made that often, plus as often as each
    merge it went into, so the counts are handed down from the last merge to the first.
    """
    made = list(counts)
    for left, right in reversed(merges(ranks)):
        joined = made[ranks[left + right]]
        made[ranks[left]] += joined
        made[ranks[right]] += joined
    size = len(ranks)
    while size > BYTES and made[size - 1] < minimum:
        size -= 1
    return {token: rank for token, rank in ranks.items() if rank < size}


def with_words(ranks: dict[bytes, int], words: list[bytes], room: int) -> dict[bytes, int]:
    """Add each word as a token of its own, in place of the last merges where there is no room left.

    An added word is found when it is a whole piece of the split pattern, which is how the chat format uses it.
    """
    size = min(len(ranks), room)
    while True:
        kept = {token: rank for token, rank in ranks.items() if rank < size}
        missing = [word for word in words if word not in kept]
        if size + len(missing) <= room:
            return kept | {word: size + i for i, word in enumerate(missing)}
        size -= 1


def _checked_words(words: tuple[str, ...], room: int) -> list[bytes]:
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
    if BYTES + len(longer) > room:
        raise InputError(
            f"a vocabulary of {room + special.SLOTS} has no room for {len(longer)} words beside bytes and special tokens",
            where="vocab",
            fix=f"set vocab to at least {BYTES + special.SLOTS + len(longer)}",
        )
    return longer


def _group_shares(documents: Path, limit: int | None) -> dict[str, float]:
    """Which share of each group's documents is taken so that about `limit` characters remain."""
    chars: dict[str, int] = defaultdict(int)
    for document in _kept(documents):
        chars[document.group] += len(document.text)
    if not any(chars.values()):
        raise InputError(
            "no text is left to train a tokenizer on", where=str(documents.name), fix="see the funnel of the documents stage"
        )
    return {group: 1.0 if limit is None else min(1.0, limit / max(count, 1)) for group, count in sorted(chars.items())}


def _chosen(documents: Path, shares: dict[str, float], ctx: StageContext) -> Iterator[Document]:
    """The kept documents, thinned per group by a draw that belongs to each document's id."""
    for document in _kept(documents):
        share = shares[document.group]
        if share >= 1.0 or derive_seed(ctx.seed, "tokenizer", document.id) < share * 2**63:
            yield document


def _kept(documents: Path) -> Iterator[Document]:
    import pyarrow.parquet as pq

    files = sorted((documents / "documents").glob("*.parquet"))
    if not files:
        raise InputError("the documents input holds no documents/*.parquet", where=str(documents.name))
    for file in files:
        beside = documents / "annotations" / file.name
        if not beside.is_file():
            raise InputError("a shard of documents has no annotations beside it", where=f"annotations/{file.name}")
        table, keep = pq.ParquetFile(file), pq.read_table(beside, columns=["keep"])["keep"].to_pylist()
        if table.metadata.num_rows != len(keep):
            raise InputError("documents and annotations differ in their number of rows", where=file.name)
        columns = [name for name in Document._fields if name in table.schema_arrow.names]
        rows = (row for batch in table.iter_batches(columns=columns) for row in batch.to_pylist())
        for row, kept in zip(rows, keep, strict=True):
            if kept and row["text"]:
                yield Document(row["id"], row.get("group") or "general", row["source"], row["licence"], row["text"])


def _usage(ranks: dict[bytes, int], chosen: Iterator[Document]) -> tuple[list[int], dict[tuple[str, str], int]]:
    """How often each token stands in the encoded texts, and how many documents came from each source and licence."""
    import numpy as np

    tokenizer = Tokenizer.from_ranks(ranks)
    counts = np.zeros(len(ranks), dtype=np.int64)
    sources: dict[tuple[str, str], int] = defaultdict(int)
    for document in chosen:
        counts += np.bincount(tokenizer.encode(document.text), minlength=len(ranks))
        sources[document.source, document.licence] += 1
    return counts.tolist(), sources


def _compression(tokenizer: Tokenizer, chosen: Iterator[Document]) -> dict[str, dict[str, float]]:
    """Characters and bytes per token of each group, measured on its first half million characters."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for document in chosen:
        total = sums[document.group]
        if total[0] < SAMPLE_CHARS:
            text = document.text
            for i, value in enumerate((len(text), len(text.encode()), len(tokenizer.encode(text)))):
                total[i] += value
    return {
        group: {"chars_per_token": round(chars / tokens, 4), "bytes_per_token": round(size / tokens, 4)}
        for group, (chars, size, tokens) in sorted(sums.items())
    }
