"""How a model is laid out over processes (section 3.3.2): how many ranks along each axis, the pipeline's schedule, how it is run.

A layout is execution and never identity: every layout computes the same loss, which `tests/train/test_parallel.py` holds it to.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from puna.plan.layout import Axes
from puna.train.drill import FAULT

Precision = Literal["fp32", "bf16", "fp8", "auto"]  # of products; weights, gradients and optimiser state are float32

Products = Literal["fp32", "bf16", "auto"]  # where a model is whole in one process


def resolved(precision: Precision, device: str) -> Precision:
    """What "auto" is on a device: bf16 where its products are faster than fp32's, fp32 elsewhere."""
    if precision != "auto":
        return precision
    if device == "cpu":
        return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


class Layout(Axes):
    """The axes, and how the processes along them are started and watched.

    Attributes:
        compile: compile each block.
        nodes: machines the processes are spread over, equally. meet: host:port where they find each other (port 0: any).
        restarts: how often all processes are started again, from the last checkpoint, after one of them died.
        drill: faults to happen on purpose (`puna.train.drill`).
        hang_seconds: a process that waits longer for the others gives up, and the run says who was behind.
    """

    compile: bool = False
    nodes: PositiveInt = 1
    meet: str = "127.0.0.1:0"
    restarts: NonNegativeInt = 3
    hang_seconds: PositiveFloat = 600.0
    drill: tuple[Annotated[str, Field(pattern=FAULT.pattern + "$")], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Layout:
        if self.world % self.nodes:
            raise ValueError(f"{self.world} processes do not spread equally over {self.nodes} nodes")
        return self
