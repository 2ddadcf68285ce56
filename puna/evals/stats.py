"""Intervals and paired tests for results that are passes and failures (paper section 5.1.1 reports 95 % intervals).

The paper's interval, 1.96 sqrt(S (1 - S) / N), collapses to nothing when all or none of the items pass; Wilson's does not, and
agrees with it elsewhere. Two models are compared on the same items, because the items differ far more than the models do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from puna.core.intervals import paired_difference, wilson
from puna.core.rng import numpy_stream

BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class Paired:
    """Pass rate of one model minus that of another on the same items.

    `low`, `high`: 95 % score interval of the difference (Tango 1998); `wins`, `losses`: items that only the one or only the other
    passes; `p`: two-sided exact McNemar probability of so uneven a split if both were equally good.
    """

    difference: float
    low: float
    high: float
    wins: int
    losses: int
    p: float


def paired(better: Sequence[bool], control: Sequence[bool]) -> Paired:
    """Compare `better` with `control`, item by item; positive means that `better` passes more. The two must be equally long."""
    first, second = np.asarray(better, dtype=np.int64), np.asarray(control, dtype=np.int64)
    if len(first) != len(second):
        raise ValueError(f"paired results of unequal length: {len(first)} and {len(second)}")
    if len(first) == 0:
        return Paired(0.0, -1.0, 1.0, 0, 0, 1.0)
    wins, losses = int((first > second).sum()), int((first < second).sum())
    low, high = paired_difference(wins, losses, len(first))
    return Paired((wins - losses) / len(first), low, high, wins, losses, mcnemar(wins, losses))


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact p of a `wins` : `losses` split under Binomial(wins + losses, 1/2); integers throughout, so exact."""
    n, fewer = wins + losses, min(wins, losses)
    term = tail = 1
    for k in range(1, fewer + 1):
        term = term * (n - k + 1) // k
        tail += term
    return min(1.0, 2 * tail / 2**n) if n else 1.0


def bootstrap(values: Sequence[float], seed: int, draws: int = BOOTSTRAP_DRAWS) -> tuple[float, float]:
    """95 % percentile interval of the mean of independent `values` (at least one)."""
    return bootstrap_ratio(values, np.ones(len(values)), seed, draws)


def bootstrap_ratio(
    numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray, seed: int, draws: int = BOOTSTRAP_DRAWS
) -> tuple[float, float]:
    """95 % percentile interval of sum(numerators) / sum(denominators), drawing whole units (documents) with replacement."""
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    rng = numpy_stream(seed, "bootstrap")
    times = rng.multinomial(len(top), np.full(len(top), 1 / len(top)), size=draws)
    low, high = np.quantile((times @ top) / (times @ bottom), [0.025, 0.975])
    return float(low), float(high)


def rate(passed: int, n: int) -> dict[str, float | int | None]:
    """A pass rate as the JSON of every report: passed, n, accuracy (None for n = 0), low, high."""
    low, high = wilson(passed, n)
    return {"passed": passed, "n": n, "accuracy": passed / n if n else None, "low": low, "high": high}


def pass_at(n: int, k: int, right: int) -> float:
    """Chance that n of k samples, drawn without replacement, hold a right one of `right` (Chen et al. 2021, eq. 1)."""
    return 1.0 - math.comb(k - right, n) / math.comb(k, n)
