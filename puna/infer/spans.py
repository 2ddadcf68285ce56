"""What one call of the network computes: runs of neighbouring tokens, one run for each sequence.

A run of one token is a row being answered, a longer one a piece of a prompt or a guess to be checked. Everything that computes
(`torch_steps`, `native`, several ranks) takes a call in this form and nothing else, so the engine does not know which it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from puna.infer.rows import Rows
from puna.infer.scheduler import Chunk


@dataclass
class Spans:
    """N runs with R tokens in all; every array int64.

    Attributes:
        tokens: [R], run after run. starts, sizes: [N], each run's first position and its length.
        table: [N, W] pages of each run's sequence.
        wanted: [Q] numbers of the tokens after which logits are asked for, ascending.
    """

    tokens: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    table: np.ndarray
    wanted: np.ndarray

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


def spans_of_chunks(chunks: Sequence[Chunk], page_size: int) -> Spans:
    """Prompt chunks, with logits at the ends of the prompts that are complete with them."""
    starts = np.array([chunk.start for chunk in chunks])
    sizes = np.array([chunk.stop - chunk.start for chunk in chunks])
    table = np.zeros((len(chunks), -(-max(chunk.stop for chunk in chunks) // page_size)), np.int64)
    for row, chunk in enumerate(chunks):
        own = chunk.group.tables[0, : table.shape[1]]
        table[row, : len(own)] = own
    complete = np.array([chunk.stop == len(chunk.group.prompt) for chunk in chunks])
    tokens = np.concatenate([chunk.group.prompt[chunk.start : chunk.stop] for chunk in chunks])
    return Spans(tokens, starts, sizes, table, (sizes.cumsum() - 1)[complete])


def spans_of_rows(rows: Rows, page_size: int) -> Spans:
    """The newest token of each row, with logits after it."""
    pages = int(rows.length.max()) // page_size + 1
    return Spans(rows.token, rows.length, np.ones(len(rows), np.int64), rows.table[:, :pages], np.arange(len(rows)))
