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
MOST_WEIGHTS = 1 << 24  # of all filters: 767,996 to 16,000 would have 780 million
PHASES = 256  # whose weights are computed at once, in float64


def resample(wave_N: Tensor, rate: int, target: int) -> Tensor:
    """Mono samples [N] at `rate` as samples at `target`, ceil(N * target / rate) of them, float32."""
    stream = ResampleStream(rate, target)
    return torch.cat((stream.push(wave_N), stream.end()))


class ResampleStream:
    """A sound at another rate as it comes in pieces; memory is that of a piece and of one filter."""

    def __init__(self, rate: int, target: int):
        if rate < 1 or target < 1:
            raise InputError("a sampling rate is at least one sample a second", where=f"{rate} to {target}")
        shared = math.gcd(rate, target)
        self.step, self.phases = rate // shared, target // shared
        width = self.step + 2 * _reach(self.step, self.phases)
        if self.phases > MOST_PHASES or self.phases * width > MOST_WEIGHTS:
            raise InputError(f"{rate} and {target} samples a second have too little in common", fix="record at a usual rate")
        self.kernel_P1K, self.reach = _kernel(self.step, self.phases)
        self.rest_N, self.read, self.told = torch.zeros(self.reach), 0, 0

    def push(self, piece_N: Tensor) -> Tensor:
        """The samples that can be told now, float32."""
        self.read += len(piece_N)
        if self.step == self.phases:
            return piece_N.float()
        wave_N = torch.cat((self.rest_N, piece_N.float()))
        ready = max(0, (len(wave_N) - self.kernel_P1K.shape[-1]) // self.step + 1)
        self.rest_N = wave_N[ready * self.step :].clone()
        self.told += ready * self.phases
        if not ready:
            return wave_N[:0]
        return F.conv1d(wave_N[None, None], self.kernel_P1K, stride=self.step)[0].t().reshape(-1)

    def end(self) -> Tensor:
        """The samples left when silence follows."""
        left = -(-self.read * self.phases // self.step) - self.told
        if self.step == self.phases or left <= 0:
            return self.rest_N[:0]
        blocks = -(-left // self.phases)
        missing = (blocks - 1) * self.step + self.kernel_P1K.shape[-1] - len(self.rest_N)
        return self.push(F.pad(self.rest_N[:0], (0, max(0, missing))))[:left]


def _cutoff(step: int, phases: int) -> float:
    return ROLLOFF * min(1.0, phases / step)


def _reach(step: int, phases: int) -> int:
    """Samples that the filters read before the place of the first output."""
    return math.ceil(ZEROS / _cutoff(step, phases))


@lru_cache(maxsize=8)
def _kernel(step: int, phases: int) -> tuple[Tensor, int]:
    """(filters [phases, 1, K] float32, samples that they read before the place of the first output)."""
    reach = _reach(step, phases)
    parts = [_weights(part, step, phases, reach) for part in torch.arange(phases, dtype=torch.float64).split(PHASES)]
    return torch.cat(parts)[:, None], reach


def _weights(phases_P: Tensor, step: int, phases: int, reach: int) -> Tensor:
    """The filters [P, K] float32 of these phases."""
    cutoff = _cutoff(step, phases)
    at_PK = torch.arange(-reach, reach + step, dtype=torch.float64) - phases_P[:, None] * step / phases
    inside = (1 - (at_PK * cutoff / ZEROS).square()).clamp_min(0)
    window = torch.special.i0(BETA * inside.sqrt()) / torch.special.i0(torch.tensor(BETA, dtype=torch.float64))
    weights = torch.where(inside > 0, cutoff * torch.sinc(at_PK * cutoff) * window, 0.0)
    return (weights / weights.sum(1, keepdim=True)).float()
