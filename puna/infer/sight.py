"""What an engine needs of a model that sees: eyes, and steps that take rows with pictures and rows without in calls of their own.

A picture enters by cross-attention (paper 7.2), so the text model computes text as if there were no pictures at all: on its own
kernels, to the same bit. Only rows that see something take PyTorch's steps, with what the eyes attach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from puna.infer.request import Shown
from puna.infer.spans import Spans, Steps
from puna.infer.torch_steps import TorchSteps
from puna.model.llama import Attached


class Eyes(Protocol):
    """Adapters around the engine's model (`puna.vision.eyes.Eyes`)."""

    def check(self, media: Sequence[Shown]) -> None:
        """InputError for what cannot be seen."""
        ...

    def keys(self, media: Sequence[Shown]) -> list[tuple[int, bytes]]:
        """What a prompt's pages are computed of besides its tokens: keys, and the places from which on they count."""
        ...

    def see(self, media: Sequence[Shown]) -> tuple[Any, ...]:
        """Look at what a prompt shows; what is kept of it, for `attach`."""
        ...

    def attach(self, rows: Sequence[tuple[Any, ...]], positions_BT: Tensor) -> Attached | None:
        """What rows see from these positions, for the model's `hidden`."""
        ...

    def to(self, dtype: torch.dtype) -> None:
        """Compute in this type."""
        ...

    def forget(self) -> None:
        """Drop what is kept for later prompts."""
        ...


class SightSteps:
    """Steps of a model with eyes, over one cache: `text` takes the runs without media, `seeing` the others."""

    def __init__(self, text: Steps, seeing: TorchSteps):
        self.text, self.seeing, self.mixes = text, seeing, text.mixes

    def logits(self, spans: Spans) -> Tensor:
        """Write the runs' keys and values to their pages; logits [Q, V] after the tokens asked for."""
        if spans.seen is None:
            return self.text.logits(spans)
        sees, long = np.array([bool(seen) for seen in spans.seen]), spans.sizes > 1
        found, asked = [], []
        for which, steps in ((~sees, self.text), (sees & ~long, self.seeing), (sees & long, self.seeing)):  # runs of like length
            if which.any():
                part = spans.select(which)
                part.seen = part.seen if steps is self.seeing else None
                found.append(steps.logits(part).float())
                asked.append(np.flatnonzero(which[spans.sequence[spans.wanted]]))
        order = np.concatenate(asked).argsort()
        return torch.cat(found)[torch.from_numpy(order).to(found[0].device)]
