"""Scaling laws from a ladder of small models to a bigger one (paper 3.1.2 and 3.2.1), fitted without a solver.

    saturating   L(C) = floor + scale * (C / C0) ^ -exponent      floor and scale per mix, one exponent for all mixes
    power        L(C) = scale * (C / C0) ^ -exponent              scale and exponent per mix

C are training FLOPs. Three numbers for each mix of a short ladder would fit anything and predict nothing, so the mixes share the
exponent: it belongs to the architecture more than to the data. Given the exponent the law is linear, so the fit is exact least
squares on a grid of exponents: no starting values, no local minima, and thousands of redrawn tables are fitted at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["saturating", "power"]
EXPONENTS = np.geomspace(0.01, 3.0, 400)  # published exponents of loss in compute lie between 0.05 and 0.6


@dataclass(frozen=True)
class Law:
    """Fitted laws. `floor`, `scale`, `exponent` have the leading shape of the losses ([..., mixes]); `unit` is C0."""

    floor: np.ndarray
    scale: np.ndarray
    exponent: np.ndarray
    unit: float

    def predict(self, flops: float | np.ndarray) -> np.ndarray:
        """Loss at `flops`: [..., mixes], or [..., mixes, sizes] for an array [sizes]."""
        x = np.asarray(flops, np.float64) / self.unit
        if x.ndim == 0:
            return self.floor + self.scale * x**-self.exponent
        return self.floor[..., None] + self.scale[..., None] * x ** -self.exponent[..., None]


def points_needed(kind: Kind) -> int:
    """Sizes a fit needs to be determined."""
    return 3 if kind == "saturating" else 2


def fit(flops: np.ndarray, losses: np.ndarray, kind: Kind) -> Law:
    """Least squares over the ladder.

    Args:
        flops: training FLOPs of each size, [sizes].
        losses: [..., mixes, sizes]; leading dimensions are fitted apart (redrawn tables).
    """
    unit = float(np.exp(np.log(flops).mean()))
    x = np.asarray(flops, np.float64) / unit
    return _power(x, losses, unit) if kind == "power" else _saturating(x, losses, unit)


def _power(x: np.ndarray, losses: np.ndarray, unit: float) -> Law:
    u, y = np.log(x), np.log(losses)
    u0 = u - u.mean()
    slope = (y * u0).sum(axis=-1) / (u0 * u0).sum()
    level = y.mean(axis=-1) - slope * u.mean()
    return Law(np.zeros_like(slope), np.exp(level), -slope, unit)


def _saturating(x: np.ndarray, losses: np.ndarray, unit: float) -> Law:
    best: tuple[np.ndarray, ...] | None = None
    for exponent in EXPONENTS:
        z = x**-exponent
        floor, scale = _line(z, losses)
        error = ((floor[..., None] + scale[..., None] * z - losses) ** 2).sum(axis=(-1, -2))
        if best is None:
            best = error, floor, scale, np.full_like(error, exponent)
            continue
        better = error < best[0]
        best = (
            np.where(better, error, best[0]),
            np.where(better[..., None], floor, best[1]),
            np.where(better[..., None], scale, best[2]),
            np.where(better, exponent, best[3]),
        )
    assert best is not None
    _, floor, scale, exponents = best
    return Law(floor, scale, np.broadcast_to(exponents[..., None], floor.shape), unit)


def _line(z: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of losses = floor + scale z with neither negative. Returns [..., mixes] twice."""
    z0 = z - z.mean()
    mean = losses.mean(axis=-1)
    scale = np.maximum((losses * z0).sum(axis=-1) / (z0 * z0).sum(), 0.0)
    floor = mean - scale * z.mean()
    through_zero = (losses * z).sum(axis=-1) / (z * z).sum()
    return np.maximum(floor, 0.0), np.where(floor < 0, through_zero, scale)
