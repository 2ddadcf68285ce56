"""What a run of the training loop leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from puna.train.optim import Optimizer

Rows = dict[str, Any] | list[dict[str, Any]] | None


@dataclass
class TrainResult:
    """What a run of the loop leaves besides the trained model.

    Attributes:
        steps, tokens: optimiser steps done, token positions read (padding not counted), over all ranks.
        first_loss, loss: mean loss of the first and of the last log interval.
        skipped: steps left out because their loss or gradient was not finite, or a spike.
        rows: the rows written to metrics.jsonl.
        best_step, best_value: where `keep_best` was largest; the model then holds those weights.
        average: mean of the weights every `average_every` steps (float32), else None.
        optimizer: to go on with in another call.
        products: what products were computed in.
    """

    steps: int
    tokens: int
    first_loss: float
    loss: float
    skipped: list[int]
    rows: list[dict[str, Any]]
    best_step: int | None
    best_value: float | None
    average: dict[str, Tensor] | None
    optimizer: Optimizer
    products: str
