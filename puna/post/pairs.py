"""Batches of ranked answers, and the log-probabilities and log-ratios that preferences are learnt from.

Each answer is a document of its own behind its own copy of the prompt, packed with document masks, so no answer sees another:
the paper puts all answers of a prompt into one row as an approximation to exactly this (section 4.1.2). One function forms the
sums for the policy and for the reference, so the two cannot drift apart in what they mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.post.examples import Encoded, Ranked
from puna.train.objectives import beside, document_sums, token_logps
from puna.train.packing import IGNORED, PADDING, Batch, epochs, pack
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
    ):
        self.rows, self.per_step, self.length = rows, per_step, length
        self.micro, self.reference = micro or per_step, reference
        self.rank, self.world = rank, world
        self._order = epochs(len(rows), seed)

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step`."""
        drawn = [self._order[step * self.per_step + i] for i in range(self.rank, self.per_step, self.world)]
        return [self.batch(drawn[start : start + self.micro]) for start in range(0, len(drawn), self.micro)]

    def batch(self, drawn: Sequence[int]) -> Batch:
        """One batch of the rows numbered in `drawn`."""
        batch = ranked_batch([self.rows[i] for i in drawn], self.length)
        if self.reference is not None:
            batch.extra["reference_PR"] = self.reference[list(drawn)]
        return batch

    def steps(self, passes: float) -> int:
        """Optimiser steps in `passes` epochs, at least one."""
        return max(1, int(passes * len(self.rows) / self.per_step))


def ranked_batch(rows: Sequence[Ranked], length: int) -> Batch:
    """Pack every answer of `rows` as a document.

    `extra` holds: `answers_PR`, the document of each row's answers, best first, ABSENT where there is none; `form_BT`, True where
    the target is a format token; `ends_N`, the flat position of each document's last token; and of every learnt token the flat
    position before it, its id and its document (`before_S`, `ids_S`, `answer_S`).
    """
    answers = [answer for row in rows for answer in row.answers]
    batch = pack([(answer.ids, answer.loss_mask) for answer in answers], None, length)
    learnt = batch.supervised()
    batch.extra |= {
        "answers_PR": answer_table(rows),
        "form_BT": _form_targets(batch, answers),
        "ends_N": _ends(batch, [len(answer.ids) for answer in answers]),
        "before_S": learnt,
        "ids_S": batch.targets_BT.reshape(-1)[learnt],
        "answer_S": batch.documents_BT.reshape(-1)[learnt],
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
    """True at positions whose target is format: the mask of each document, read one token further on."""
    starts = torch.tensor([0, *np.cumsum([len(answer.ids) for answer in answers])[:-1]])
    masks = torch.tensor([flag for answer in answers for flag in answer.format_mask], dtype=torch.bool)
    learnt = batch.targets_BT != IGNORED
    place = starts[batch.documents_BT.clamp(min=0)] + batch.positions_BT + 1
    return masks[place.clamp(max=len(masks) - 1)] & learnt


def _ends(batch: Batch, lengths: Sequence[int]) -> Tensor:
    """Flat position of each document's last token, in the order of the documents."""
    documents = batch.documents_BT.reshape(-1)
    last = batch.positions_BT.reshape(-1) == torch.tensor(lengths)[documents.clamp(min=0)] - 1
    places = (last & (documents != PADDING)).nonzero()[:, 0]
    return places[documents[places].argsort()]


def answer_logps(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Per document: the log-probability of its learnt tokens without format, and with it ([N] each, float32)."""
    logps_BT = token_logps(model, batch)
    documents = int(batch.extra["answers_PR"].max()) + 1
    content = document_sums(logps_BT.masked_fill(batch.extra["form_BT"], 0.0), batch.documents_BT, documents)
    return content, document_sums(logps_BT, batch.documents_BT, documents)


def content_tokens(batch: Batch) -> Tensor:
    """Per document, how many tokens its log-probability without format is a sum of ([N], float32)."""
    content_BT = (batch.targets_BT != IGNORED) & ~batch.extra["form_BT"]
    return document_sums(content_BT.float(), batch.documents_BT, int(batch.extra["answers_PR"].max()) + 1)


def learnt_tokens(batch: Batch, answers_P: Tensor) -> int:
    """Learnt tokens (terminators included) of the documents named in `answers_P`."""
    documents = batch.documents_BT.reshape(-1)[batch.supervised()]
    return int(torch.isin(documents, answers_P).sum())


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
