"""Batches of ranked answers, and the log-probabilities and log-ratios that preferences are learnt from.

No answer sees another. Here each is a document of its own behind its own copy of the prompt, packed with document masks;
`puna.post.answer_rows` lays the answers of a prompt behind one copy of it. One function forms the sums for the policy and for the
reference, so the two cannot drift apart in what they mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.post.examples import Encoded, Ranked
from puna.train.objectives import beside, states_of
from puna.train.packing import PADDING, Batch, epochs, pack
from puna.train.vocabulary import target_losses
from puna.train.world import World

ABSENT = -1  # in `answers_PR`: this row has fewer answers than others


class RankedBatches:
    """Micro-batches of ranked rows as a pure function of the step.

    Args:
        rows: at least one.
        per_step: rows per optimiser step; `micro` rows per forward pass (None: all of the step's).
        length: tokens of a packed row, at least the longest answer.
        reference: log-probability of each row's answers under the reference, [rows, R], or None.
        rank, world: which of how many parts of every step's rows these batches are.
        lay: packs rows into a batch of rows of `length` tokens.
    """

    def __init__(
        self,
        rows: Sequence[Ranked],
        per_step: int,
        length: int,
        seed: int,
        *,
        micro: int | None = None,
        reference: Tensor | None = None,
        rank: int = 0,
        world: int = 1,
        lay: Callable[[Sequence[Ranked], int], Batch] | None = None,
    ):
        self.rows, self.per_step, self.length = rows, per_step, length
        self.micro, self.reference = micro or per_step, reference
        self.rank, self.world = rank, world
        self.lay = lay or ranked_batch
        self._order = epochs(len(rows), seed)

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step`."""
        drawn = self.drawn(step)
        return [self.batch(drawn[start : start + self.micro]) for start in range(0, len(drawn), self.micro)]

    def drawn(self, step: int) -> list[int]:
        """Numbers of the rows of `step`."""
        return [self._order[step * self.per_step + i] for i in range(self.rank, self.per_step, self.world)]

    def batch(self, drawn: Sequence[int]) -> Batch:
        """One batch of the rows numbered in `drawn`."""
        batch = self.lay([self.rows[i] for i in drawn], self.length)
        if self.reference is not None:
            batch.extra["reference_PR"] = self.reference[list(drawn)]
        return batch

    def steps(self, passes: float) -> int:
        """Optimiser steps in `passes` epochs, at least one."""
        return max(1, int(passes * len(self.rows) / self.per_step))


def ranked_batch(rows: Sequence[Ranked], length: int) -> Batch:
    """Pack every answer of `rows` as a document.

    `extra` holds: `answers_PR`, the document of each row's answers, best first, ABSENT where there is none; `ends_N`, the flat
    position of each document's last token; and of every learnt token the flat position before it, its id, its document, and
    whether it is a format token (`before_S`, `ids_S`, `answer_S`, `form_S`).
    """
    answers = [answer for row in rows for answer in row.answers]
    batch = pack([(answer.ids, answer.loss_mask) for answer in answers], None, length)
    learnt = batch.supervised()
    batch.extra |= {
        "answers_PR": answer_table(rows),
        "ends_N": _ends(batch, [len(answer.ids) for answer in answers]),
        "before_S": learnt,
        "ids_S": batch.targets_BT.reshape(-1)[learnt],
        "answer_S": batch.documents_BT.reshape(-1)[learnt],
        "form_S": _form_targets(batch, answers)[learnt],
    }
    return batch


def answer_table(rows: Sequence[Ranked]) -> Tensor:
    """`answers_PR`: the answers of all rows numbered in order, best first, ABSENT where a row has fewer than others."""
    table = np.full((len(rows), max(len(row.answers) for row in rows)), ABSENT, np.int64)
    number = 0
    for place, row in enumerate(rows):
        table[place, : len(row.answers)] = range(number, number + len(row.answers))
        number += len(row.answers)
    return torch.from_numpy(table)


def _form_targets(batch: Batch, answers: Sequence[Encoded]) -> Tensor:
    """True at the flat positions whose next token is format: the mask of each document, read one token further on."""
    starts = torch.tensor([0, *np.cumsum([len(answer.ids) for answer in answers])[:-1]])
    masks = torch.tensor([flag for answer in answers for flag in answer.format_mask], dtype=torch.bool)
    place = starts[batch.documents_BT.clamp(min=0)] + batch.positions_BT + 1
    return masks[place.clamp(max=len(masks) - 1)].reshape(-1)


def _ends(batch: Batch, lengths: Sequence[int]) -> Tensor:
    """Flat position of each document's last token, in the order of the documents."""
    documents = batch.documents_BT.reshape(-1)
    last = batch.positions_BT.reshape(-1) == torch.tensor(lengths)[documents.clamp(min=0)] - 1
    places = (last & (documents != PADDING)).nonzero()[:, 0]
    return places[documents[places].argsort()]


def answer_logps(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Per answer: the log-probability of its learnt tokens without format, and with it ([N] each, float32)."""
    x_BTD = states_of(model, batch)
    states_SD = x_BTD.flatten(0, 1).index_select(0, batch.extra["before_S"])
    logps_S = -target_losses(model.lm_head(states_SD), batch.extra["ids_S"])
    return _answer_sums(logps_S.masked_fill(batch.extra["form_S"], 0.0), batch), _answer_sums(logps_S, batch)


def content_tokens(batch: Batch) -> Tensor:
    """Per answer, how many tokens its log-probability without format is a sum of ([N], float32)."""
    return _answer_sums((~batch.extra["form_S"]).float(), batch)


def _answer_sums(values_S: Tensor, batch: Batch) -> Tensor:
    """The sum over each answer of a value per learnt token, [N]."""
    answers = int(batch.extra["answers_PR"].max()) + 1
    return values_S.new_zeros(answers).index_add(0, batch.extra["answer_S"], values_S)


def learnt_tokens(batch: Batch, answers_P: Tensor) -> int:
    """Learnt tokens (terminators included) of the answers named in `answers_P`."""
    return int(torch.isin(batch.extra["answer_S"], answers_P).sum())


@torch.no_grad()
def reference_logps(model: Any, batches: RankedBatches) -> Tensor:
    """Log-probability without format of every row's answers under `model`, [rows, R] float32; absent answers are 0.

    Each process computes some of the batches that one process would, and all get all.
    """
    starts = range(0, len(batches.rows), batches.micro)
    found = World.current().shared(starts, lambda mine: [_answers(model, batches, start) for start in mine])
    parts = [torch.tensor(logps, dtype=torch.float32) for logps in found]
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


def _answers(model: Any, batches: RankedBatches, start: int) -> list[list[float]]:
    """`reference_logps` of the batch that begins with row `start`."""
    batch = beside(model, batches.batch(range(start, min(start + batches.micro, len(batches.rows)))))
    answers_PR = batch.extra["answers_PR"]
    return answer_logps(model, batch)[0][answers_PR.clamp(min=0)].masked_fill(answers_PR == ABSENT, 0.0).tolist()
