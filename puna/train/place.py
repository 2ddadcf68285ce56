"""Where a model is while it trains: whole in this process here, or laid out over several (`puna.train.parallel.placed`).

The loop knows the few things that differ: the parameters this process holds, its part of a batch, the backward pass, the norm of
the gradient. Data-parallel copies without sharding are also whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.model.cpu import keep_freed_memory
from puna.train.objectives import Objective
from puna.train.packing import Batch
from puna.train.parallel.layout import Precision, resolved
from puna.train.world import World


class Place(Protocol):
    """What the loop asks of a model, wherever it is.

    Attributes:
        precision: of its products, "auto" resolved. dtype: of what they take.
    """

    precision: Precision
    dtype: torch.dtype

    def named(self) -> dict[str, nn.Parameter]:
        """Parameters that learn, or this process's shares of them, by name."""
        ...

    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the whole model's weights, by name."""
        ...

    def train(self, training: bool = True) -> None:
        """Set the mode."""
        ...

    def local(self, batch: Batch) -> Batch:
        """This process's part of rows."""
        ...

    def backward(
        self, objective: Objective, batches: list[Batch], scales: Mapping[str, float]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Leave the gradient of `sum of scale * term` over all ranks in the parameters; returns this process's sums, and loss."""
        ...

    def gradient_norm(self) -> Tensor:
        """Norm of the gradient of the whole model, the same on every process."""
        ...


class Whole:
    """The whole model in this process; weights are float32, products are in `precision`."""

    def __init__(self, model: nn.Module, world: World, device: str, precision: Precision = "fp32"):
        self.model, self.world, self.device = model.to(device), world, device
        if device == "cpu":
            keep_freed_memory()
        if precision == "fp8":
            raise InputError("FP8 training is for models that are laid out", where="precision", fix="take bf16 here")
        self.precision = resolved(precision, device)
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32

    def named(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def shapes(self) -> dict[str, torch.Size]:
        return {name: weight.shape for name, weight in self.model.named_parameters()}

    def train(self, training: bool = True) -> None:
        self.model.train(training)

    def local(self, batch: Batch) -> Batch:
        return batch

    def backward(
        self, objective: Objective, batches: list[Batch], scales: Mapping[str, float]
    ) -> tuple[dict[str, Tensor], Tensor]:
        totals: dict[str, Tensor] = {}
        step_loss = torch.zeros((), device=self.device)
        for batch in batches:
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                terms, others = objective.sums(self.model, batch)
            loss: Any = sum((terms[term] * scale for term, scale in scales.items()), start=torch.zeros((), device=self.device))
            if loss.requires_grad:  # not so where all that learns is an adapter and this batch has nothing for it
                loss.backward()
            step_loss += loss.detach()
            add_up(totals, {**terms, **others})
        self.world.sum_gradients(parameter for parameter in self.model.parameters() if parameter.requires_grad)
        return totals, step_loss

    def gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients, foreach=True)


def add_up(totals: dict[str, Tensor], found: Mapping[str, Any]) -> None:
    """Add the sums of a micro-batch to those of the step, in float64 and without their gradient."""
    for key, value in found.items():
        value = torch.as_tensor(value).detach().double()
        totals[key] = totals[key] + value if key in totals else value
