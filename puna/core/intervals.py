"""Intervals of proportions and of their differences, wherever one is reported: curation, scores, needle maps, sampling, claims.

All are score intervals: they stay within the range of what they measure, also when everything passes or nothing does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
ANGLES = 400_000  # at which Student's density is summed: four digits of its quantiles
HALVINGS = 60  # of a bracket two wide: below 1e-17, so to the last bit of a float


def wilson(passed: float, n: float) -> tuple[float, float]:
    """95 % interval of a pass rate (Wilson 1927); (0, 1) when nothing was tried."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = passed / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if passed == 0 else max(0.0, centre - half)
    high = 1.0 if passed == n else min(1.0, centre + half)
    return low, high


def bounded_mean(values: Sequence[float], least: float = 0.0, most: float = 1.0) -> tuple[float, float]:
    """95 % interval of the mean of independent values that lie between `least` and `most`; (least, most) without any.

    Wilson's with the effective number of values: as many passes and failures as would vary as much as these values do (Dean and
    Pagano 2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys"). With values at the two
    ends alone it is Wilson's interval itself.
    """
    if not values:
        return least, most
    n, width = len(values), most - least
    shares = [(value - least) / width for value in values]
    mean = min(max(sum(shares) / n, 0.0), 1.0)
    variance = sum((share - mean) ** 2 for share in shares) / n
    effective = n * max(1.0, mean * (1 - mean) / variance) if variance > 1e-12 else n
    low, high = wilson(mean * effective, effective)
    return least + width * low, least + width * high


def student95(degrees: float) -> float:
    """97.5 % quantile of Student's t; `degrees` may be a fraction.

    With t = sqrt(degrees) tan(a), the density of a is cos(a)^(degrees - 1).
    """
    width = math.pi / 2 / ANGLES
    mass = np.cos((np.arange(ANGLES) + 0.5) * width) ** (degrees - 1)
    upto = np.cumsum(mass)
    return math.sqrt(degrees) * math.tan(width * (int(np.searchsorted(upto, 0.95 * upto[-1])) + 0.5))


def paired_difference(wins: int, losses: int, n: int) -> tuple[float, float]:
    """95 % interval of (wins - losses) / n, the difference of two pass rates on the same n items (Tango 1998).

    Its ends are the differences that the score test rejects at just 5 %, so it lies within -1 and 1, and leaves out zero just
    when McNemar's test without continuity correction does. (-1, 1) without items.
    """
    if n == 0:
        return -1.0, 1.0
    return -_highest(losses, wins, n), _highest(wins, losses, n)


def _highest(wins: int, losses: int, n: int) -> float:
    """The largest difference not rejected: the score falls as the difference grows, so by bisection."""
    low, high = (wins - losses) / n, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(wins, losses, n, middle) > -Z95 else (low, middle)
    return high


def _score(wins: int, losses: int, n: int, difference: float) -> float:
    """Tango's score of the observed split if the true difference were `difference`; the share of losses at its likeliest."""
    a = 2 * n
    b = -wins - losses + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    lost = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * lost + difference * (1 - difference))
    gap = wins - losses - n * difference
    return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0
