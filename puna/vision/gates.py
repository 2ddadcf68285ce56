"""How far the gates of adapters stand open, as figures of training: near 0 after many steps, an adapter is not learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from puna.train.objectives import Objective
from puna.train.packing import Batch
from puna.train.shares import whole
from puna.vision.model import VisionLlama

DIGITS = 6


class Gates:
    """An objective that also reports tanh of every gate of the adapters, as `gate/<text layer>.attn` and `.mlp`.

    Gates of video layers are called `gate/video.<text layer>...`.
    """

    def __init__(self, objective: Objective, model: VisionLlama):
        self.objective, self.weights = objective, objective.weights
        self.gates = _gates(model)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Those of the objective; a gate counts once a batch."""
        return self.objective.counts(batch) | dict.fromkeys(self.gates, 1.0)

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Those of the objective, and the gates."""
        terms, others = self.objective.sums(model, batch)
        return terms, others | {name: _opening(*place) for name, place in self.gates.items()}


@torch.no_grad()
def gates_of(model: VisionLlama) -> dict[str, float]:
    """tanh of every gate, rounded."""
    return {name.removeprefix("gate/"): round(float(_opening(*place)), DIGITS) for name, place in _gates(model).items()}


def _opening(layer: Any, gate: str) -> Tensor:
    """tanh of a gate of a layer, whether this process has it or a share of it."""
    return whole(getattr(layer, gate).detach()).tanh().sum()


def _gates(model: VisionLlama) -> dict[str, tuple[Any, str]]:
    """Every gate by the name of its figure: the layer that has it, and what it is called there."""
    found: dict[str, tuple[Any, str]] = {}
    for part, prefix in ((model.adapter, ""), (model.video, "video.")):
        for place, layer in zip(part.config.places, part.layers, strict=True) if part is not None else ():
            found[f"gate/{prefix}{place}.attn"] = layer, "cross_attn_attn_gate"
            found[f"gate/{prefix}{place}.mlp"] = layer, "cross_attn_mlp_gate"
    return found
