"""Needles for training and for the gate of each context length: names and values hidden in ordinary text, asked for at the end.

The paper goes to the next length only when needle-in-a-haystack is solved at this one (section 3.4.2). A tiny model must be
taught to look things up at all, so part of the rows are needle rows with several questions whose answers weigh more; the test
asks one question per row, at random depths, in text that was not trained on where there is enough of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import torch

from puna.core.rng import python_stream
from puna.train.corpus import Corpus
from puna.train.packing import Batch
from puna.train.stream import Documents
from puna.world.needle import Needle, needle_ids

FILLER_TOKENS = 48  # longest run of filler taken from one document
TEST_TOKENS = 8192  # positions run at once in the test


class NeedleRows:
    """Training rows with `pairs` hidden entries and `queries` questions.

    The loss of an answer's tokens weighs `answer_weight`, that of all others `filler_weight`: text to look through teaches
    little, and drowns the few answers when it weighs as much as ordinary rows.
    """

    def __init__(self, corpus: Corpus, seed: int, pairs: int, queries: int, answer_weight: float, filler_weight: float = 1.0):
        self.corpus, self.seed, self.pairs, self.queries = corpus, seed, pairs, queries
        self.answer_weight, self.filler_weight = answer_weight, filler_weight
        self.filler = filler_of(corpus.train, corpus.tokenizer.base_size)

    def batch(self, step: int, rows: range, seq_len: int) -> Batch:
        """The given rows of `step`, each one document of `seq_len` positions."""
        made = [self._row(step, row, seq_len + 1) for row in rows]
        ids = torch.tensor([needle.ids for needle in made])
        weights = torch.full((len(rows), seq_len), self.filler_weight)
        for row, needle in enumerate(made):
            for start, end in needle.answers:
                weights[row, start - 1 : end - 1] = self.answer_weight
        positions = torch.arange(seq_len).expand(len(rows), seq_len)
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), positions, torch.zeros_like(positions), weights)

    def _row(self, step: int, row: int, length: int) -> Needle:
        rng = python_stream(self.seed, "needle", step, row)
        return make_needle(rng, length, self.filler, self.corpus, self.pairs, self.queries)


def make_needle(
    rng: Random, length: int, filler: Callable[[Random], list[int]], corpus: Corpus, pairs: int, queries: int
) -> Needle:
    """One row of exactly `length` ids: BOS, filler with `pairs` entries, `queries` questions with their answers."""
    needle = needle_ids(rng, length - 1, filler, corpus.tokenizer.encode, pairs, queries)
    answers = [(start + 1, end + 1) for start, end in needle.answers]
    return replace(needle, ids=[corpus.tokenizer.bos_id, *needle.ids], answers=answers)


def filler_of(shards: dict[str, Documents], base_size: int) -> Callable[[Random], list[int]]:
    """A function drawing short runs of ordinary tokens from random documents, special tokens left out."""
    groups = [(shard, len(shard.ends)) for _, shard in sorted(shards.items()) if len(shard.ends)]
    sizes = [int(shard.ends[-1]) for shard, _ in groups]

    def filler(rng: Random) -> list[int]:
        shard, count = rng.choices(groups, sizes)[0]
        document = rng.randrange(count)
        start = int(shard.ends[document - 1]) if document else 0
        end = int(shard.ends[document])
        at = rng.randrange(start, max(start + 1, end - FILLER_TOKENS // 2))
        return [int(token) for token in shard.tokens[at : min(end, at + FILLER_TOKENS)] if token < base_size]

    return filler


@torch.no_grad()
def needle_accuracy(model: Any, corpus: Corpus, length: int, count: int, seed: int, pairs: int) -> float:
    """Share of `count` rows of `length` tokens whose whole answer is the most likely continuation, teacher-forced."""
    held = corpus.held if sum(len(shard.tokens) for shard in corpus.held.values()) > 20 * length else corpus.train
    filler = filler_of(held, corpus.tokenizer.base_size)
    device = next(model.parameters()).device
    right = 0
    at_once = max(1, TEST_TOKENS // length)
    for first in range(0, count, at_once):
        rows = [
            make_needle(python_stream(seed, "test", length, row), length, filler, corpus, pairs, 1)
            for row in range(first, min(count, first + at_once))
        ]
        states = model.hidden(torch.tensor([needle.ids for needle in rows], device=device))
        for row, needle in enumerate(rows):
            start, end = needle.answers[-1]
            guess = model.lm_head(states[row, start - 1 : end - 1]).argmax(-1).tolist()
            right += guess == list(needle.ids[start:end])
    return right / count
