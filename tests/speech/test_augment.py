"""Speed, noise, loudness and masks: as strong as they are said to be, and the same for the same stream."""

import math

import numpy as np
import pytest
import torch

from puna.core.rng import numpy_stream
from puna.speech.augment import Augmentation, augmented_wave, faster, masked_frames, with_noise

WAVE = torch.sin(2 * math.pi * 400 * torch.arange(16_000) / 16_000)


def pitch(wave: torch.Tensor) -> float:
    """Hertz of the strongest part."""
    return float(torch.fft.rfft(wave).abs().argmax()) * 16_000 / len(wave)


def test_speed_moves_length_and_pitch():
    quick = faster(WAVE, 1.25)
    assert len(quick) == 12_800 and pitch(quick) == pytest.approx(500, abs=2)
    assert torch.equal(faster(WAVE, 1.001), WAVE)


@pytest.mark.parametrize("decibels", [0.0, 20.0])
def test_noise_is_as_loud_as_said(decibels):
    noise = with_noise(WAVE, decibels, numpy_stream(0, "noise")) - WAVE
    assert 10 * math.log10(float(WAVE.square().mean() / noise.square().mean())) == pytest.approx(decibels, abs=0.2)
    assert not with_noise(torch.zeros(50), decibels, numpy_stream(0)).any()


def test_masks_take_what_they_may():
    settings, frames = Augmentation(time_masks=3, most_masked=0.2), torch.ones(500, 80)
    for seed in range(20):
        masked = masked_frames(frames, settings, numpy_stream(seed, "masks"))
        still, heard = masked.any(1), masked.any(0)
        assert 400 <= int(still.sum()) <= 500 and int(heard.sum()) >= 80 - 2 * 15
        assert torch.equal(masked, torch.outer(still.float(), heard.float()))
    assert frames.all()
    assert masked_frames(torch.ones(1, 80), settings, numpy_stream(1)).shape == (1, 80)


def test_a_stream_repeats_its_sounds():
    one, same, other = (augmented_wave(WAVE, Augmentation(), numpy_stream(0, "augment", i)) for i in (1, 1, 2))
    assert torch.equal(one, same) and not (len(one) == len(other) and torch.equal(one, other))
    still = Augmentation(speed=0, noisy=0, gain_db=0, time_masks=0, channel_masks=0)
    assert torch.equal(augmented_wave(WAVE, still, numpy_stream(0)), WAVE)
    assert np.ptp([len(augmented_wave(WAVE, Augmentation(), numpy_stream(0, i))) for i in range(30)]) > 1600
