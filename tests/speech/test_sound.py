"""Sound files: every format and rate, what is broken, cut off, huge or no sound, and an hour in bounded memory."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from puna.core.errors import InputError
from puna.speech.resample import ResampleStream, resample
from puna.speech.sound import RATE, Sound, SoundRules, at_rate, blocks, read_sound, write_sound

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
FORMATS = [
    ("WAV", "PCM_16", 3e-3), ("WAV", "PCM_24", 3e-3), ("WAV", "FLOAT", 3e-3), ("WAV", "ULAW", 3e-2), ("FLAC", "PCM_16", 3e-3),
    ("OGG", "VORBIS", 0.1), ("OGG", "OPUS", 0.1), ("MP3", None, 0.1), ("AIFF", "PCM_16", 3e-3), ("AU", "PCM_16", 3e-3),
]  # fmt: skip


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def packed(wave: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype)
    return file.getvalue()


def of_container(kind: str, codec: str, rate: int = 48_000) -> bytes:
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1.0, rate)[None], format="fltp", layout="mono")
        frame.rate = rate
        resampler = av.AudioResampler(format=stream.format.name, rate=rate, layout="mono")
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def likeness(found: torch.Tensor, rate: int, hertz: float = 440.0) -> float:
    """Share of the power that lies within 5 Hz of a tone."""
    middle = found[len(found) // 4 : -len(found) // 4].double()
    power = torch.fft.rfft(middle * torch.hann_window(len(middle), dtype=torch.float64)).abs().square()
    near = (torch.arange(len(power)) * rate / len(middle) - hertz).abs() <= 5
    return float(power[near].sum() / power.sum())


@pytest.mark.parametrize(("kind", "subtype", "error"), FORMATS)
def test_formats(kind, subtype, error):
    sound = read_sound(packed(tone(), kind=kind, subtype=subtype))
    assert sound.rate in (RATE, 48_000) and abs(sound.seconds - 1) < 0.1
    assert likeness(sound.wave_N, sound.rate) > 0.99
    loud = sound.wave_N[len(sound.wave_N) // 4 : -len(sound.wave_N) // 4].abs().max()
    assert abs(float(loud) - 0.5) < error
    if kind != "MP3":
        assert len(at_rate(sound)) == RATE


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("matroska", "pcm_s16le"), ("mp4", "alac")])
def test_containers(kind, codec):
    sound = read_sound(of_container(kind, codec))
    assert sound.rate == 48_000 and abs(sound.seconds - 1) < 0.1 and likeness(sound.wave_N, 48_000) > 0.99


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_any_rate_becomes_16_khz(rate):
    found = at_rate(read_sound(packed(tone(0.5, rate), rate)))
    want = torch.from_numpy(tone(0.5))
    assert len(found) == len(want) and (found - want)[400:-400].abs().max() < 2e-3


def test_channels_are_averaged():
    one, other = tone(), tone(hertz=700.0)
    sound = read_sound(packed(np.stack([one, other, 0 * one], 1), subtype="FLOAT"))
    assert torch.allclose(sound.wave_N, torch.from_numpy((one + other) / 3), atol=1e-6)


def test_one_sample_and_silence():
    assert torch.equal(read_sound(packed(np.zeros(1))).wave_N, torch.zeros(1))
    assert torch.equal(at_rate(read_sound(packed(np.zeros(800), 8000))), torch.zeros(1600))


def test_real_recordings():
    files = sorted(REAL.glob("speech_*/*.ogg")) + sorted(REAL.glob("speech_fsdd/*_0.wav"))
    if not files:
        pytest.skip(f"no recordings under {REAL}")
    for file in files:
        sound, known = read_sound(file), soundfile.info(str(file))
        assert (len(sound.wave_N), sound.rate) == (known.frames, known.samplerate), file.name
        assert len(at_rate(sound)) == -(-known.frames * RATE // known.samplerate)


def test_what_is_no_sound_is_told():
    wave, flac, mp3 = (packed(tone(), kind=kind) for kind in ("WAV", "FLAC", "MP3"))
    ogg = packed(tone(20.0), kind="OGG")
    cases = {
        b"": "empty", b"hello, this is a text" * 9: "no sound", b"\x89PNG\r\n\x1a\n" + bytes(99): "no sound", b"RIFF": "no sound",
        wave[:20_000]: "cut off after 0.6 of 1.0", flac[: len(flac) // 2]: "damaged|cut off", mp3[: len(mp3) // 2]: "cut off",
        packed(np.zeros(0)): "no sound", packed(np.full(99, np.nan), subtype="FLOAT"): "no loudness",
        packed(np.full(99, 1e30), subtype="FLOAT"): "no loudness", packed(tone(), 200): "no usual sound",
        packed(tone(), kind="VOC"): "VOC files are not read", ogg[:60]: "no sound",
    }  # fmt: skip
    for data, told in cases.items():
        with pytest.raises(InputError, match=told) as caught:
            read_sound(data, where="clip.wav")
        assert caught.value.where == "clip.wav"
    for size in (b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f"):  # as pipes and espeak-ng write it
        assert len(read_sound(wave[:40] + size + wave[44:]).wave_N) == RATE


def test_a_container_that_is_cut_off():
    data = of_container("matroska", "aac")
    with pytest.raises(InputError, match=r"cut off after 0.\d of 1.\d"):
        read_sound(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"no known form|no sound"):
        read_sound(of_container("mp4", "aac")[:3000])  # its table stood at the end


def test_limits():
    data = packed(tone(2.0))
    with pytest.raises(InputError, match=r"may have 0.03125 MB"):
        read_sound(data, SoundRules(max_bytes=1 << 15))
    with pytest.raises(InputError, match="up to 1 seconds"):
        read_sound(data, SoundRules(max_seconds=1))
    assert read_sound(data, SoundRules(max_seconds=2)).seconds == 2
    quiet = packed(np.zeros(RATE * 700, np.int16), kind="FLAC")  # small, and long once unpacked
    assert len(quiet) < 1 << 20
    with pytest.raises(InputError, match="up to 600 seconds"):
        read_sound(quiet)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_sound(path)


@pytest.mark.parametrize("rate", [RATE, 8000, 44_100])
def test_blocks_are_the_whole(rate):
    wave = np.random.default_rng(0).normal(0, 0.1, round(rate * 11.3)).astype(np.float32)
    data = packed(wave, rate, subtype="FLOAT")
    parts = list(blocks(data, SoundRules(), 2.0))
    assert [len(part) for part in parts] == [2 * RATE] * 5 + [len(at_rate(Sound(torch.from_numpy(wave), rate))) - 10 * RATE]
    assert (torch.cat(parts) - at_rate(read_sound(data))).abs().max() < 1e-6


@pytest.mark.parametrize("piece", [1, 100, 441, 5000])
def test_resampling_a_stream(piece):
    wave, stream = torch.randn(6000, generator=torch.Generator().manual_seed(1)), ResampleStream(44_100, RATE)
    found = torch.cat([*(stream.push(part) for part in wave.split(piece)), stream.end()])
    whole = resample(wave, 44_100, RATE)
    assert len(found) == len(whole) and (found - whole).abs().max() < 1e-5


HOUR = """
import resource, sys
from pathlib import Path
from puna.speech.sound import SoundRules, blocks
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
parts = blocks(Path(sys.argv[1]), SoundRules(max_bytes=1 << 30, max_seconds=3600), 30.0)
total = len(next(parts))
before = peak()
total += sum(len(part) for part in parts)
print(total, peak() - before)
"""


@pytest.mark.cores
def test_an_hour_takes_no_more_memory_than_a_minute(tmp_path):
    path, samples = tmp_path / "hour.wav", 8000 * 3600
    start = packed(np.zeros(8, np.int16), 8000)[:40] + (2 * samples).to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(start)
        os.truncate(path, len(start) + 2 * samples)
    done = subprocess.run([sys.executable, "-c", HOUR, str(path)], capture_output=True, text=True, timeout=120, check=True)
    total, grown_kb = map(int, done.stdout.split())
    assert total == 2 * samples and grown_kb < 40 << 10  # all of it would be 230 MB


def test_rates_that_would_need_huge_filters():
    with pytest.raises(InputError, match="too little in common"):
        at_rate(read_sound(packed(tone(0.1, 767_996), 767_996)))


def test_minutes_of_vorbis(tmp_path):
    wave = np.zeros(16_000 * 400, np.float32)
    write_sound(tmp_path / "a.ogg", wave, 16_000)
    assert read_sound(tmp_path / "a.ogg").seconds == 400.0
