"""Voice activity: speech of real and of noisy recordings is found, and whistles, notes, hiss and clicks are not."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from puna.speech.features import MelConfig
from puna.speech.sound import at_rate, read_sound
from puna.speech.voice import segments, voiced

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
RATE = 16_000


def real(pattern: str) -> dict[str, torch.Tensor]:
    found = {file.name: at_rate(read_sound(file)) for file in sorted(REAL.glob(pattern))}
    if not found:
        pytest.skip(f"no recordings {pattern} under {REAL}")
    return found


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def notes(pitches: list[float], fade: float) -> torch.Tensor:
    time = torch.arange(6000) / RATE
    return torch.cat(
        [sum(torch.sin(2 * math.pi * f * k * time) / k for k in range(1, 9)) * torch.exp(-fade * time) for f in pitches]
    )


def others() -> dict[str, torch.Tensor]:
    """Sounds of three seconds that are no speech."""
    time = torch.arange(3 * RATE) / RATE
    clicks = torch.zeros(3 * RATE)
    clicks[::4000] = 1
    return {
        "silence": torch.zeros(3 * RATE), "tone": 0.3 * torch.sin(2 * math.pi * 300 * time), "hiss": 0.1 * noise(3 * RATE),
        "clicks": clicks, "sweep": 0.3 * torch.sin(2 * math.pi * (500 * time + 400 * time**2)),
        "hum": sum(0.2 / k * torch.sin(2 * math.pi * 50 * k * time) for k in range(1, 8)),
        "waves": 0.05 * noise(3 * RATE, 1) * (1 + torch.sin(2 * math.pi * 4 * time)),
        "piano": 0.1 * notes([262, 294, 330, 349, 392, 440, 494, 523], 5),
        "organ": 0.1 * notes([131, 165, 196, 262, 196, 131], 0),
        "siren": 0.3 * torch.sin(2 * math.pi * 700 * time + 450 * torch.sin(math.pi * time)), "faint": 1e-4 * noise(3 * RATE, 2),
    }  # fmt: skip


@pytest.mark.parametrize("name", others())
def test_no_speech_is_heard_in_other_sounds(name):
    assert segments(others()[name]) == []


def test_bird_and_trumpet_are_no_speech():
    for name, wave in (real("speech_libri/bird.ogg") | real("speech_libri/trumpet.ogg")).items():
        assert segments(wave) == [], name


def test_readers_are_heard_most_of_the_time():
    for name, wave in real("speech_libri/[0-9]*.ogg").items():
        found, seconds = segments(wave), len(wave) / RATE
        heard = sum(end - start for start, end in found)
        assert 0.85 * seconds < heard < seconds, name
        assert all(0 <= a < b <= seconds for a, b in found)
        assert all(b < c for (_, b), (c, _) in pairwise(found))


def test_spoken_digits_are_heard():
    """Limits were set on the first two takes of each digit; the other three count here."""
    clips = {name: wave for take in (2, 3, 4) for name, wave in real(f"speech_fsdd/*_{take}.wav").items()}
    missed = [name for name, wave in clips.items() if not segments(wave)]
    assert len(clips) == 90 and len(missed) <= 4, missed


@pytest.mark.parametrize(("signal_db", "least"), [(20, 0.9), (10, 0.5)])
def test_speech_between_noise_is_found_where_it_is(signal_db, least):
    for seed, (name, wave) in enumerate(real("speech_libri/[0-9]*.ogg").items()):
        wave = wave[RATE : 5 * RATE]
        spread = (float(wave.square().mean()) / 10 ** (signal_db / 10)) ** 0.5
        found = segments(torch.cat((torch.zeros(2 * RATE), wave, torch.zeros(2 * RATE))) + spread * noise(8 * RATE, seed))
        assert found and found[0][0] > 1.7 and found[-1][1] < 6.3, name
        assert found[-1][1] - found[0][0] > 4 * least, name


def test_another_rate_gives_the_same_times():
    wave = real("speech_libri/198*.ogg")["198-209-0000.ogg"]
    file = read_sound(REAL / "speech_libri/198-209-0000.ogg")
    for (a, b), (c, d) in zip(segments(file.wave_N, file.rate), segments(wave), strict=True):
        assert (a, b) == pytest.approx((c, d), abs=1e-4)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 560, 5000])
def test_frames_are_those_of_the_features(samples):
    assert voiced(0.1 * noise(samples)).tolist() == [False] * MelConfig().frames(samples)
