"""What one call of the network computes: runs of neighbouring tokens, one run for each sequence.

A run of one token is a row being answered, a longer one a piece of a prompt or a guess to be checked. Everything that computes
(`torch_steps`, `native`, several ranks) takes a call in this form and nothing else, so the engine does not know which it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from puna.infer.rows import Rows
from puna.infer.scheduler import Chunk


@dataclass
class Guesses:
    """What may follow the newest tokens of R rows: `tokens` int64 [R, k], of which `sizes` [R] count in each row."""

    tokens: np.ndarray
    sizes: np.ndarray


class Steps(Protocol):
    """Whatever computes calls. `mixes`: whether runs of very different length may share a call at no cost."""

    mixes: bool

    def logits(self, spans: Spans) -> Tensor:
        """Write the runs' keys and values to their pages; logits [Q, V] after the tokens asked for."""
        ...


@dataclass
class Spans:
    """N runs with R tokens in all; every array int64.

    Attributes:
        tokens: [R], run after run. starts, sizes: [N], each run's first position and its length.
        table: [N, W] pages of each run's sequence.
        wanted: [Q] numbers of the tokens after which logits are asked for, ascending.
        seen: for each run what it sees (`puna.infer.sight`); None where none sees anything.
    """

    tokens: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    table: np.ndarray
    wanted: np.ndarray
    seen: list[tuple[Any, ...]] | None = None

    @property
    def sequence(self) -> np.ndarray:
        """[R]: the run of each token."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def offsets(self) -> np.ndarray:
        """[R]: each token's place in its run."""
        return np.arange(len(self.tokens)) - np.repeat(self.sizes.cumsum() - self.sizes, self.sizes)

    @property
    def positions(self) -> np.ndarray:
        """[R]: each token's position in its sequence."""
        return np.repeat(self.starts, self.sizes) + self.offsets

    def select(self, which: np.ndarray) -> Spans:
        """Some of the runs (bool [N]), with what is asked of them."""
        kept = which[self.sequence]
        asked = np.zeros(len(self.tokens), bool)
        asked[self.wanted] = True
        seen = None if self.seen is None else [each for each, taken in zip(self.seen, which, strict=True) if taken]
        table = self.table[which]
        return Spans(self.tokens[kept], self.starts[which], self.sizes[which], table, np.flatnonzero(asked[kept]), seen)


def spans_of_chunks(chunks: Sequence[Chunk], page_size: int) -> Spans:
    """Prompt chunks, with logits at the ends of the prompts that are complete with them, and everywhere in judged prompts."""
    starts = np.array([chunk.start for chunk in chunks])
    sizes = np.array([chunk.stop - chunk.start for chunk in chunks])
    table = np.zeros((len(chunks), -(-max(chunk.stop for chunk in chunks) // page_size)), np.int64)
    for row, chunk in enumerate(chunks):
        own = chunk.group.tables[0, : table.shape[1]]
        table[row, : len(own)] = own
    ends = sizes.cumsum()
    asked = [size if chunk.group.prompt_logprobs else int(chunk.complete) for chunk, size in zip(chunks, sizes, strict=True)]
    wanted = np.concatenate([np.arange(end - some, end) for end, some in zip(ends, asked, strict=True)])
    tokens = np.concatenate([chunk.group.prompt[chunk.start : chunk.stop] for chunk in chunks])
    seen = [chunk.group.seen for chunk in chunks]
    return Spans(tokens, starts, sizes, table, wanted, seen if any(seen) else None)


def spans_of_rows(rows: Rows, page_size: int, guesses: Guesses | None = None) -> Spans:
    """The newest token of each row and what is guessed to follow, with logits after each of them."""
    seen = [group.seen for group in rows.group] if rows.sees.any() else None
    if guesses is None:
        pages = int(rows.length.max()) // page_size + 1
        return Spans(rows.token, rows.length, np.ones(len(rows), np.int64), rows.table[:, :pages], np.arange(len(rows)), seen)
    sizes = guesses.sizes + 1
    tokens = np.concatenate((rows.token[:, None], guesses.tokens), axis=1)
    tokens = tokens[np.arange(tokens.shape[1]) < sizes[:, None]]
    pages = int((rows.length + guesses.sizes).max()) // page_size + 1
    return Spans(tokens, rows.length, sizes, rows.table[:, :pages], np.arange(len(tokens)), seen)


def joined(first: Spans, second: Spans) -> Spans:
    """Two calls as one."""
    table = np.zeros((len(first.sizes) + len(second.sizes), max(first.table.shape[1], second.table.shape[1])), np.int64)
    table[: len(first.sizes), : first.table.shape[1]] = first.table
    table[len(first.sizes) :, : second.table.shape[1]] = second.table
    wanted = np.concatenate((first.wanted, second.wanted + len(first.tokens)))
    tokens, starts, sizes = (np.concatenate(pair) for pair in zip(_runs(first), _runs(second), strict=True))
    seen = None
    if first.seen is not None or second.seen is not None:
        seen = (first.seen or [()] * len(first.sizes)) + (second.seen or [()] * len(second.sizes))
    return Spans(tokens, starts, sizes, table, wanted, seen)


def _runs(spans: Spans) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return spans.tokens, spans.starts, spans.sizes
