"""All answers of a prompt in one row, the prompt once (section 4.1.2: two or three responses, shuffled, behind their prompt).

`blocks`: the answers do not see each other and the positions of each go on where the prompt ends, so scores and gradients are
those of separate documents, and the prompt is computed once. `row` is the paper's own form, an approximation: every answer sees
those before it, positions run on, and the order is drawn anew each time a row is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, takewhile
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from puna.core.rng import numpy_stream
from puna.post.examples import Ranked
from puna.post.pairs import answer_table
from puna.train.packing import PADDING, Batch, epochs, pack

Form = Literal["documents", "blocks", "row"]


class AnswerRows:
    """Micro-batches of ranked rows in one of the one-row forms, a pure function of the step; arguments as of `RankedBatches`."""

    def __init__(
        self, rows: Sequence[Ranked], per_step: int, length: int, seed: int, *, form: Form, micro: int | None = None,
        rank: int = 0, world: int = 1,
    ):  # fmt: skip
        self.rows, self.per_step, self.length, self.seed, self.form = rows, per_step, length, seed, form
        self.micro, self.rank, self.world = micro or per_step, rank, world
        self._order = epochs(len(rows), seed)

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step`."""
        draws = range(step * self.per_step + self.rank, (step + 1) * self.per_step, self.world)
        drawn = [(self.rows[self._order[draw]], self._shuffled(draw)) for draw in draws]
        parts = [drawn[start : start + self.micro] for start in range(0, len(drawn), self.micro)]
        return [answer_rows([row for row, _ in part], self.length, self.form, [order for _, order in part]) for part in parts]

    def _shuffled(self, draw: int) -> list[int]:
        answers = len(self.rows[self._order[draw]].answers)
        return numpy_stream(self.seed, "answers", draw).permutation(answers).tolist()


def shared_tokens(row: Ranked) -> int:
    """Leading tokens that all answers of a row have in common and none of them learns: the prompt with its open header."""
    unlearnt = min(sum(1 for _ in takewhile(lambda flag: not flag, answer.loss_mask)) for answer in row.answers)
    columns = zip(*(answer.ids[:unlearnt] for answer in row.answers), strict=True)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def row_tokens(row: Ranked) -> int:
    """Tokens of a row in the one-row forms."""
    prompt = shared_tokens(row)
    return prompt + sum(len(answer.ids) - prompt for answer in row.answers)


def within(rows: Sequence[Ranked], limit: int, form: Form) -> list[Ranked]:
    """The rows that a model of `limit` positions reads: in the form `row` positions run over all answers, else over one."""
    return [row for row in rows if form != "row" or row_tokens(row) <= limit]


def in_blocks(rows: Sequence[Ranked], length: int) -> Batch:
    """`answer_rows` in blocks, where the order of the answers makes no difference."""
    return answer_rows(rows, length, "blocks", [range(len(row.answers)) for row in rows])


def answer_rows(rows: Sequence[Ranked], length: int, form: Form, orders: Sequence[Sequence[int]]) -> Batch:
    """Pack `rows`, each a document of its prompt and its answers in the order given, into rows of `length` tokens.

    `extra` is as in `puna.post.pairs.ranked_batch`.
    """
    laid = [_laid(row, order) for row, order in zip(rows, orders, strict=True)]
    batch = pack([(ids, [0] * len(ids)) for ids, _, _ in laid], None, length)
    lengths = [len(ids) for ids, _, _ in laid]
    place_BT, flat = end_to_end(batch, lengths)
    if form == "blocks":
        restarted, blocks = (torch.tensor([value for one in laid for value in one[column]]) for column in (1, 2))
        real = batch.documents_BT != PADDING
        batch = replace(batch, positions_BT=restarted[place_BT] * real, blocks_BT=blocks[place_BT] * real)
    places = [_places(row, order, start) for row, order, start in zip(rows, orders, starts_of(lengths), strict=True)]
    batch.extra |= {"answers_PR": answer_table(rows), "ends_N": flat[[place[-1] for row in places for place in row]]}
    batch.extra |= _tokens(rows, places, flat)
    return batch


def end_to_end(batch: Batch, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Where the tokens of a packed batch are when its documents, of these lengths, are put end to end, and back.

    Returns:
        place [B,T] of every position (that of some token in padding), and flat position [tokens] in the batch of every token.
    """
    place_BT = torch.tensor(starts_of(lengths))[batch.documents_BT.clamp(min=0)] + batch.positions_BT
    real = batch.documents_BT != PADDING
    flat = torch.empty(sum(lengths), dtype=torch.int64)
    flat[place_BT[real]] = real.reshape(-1).nonzero()[:, 0]
    return place_BT, flat


def starts_of(lengths: Sequence[int]) -> list[int]:
    """Place of the first token of each document when they are put end to end."""
    return [0, *np.cumsum(lengths)[:-1].tolist()]


def _laid(row: Ranked, order: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Ids of a row with its answers in `order`, each token's position counted along its own answer, and its block."""
    prompt = shared_tokens(row)
    ids, positions, blocks = list(row.answers[0].ids[:prompt]), list(range(prompt)), [0] * prompt
    for block, i in enumerate(order, start=1):
        tail = row.answers[i].ids[prompt:]
        ids += tail
        positions += range(prompt, prompt + len(tail))
        blocks += [block] * len(tail)
    return ids, positions, blocks


def _places(row: Ranked, order: Sequence[int], start: int) -> list[list[int]]:
    """Where the tokens of each answer, best first, and the one before its first lie in the rows put end to end."""
    prompt, found = shared_tokens(row), {}
    at = start + prompt
    for i in order:
        tail = len(row.answers[i].ids) - prompt
        found[i] = [start + prompt - 1, *range(at, at + tail)]
        at += tail
    return [found[i] for i in range(len(row.answers))]


def _tokens(rows: Sequence[Ranked], places: Sequence[list[list[int]]], flat: Tensor) -> dict[str, Tensor]:
    """Of every learnt token the flat position before it, its id, its answer's number, and whether it is a format token."""
    before: list[int] = []
    ids: list[int] = []
    numbers: list[int] = []
    form: list[int] = []
    answers = (answer for row in rows for answer in row.answers)
    for number, (answer, place) in enumerate(zip(answers, chain.from_iterable(places), strict=True)):
        prompt = len(answer.ids) - (len(place) - 1)
        learnt = [i for i, flag in enumerate(answer.loss_mask[prompt:]) if flag]
        before += [place[i] for i in learnt]
        ids += [answer.ids[prompt + i] for i in learnt]
        numbers += [number] * len(learnt)
        form += [answer.format_mask[prompt + i] for i in learnt]
    tensors = {"ids_S": ids, "answer_S": numbers}
    return {name: torch.tensor(values) for name, values in tensors.items()} | {
        "before_S": flat[before],
        "form_S": torch.tensor(form, dtype=torch.bool),
    }
