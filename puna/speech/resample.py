"""Sound at another rate: a windowed sinc, evaluated for each of the few phases that two whole rates have to each other.

torchaudio and librosa bring compiled code or a compiler along for this; it is one matrix product.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from puna.core.errors import InputError

ZEROS = 16  # zero crossings of the sinc on each side
ROLLOFF = 0.945  # of the lower rate's half: where the filter begins to fall
BETA = 14.77  # of the Kaiser window
MOST_PHASES = 4096  # 44,100 to 16,000 has 160


def resample(wave_N: Tensor, rate: int, target: int) -> Tensor:
    """Mono samples [N] at `rate` as samples at `target`, ceil(N * target / rate) of them, float32."""
    if rate < 1 or target < 1:
        raise InputError("a sampling rate is at least one sample a second", where=f"{rate} to {target}")
    if rate == target or not len(wave_N):
        return wave_N.float()
    shared = math.gcd(rate, target)
    step, phases = rate // shared, target // shared
    if phases > MOST_PHASES:
        raise InputError(f"{rate} and {target} samples a second have too little in common", fix="record at a usual rate")
    kernel_P1K, reach = _kernel(step, phases)
    count = -(-len(wave_N) * phases // step)
    blocks = -(-count // phases)
    missing = max(0, (blocks - 1) * step + kernel_P1K.shape[-1] - reach - len(wave_N))
    padded = F.pad(wave_N.float(), (reach, missing))
    return F.conv1d(padded[None, None], kernel_P1K, stride=step)[0, :, :blocks].t().reshape(-1)[:count]


@lru_cache(maxsize=16)
def _kernel(step: int, phases: int) -> tuple[Tensor, int]:
    """(filters [phases, 1, K] float32, samples that they read before the place of the first output)."""
    cutoff = ROLLOFF * min(1.0, phases / step)
    reach = math.ceil(ZEROS / cutoff)
    at_PK = (
        torch.arange(-reach, reach + step, dtype=torch.float64)
        - torch.arange(phases, dtype=torch.float64)[:, None] * step / phases
    )
    inside = (1 - (at_PK * cutoff / ZEROS).square()).clamp_min(0)
    window = torch.special.i0(BETA * inside.sqrt()) / torch.special.i0(torch.tensor(BETA, dtype=torch.float64))
    weights = torch.where(inside > 0, cutoff * torch.sinc(at_PK * cutoff) * window, 0.0)
    return (weights / weights.sum(1, keepdim=True)).float()[:, None], reach
