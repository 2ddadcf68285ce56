"""Log-mel features (section 8.1.1): 80 channels every 10 ms, whole or as the sound comes in.

A frame reads 25 ms and nothing beside them, so frames of a stream are those of the whole recording, whatever the pieces.
The paper gives channels and hop; the rest is the field's usual: 16 kHz, Hann window, power spectrum of 512 points, triangles on
the HTK mel scale from 20 Hz to half the rate, natural logarithm.

Shape legend: N samples, T frames, M mel channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from puna.core.errors import InputError


@dataclass(frozen=True)
class MelConfig:
    """How sound becomes frames.

    Attributes:
        rate: samples a second. window, hop: samples of a frame, and from one to the next. points: of its Fourier transform.
        channels: mel channels between `low` Hz and half the rate. floor: least power.
    """

    rate: int = 16_000
    window: int = 400
    hop: int = 160
    points: int = 512
    channels: int = 80
    low: float = 20.0
    floor: float = 1e-10

    def frames(self, samples: int) -> int:
        """Frames of so many samples; less than one window is padded to one."""
        return 1 + max(0, samples - self.window) // self.hop if samples else 0


def log_mel(wave_N: Tensor, config: MelConfig = MelConfig()) -> Tensor:
    """Frames [T, M] float32 of mono samples in -1..1; what does not fill a last frame is left out."""
    if wave_N.dim() != 1:
        raise InputError("log-mel features are of one channel", where=f"shape {list(wave_N.shape)}", fix="mix it down first")
    if not len(wave_N):
        return wave_N.new_zeros((0, config.channels), dtype=torch.float32)
    wave_N = F.pad(wave_N.float(), (0, max(0, config.window - len(wave_N))))
    spectrum = torch.fft.rfft(wave_N.unfold(0, config.window, config.hop) * _hann(config.window), config.points)
    power_TF = spectrum.real.square() + spectrum.imag.square()
    return (power_TF @ filters(config)).clamp_min(config.floor).log()


class MelStream:
    """Frames of a recording that comes in pieces."""

    def __init__(self, config: MelConfig = MelConfig()):
        self.config, self.rest_N, self.begun = config, torch.zeros(0), False

    def push(self, piece_N: Tensor) -> Tensor:
        """The frames [T, M] that can be told now."""
        wave_N, config = torch.cat((self.rest_N, piece_N.float())), self.config
        if len(wave_N) < config.window:
            self.rest_N = wave_N
            return wave_N.new_zeros((0, config.channels))
        count = config.frames(len(wave_N))
        self.rest_N, self.begun = wave_N[count * config.hop :], True
        return log_mel(wave_N, config)

    def end(self) -> Tensor:
        """The one frame of a recording that is shorter than a window; none otherwise."""
        return log_mel(self.rest_N[:0] if self.begun else self.rest_N, self.config)


@lru_cache(maxsize=8)
def filters(config: MelConfig) -> Tensor:
    """Weights [points / 2 + 1, M] float32: triangles whose corners are even on the mel scale, of height 1."""
    mel = [2595 * math.log10(1 + hertz / 700) for hertz in (config.low, config.rate / 2)]
    corners_C = 700 * (10 ** (torch.linspace(mel[0], mel[1], config.channels + 2, dtype=torch.float64) / 2595) - 1)
    bins_F1 = torch.linspace(0, config.rate / 2, config.points // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins_F1 - corners_C[:-2]) / (corners_C[1:-1] - corners_C[:-2])
    falling = (corners_C[2:] - bins_F1) / (corners_C[2:] - corners_C[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).float()


@lru_cache(maxsize=8)
def _hann(window: int) -> Tensor:
    return torch.hann_window(window, periodic=True, dtype=torch.float64).float()
