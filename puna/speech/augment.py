"""Training sounds in more forms than were recorded: speed, noise and loudness of samples; SpecAugment masks of frames.

The paper names no augmentation; these are the field's usual ones (Ko et al. 2015 for speed, Park et al. 2019 and 2020 for masks
whose number grows with the length). Every draw comes from the generator that is given, so a step repeats its sounds.

Shape legend: N samples at 16 kHz, F frames of 10 ms, M mel channels.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from puna.core.settings import Portion, Settings, Share
from puna.speech.resample import resample

SPEED_STEPS = 40  # in which speeds are drawn, so that two rates keep a short common filter
QUIET = 1e-8  # power below which a sound is silence and gets no noise

Decibels = Annotated[float, Field(ge=-60, le=120)]


class Augmentation(Settings):
    """How sounds are changed for training; zeros leave out what they belong to.

    Attributes:
        speed: the most that a sound is sped up or slowed down, pitch along with it, with probability `changed`.
        noise_db: least and most signal over white noise, in dB; added with probability `noisy`.
        gain_db: the most that a sound gets louder or softer.
        time_masks: masks for each second. time_width: frames of the longest.
        channel_masks: masks of mel channels. channel_width: channels of the widest.
        most_masked: share of the frames that masks in time may take.
    """

    speed: Portion = 0.1
    changed: Share = 0.67
    noise_db: tuple[Decibels, Decibels] = (10.0, 40.0)
    noisy: Share = 0.5
    gain_db: NonNegativeFloat = 6.0
    time_masks: NonNegativeFloat = 0.5
    time_width: NonNegativeInt = 20
    channel_masks: NonNegativeInt = 2
    channel_width: NonNegativeInt = 15
    most_masked: PositiveFloat = 0.2


def augmented_wave(wave_N: Tensor, settings: Augmentation, rng: np.random.Generator) -> Tensor:
    """Samples of the same words, faster or slower, noisier, louder or softer; the length changes with the speed."""
    if settings.speed and rng.random() < settings.changed:
        wave_N = faster(wave_N, 1 + settings.speed * float(rng.uniform(-1, 1)))
    if rng.random() < settings.noisy:
        wave_N = with_noise(wave_N, float(rng.uniform(*settings.noise_db)), rng)
    return wave_N * 10 ** (settings.gain_db * float(rng.uniform(-1, 1)) / 20)


def faster(wave_N: Tensor, factor: float) -> Tensor:
    """A sound `factor` times as fast, pitch along with it, rounded to a fortieth."""
    return resample(wave_N, round(SPEED_STEPS * factor), SPEED_STEPS)


def with_noise(wave_N: Tensor, signal_db: float, rng: np.random.Generator) -> Tensor:
    """A sound with white noise whose power lies `signal_db` below its own; silence stays silence."""
    power = float(wave_N.square().mean()) if len(wave_N) else 0.0
    if power < QUIET:
        return wave_N
    noise = torch.from_numpy(rng.standard_normal(len(wave_N), np.float32))
    return wave_N + noise * (power / 10 ** (signal_db / 10)) ** 0.5


def masked_frames(frames_FM: Tensor, settings: Augmentation, rng: np.random.Generator) -> Tensor:
    """A copy of normalised frames with spans of time and bands of channels at 0, which is their mean."""
    masked = frames_FM.clone()
    frames, channels = masked.shape
    left = int(settings.most_masked * frames)
    for _ in range(rng.poisson(settings.time_masks * frames / 100)):
        width = min(int(rng.integers(settings.time_width + 1)), left)
        start, left = int(rng.integers(frames - width + 1)), left - width
        masked[start : start + width] = 0.0
    for _ in range(settings.channel_masks):
        width = int(rng.integers(min(settings.channel_width, channels) + 1))
        start = int(rng.integers(channels - width + 1))
        masked[:, start : start + width] = 0.0
    return masked
