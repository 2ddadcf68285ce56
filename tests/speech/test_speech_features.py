"""Front end: mel features against transformers, in pieces as a whole, and resampling against the sine that was meant."""

import math

import numpy as np
import pytest
import torch

from puna.core.errors import InputError
from puna.speech.features import MelConfig, MelStream, log_mel
from puna.speech.resample import resample


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("samples", [399, 400, 559, 560, 16_000])
def test_frames_are_those_of_transformers(samples):
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    wave = noise(samples)
    filters = mel_filter_bank(257, 80, 20, 8000, 16_000, norm=None, mel_scale="htk")
    padded = np.pad(wave.numpy(), (0, max(0, 400 - samples)))
    theirs = spectrogram(
        padded, window_function(400, "hann", periodic=True), 400, 160, fft_length=512, power=2.0, center=False,
        mel_filters=filters, mel_floor=1e-10, log_mel="log",
    ).T  # fmt: skip
    ours = log_mel(wave)
    assert ours.shape == theirs.shape == (MelConfig().frames(samples), 80)
    assert np.abs(ours.numpy() - theirs).max() <= 1e-5


@pytest.mark.parametrize("piece", [1, 37, 160, 1601])
def test_a_stream_gives_the_frames_of_the_whole(piece):
    wave, stream = noise(3000, 1), MelStream()
    parts = [stream.push(wave[at : at + piece]) for at in range(0, len(wave), piece)]
    found = torch.cat([*parts, stream.end()])
    assert found.shape == (17, 80) and (found - log_mel(wave)).abs().max() <= 1e-5


def test_short_silent_and_empty_sound():
    assert log_mel(torch.zeros(0)).shape == (0, 80)
    assert log_mel(noise(5)).shape == (1, 80)
    stream = MelStream()
    assert len(stream.push(noise(5))) == 0 and torch.equal(stream.end(), log_mel(noise(5)))
    assert torch.equal(log_mel(torch.zeros(800)), torch.full((3, 80), math.log(1e-10)))
    with pytest.raises(InputError, match="one channel"):
        log_mel(torch.zeros(2, 800))


@pytest.mark.parametrize(
    ("rate", "target"), [(8000, 16_000), (44_100, 16_000), (48_000, 16_000), (22_050, 16_000), (16_000, 8000)]
)
def test_a_tone_keeps_its_pitch_and_its_height(rate, target):
    hertz = 1000.0
    wave = torch.sin(2 * math.pi * hertz * torch.arange(rate, dtype=torch.float64) / rate).float()
    got = resample(wave, rate, target)
    want = torch.sin(2 * math.pi * hertz * torch.arange(target, dtype=torch.float64) / target).float()
    assert len(got) == target
    assert (got - want)[200:-200].abs().max() < 1e-3


def test_what_the_lower_rate_cannot_hold_is_gone():
    wave = torch.sin(2 * math.pi * 7000 * torch.arange(16_000, dtype=torch.float64) / 16_000).float()
    assert resample(wave, 16_000, 8000)[100:-100].abs().max() < 1e-3
    assert torch.equal(resample(wave, 16_000, 16_000), wave) and len(resample(wave[:0], 8000, 16_000)) == 0
    with pytest.raises(InputError, match="too little in common"):
        resample(wave, 16_001, 15_999)
