"""What the encoder reads of a sound: log-mel frames in which every channel has mean 0 and deviation 1 over the training data.

Mean and deviation belong to the model, like its weights. They are one number a channel, so the frames of a stream are those of
the whole recording. Training, serving and benchmarks all call `frames_of`.

Shape legend: N samples, F frames of 10 ms, M mel channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from puna.core.errors import InputError
from puna.speech.features import MelConfig, log_mel

LEAST_DEVIATION = 1e-3  # of a channel in natural logarithms of power: one that never changes is not blown up


@dataclass(frozen=True)
class SoundShape:
    """How sound is cut into frames, and what each channel is normalised by.

    Attributes:
        mel: rate, window, hop and channels.
        mean_M, std_M: of each channel in the training data, natural logarithms of power; empty leaves frames as they are.
    """

    mel: MelConfig = field(default_factory=MelConfig)
    mean_M: tuple[float, ...] = ()
    std_M: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.mean_M) == len(self.std_M) in (0, self.mel.channels) or not all(std > 0 for std in self.std_M):
            raise InputError("mean and deviation are one number for each channel, deviations above 0",
                             where=f"{len(self.mean_M)} and {len(self.std_M)} for {self.mel.channels} channels")  # fmt: skip


def frames_of(wave_N: Tensor, shape: SoundShape) -> Tensor:
    """Normalised frames [F, M] float32 of mono samples at `shape.mel.rate`, in -1..1."""
    return normalised(log_mel(wave_N, shape.mel), shape)


def normalised(frames_FM: Tensor, shape: SoundShape) -> Tensor:
    """Log-mel frames as the encoder reads them."""
    if not shape.mean_M:
        return frames_FM
    mean_M, std_M = (torch.tensor(values, dtype=torch.float32, device=frames_FM.device) for values in (shape.mean_M, shape.std_M))
    return (frames_FM - mean_M) / std_M


def measured(recordings: Iterable[Tensor], mel: MelConfig = MelConfig()) -> SoundShape:
    """The shape for training data: mean and deviation of all frames of log-mel `recordings` [F, M], which are read once.

    InputError where there is no frame.
    """
    total_M, squares_M, count = torch.zeros(mel.channels, dtype=torch.float64), torch.zeros(mel.channels).double(), 0
    for frames_FM in recordings:
        total_M += frames_FM.double().sum(0)
        squares_M += frames_FM.double().square().sum(0)
        count += len(frames_FM)
    if not count:
        raise InputError("there is no sound to measure", fix="check the recordings that the stage reads")
    mean_M = total_M / count
    std_M = (squares_M / count - mean_M.square()).clamp_min(LEAST_DEVIATION**2).sqrt()
    return SoundShape(mel, *(tuple(round(value, 6) for value in values.tolist()) for values in (mean_M, std_M)))
