"""A formant synthesiser: phones, durations, pitch and power become a wave, in numpy alone (after Klatt, JASA 67:971, 1980).

Source and filter: pulses at the pitch asked for and white noise go through resonators for the first four formants, whose targets
glide from phone to phone. Filters are applied frame by frame in the frequency domain (windows of 10 ms that overlap by half), so
everything is one batch of Fourier transforms and a hundred seconds take about one. Durations are exact to the sample and pitch to
the pulse; the voice is that of a machine. It stands in where espeak-ng is absent, and where durations and pitch must be ours.

Shape legend: P phones, N samples, F frames of 5 ms, W samples of a window, K bins, R formants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from puna.core.errors import InputError
from puna.core.rng import derive_seed, numpy_stream
from puna.world.phones import PAUSE, Phone

Floats = NDArray[np.float64]
Spectra = NDArray[np.complex128]

HOP_S, GLIDE_S, SOFT_S = 0.005, 0.045, 0.015  # between frames; how long formants and loudness take from one target to the next
BURST = 0.3  # share of a stop that is its release
ASPIRED_S = 0.012
NOISE = 0.5  # loudness of a fricative's noise beside a vowel's voice
PEAK = 0.9
BLOCK = 2000  # frames filtered at a time
LEVEL = 0.1  # root mean square of a vowel at 0 dB

# formants in Hz of a man's voice (Peterson and Barney 1952 for the vowels of English, the like for others)
VOWELS = {
    "a": (730, 1250, 2500), "e": (430, 2100, 2600), "i": (280, 2280, 2950), "o": (450, 850, 2500), "u": (310, 780, 2300),
    "E": (560, 1840, 2480), "O": (570, 860, 2410), "A": (710, 1080, 2440), "@": (500, 1450, 2480), "I": (390, 1990, 2550),
    "U": (440, 1020, 2240), "V": (640, 1190, 2390), "y": (280, 1850, 2200), "2": (400, 1550, 2250), "9": (560, 1480, 2300),
    "&": (680, 1720, 2410), "M": (320, 1350, 2350), "6": (620, 1300, 2450), "a~": (650, 1100, 2500), "e~": (560, 1700, 2500),
    "o~": (480, 800, 2500),
}  # fmt: skip
# formants, voice, noise (0 to 1), and where the noise lies: centre and width in Hz
CONSONANTS: dict[str, tuple[tuple[int, int, int], float, float, float, float]] = {
    "j": ((290, 2150, 2900), 0.5, 0, 0, 1), "w": ((310, 700, 2250), 0.5, 0, 0, 1), "l": ((360, 1250, 2750), 0.5, 0, 0, 1),
    "r": ((400, 1250, 1750), 0.45, 0, 0, 1), "R": ((450, 1150, 2350), 0.35, 0.15, 1200, 900),
    "m": ((250, 1050, 2200), 0.3, 0, 0, 1), "n": ((250, 1600, 2600), 0.3, 0, 0, 1), "J": ((250, 2100, 2800), 0.3, 0, 0, 1),
    "N": ((250, 1900, 2300), 0.3, 0, 0, 1),
    "p": ((300, 800, 2200), 0, 0.5, 900, 900), "b": ((250, 850, 2200), 0.2, 0.3, 900, 900),
    "t": ((300, 1750, 2700), 0, 0.7, 4200, 1800), "d": ((250, 1700, 2650), 0.2, 0.4, 3800, 1800),
    "k": ((300, 1900, 2300), 0, 0.6, 2100, 700), "g": ((250, 1900, 2300), 0.2, 0.4, 2000, 700),
    "f": ((340, 1100, 2100), 0, 0.25, 6500, 5000), "v": ((280, 1100, 2100), 0.3, 0.12, 6000, 5000),
    "T": ((320, 1350, 2550), 0, 0.25, 5600, 2500), "D": ((280, 1350, 2550), 0.3, 0.1, 5400, 2500),
    "s": ((320, 1500, 2600), 0, 0.6, 6200, 1700), "z": ((280, 1500, 2600), 0.3, 0.4, 6000, 1700),
    "S": ((320, 1800, 2600), 0, 0.7, 3200, 1300), "Z": ((280, 1800, 2600), 0.3, 0.45, 3000, 1300),
    "C": ((320, 2100, 2900), 0, 0.45, 3900, 1200), "x": ((350, 1500, 2400), 0, 0.4, 1700, 900),
    "h": ((500, 1500, 2500), 0, 0.3, 1600, 1600),
}  # fmt: skip
STOPS = frozenset("pbtdkg")
NASALS = frozenset({"m", "n", "J", "N", "a~", "e~", "o~"})
FOURTH = 3500.0  # Hz, the same for every phone
WIDTHS = np.array([70.0, 95.0, 140.0, 220.0])  # Hz, bandwidths of the formants


@dataclass(frozen=True)
class FormantVoice:
    """Who speaks.

    Attributes:
        name: also seeds the noise.
        f0: pitch in Hz that the voice has of itself.
        scale: formants over those of a man's tract of 17.5 cm; a woman's is 1.15 or so.
        breath: noise mixed into the voice, 0 to 1.
        tilt: dB an octave by which the voice falls beyond 500 Hz; more is softer.
    """

    name: str
    f0: float = 115.0
    scale: float = 1.0
    breath: float = 0.05
    tilt: float = 9.0


VOICES = {
    voice.name: voice
    for voice in (
        FormantVoice("m1", 112, 1.0, 0.04, 9), FormantVoice("m2", 96, 0.95, 0.06, 10), FormantVoice("m3", 128, 1.03, 0.03, 8),
        FormantVoice("m4", 104, 0.98, 0.10, 11), FormantVoice("f1", 205, 1.16, 0.08, 10), FormantVoice("f2", 188, 1.12, 0.05, 9),
        FormantVoice("f3", 224, 1.19, 0.12, 11), FormantVoice("c1", 265, 1.28, 0.08, 9),
    )
}  # fmt: skip


def render(
    phones: Sequence[Phone], durations_s: ArrayLike, f0_hz: ArrayLike, power_db: ArrayLike, voice: FormantVoice, rate: int = 16000
) -> NDArray[np.float32]:
    """The wave [N] of phones at `rate` samples a second, within -1 and 1.

    Args:
        durations_s: seconds of each phone [P]. f0_hz: pitch at the middle of each [P]; straight lines between; voiceless phones
            have none whatever it says. power_db: louder or softer than the phone is of itself [P].

    InputError if the lists differ in length, or a duration or a pitch is not positive.
    """
    durations, f0, power = (np.asarray(x, dtype=np.float64) for x in (durations_s, f0_hz, power_db))
    if not len(phones) == len(durations) == len(f0) == len(power):
        raise InputError("phones, durations, pitch and power differ in length",
                         fix=f"one for each of {len(phones)} phones")  # fmt: skip
    if not len(phones):
        return np.zeros(0, np.float32)
    if not (np.isfinite(durations).all() and (durations > 0).all() and np.isfinite(f0).all() and (f0 > 0).all()):
        raise InputError("a duration or a pitch is not positive", fix="seconds and Hz above 0 for every phone")
    ends_P = np.round(np.cumsum(durations) * rate).astype(np.int64)
    samples, hop = int(ends_P[-1]), int(HOP_S * rate)
    frames = samples // hop + 2
    times_F = np.arange(frames) * hop / rate
    tracks = _tracks(phones, durations, voice, times_F)
    middles_P = np.cumsum(durations) - durations / 2
    f0_N = np.interp(np.arange(samples) / rate, middles_P, f0)
    draws = numpy_stream(derive_seed(0, "formants", voice.name), samples)
    pulses, noise = _pulses(f0_N, rate), draws.standard_normal(samples)
    wave_N = _filtered(pulses, noise, tracks, voice, hop, rate, samples)
    gain_F = 10 ** (_smooth(power[_phone_at(durations, times_F)], SOFT_S) / 20)
    wave_N *= np.interp(np.arange(samples), np.arange(frames) * hop, gain_F) * LEVEL
    peak = float(np.abs(wave_N).max(initial=0.0))
    return (wave_N * min(1.0, PEAK / max(peak, PEAK))).astype(np.float32)


def _phone_at(durations: Floats, times_F: Floats) -> NDArray[np.int64]:
    return np.minimum(np.searchsorted(np.cumsum(durations), times_F, side="right"), len(durations) - 1)


def _tracks(phones: Sequence[Phone], durations: Floats, voice: FormantVoice, times_F: Floats) -> dict[str, Floats]:
    """What the filters do in each frame: formants [F,R], voice, noise, centre, width, nasal [F]."""
    rows = [_targets(phone.symbol) for phone in phones]
    at_F = _phone_at(durations, times_F)
    starts = np.cumsum(durations) - durations
    into_F = (times_F - starts[at_F]) / durations[at_F]  # 0 at a phone's start, 1 at its end
    voiced = np.array([row[1] for row in rows])[at_F]
    noise = np.array([row[2] for row in rows])[at_F]
    stop_F = np.array([phone.symbol in STOPS for phone in phones])[at_F]
    release = np.exp(-np.maximum(into_F - (1 - BURST), 0) * durations[at_F] / ASPIRED_S)
    noise = np.where(stop_F, np.where(into_F < 1 - BURST, 0.0, noise * release), noise)
    formants_PR = np.array([(*row[0], FOURTH) for row in rows])
    for i, phone in enumerate(phones):  # a pause keeps the mouth where it was
        if phone.symbol == PAUSE and i:
            formants_PR[i] = formants_PR[i - 1]
    return {
        "formants": np.stack([_smooth(formants_PR[at_F, r], GLIDE_S) for r in range(4)], 1) * voice.scale,
        "voice": _smooth(voiced, SOFT_S),
        "noise": np.where(stop_F, noise, _smooth(noise, SOFT_S)),
        "centre": np.array([row[3] for row in rows])[at_F] * voice.scale**0.5,
        "width": np.array([row[4] for row in rows])[at_F],
        "nasal": _smooth(np.array([phone.symbol in NASALS for phone in phones], dtype=np.float64)[at_F], GLIDE_S),
    }


def _targets(symbol: str) -> tuple[tuple[int, int, int], float, float, float, float]:
    if symbol in VOWELS:
        return VOWELS[symbol], 1.0, 0.0, 0.0, 1.0
    return CONSONANTS.get(symbol, ((500, 1500, 2500), 0.0, 0.0, 0.0, 1.0))


def _smooth(track_F: Floats, seconds: float) -> Floats:
    """A track with its steps made soft over so many seconds."""
    length = max(1, round(seconds / HOP_S)) | 1
    kernel = np.hanning(length + 2)[1:-1]
    return np.convolve(np.pad(track_F, length // 2, mode="edge"), kernel / kernel.sum(), mode="valid")


def _pulses(f0_N: Floats, rate: int) -> Floats:
    """One pulse a period, of the same energy at every pitch, each shared by the two samples it falls between."""
    phase_N = np.cumsum(f0_N) / rate
    before_N = phase_N - f0_N / rate
    hits = np.nonzero(np.floor(phase_N) > np.floor(before_N))[0]
    part = (phase_N[hits] - np.floor(phase_N[hits])) / (f0_N[hits] / rate)  # of a sample, since the pulse
    size = np.sqrt(rate / f0_N[hits])
    pulses_N = np.zeros(len(f0_N) + 1)
    np.add.at(pulses_N, hits, size * part)
    np.add.at(pulses_N, hits + 1, size * (1 - part))
    return pulses_N[:-1]


def _filtered(
    pulses_N: Floats, noise_N: Floats, tracks: dict[str, Floats], voice: FormantVoice, hop: int, rate: int, samples: int
) -> Floats:
    """Both sources through the filters of every frame, added up again."""
    size = 1 << (8 * hop - 1).bit_length()  # room for the resonators to ring
    window_W = np.hanning(2 * hop + 1)[:-1]
    frames = len(tracks["voice"])
    pulses_FW, noise_FW = (_cut(source, frames, hop) for source in (pulses_N, noise_N))
    out_N = np.zeros((frames + 1) * hop + size)
    for start in range(0, frames, BLOCK):  # so that memory does not grow with the length
        part = slice(start, start + BLOCK)
        own = {name: track[part] for name, track in tracks.items()}
        voiced_FK, noisy_FK = (np.fft.rfft(cut[part] * window_W, size) for cut in (pulses_FW, noise_FW))
        piece_N = _added(np.fft.irfft(_shaped(voiced_FK, noisy_FK, own, voice, rate), size), hop)
        out_N[start * hop : start * hop + len(piece_N)] += piece_N[: len(out_N) - start * hop]
    return out_N[hop : hop + samples]


def _shaped(voiced_FK: Spectra, noisy_FK: Spectra, tracks: dict[str, Floats], voice: FormantVoice, rate: int) -> Spectra:
    """The spectra of both sources, each through its filter."""
    frequencies_K = np.fft.rfftfreq(2 * (voiced_FK.shape[1] - 1), 1 / rate).astype(np.float64)
    tract_FK = _tract(tracks["formants"], frequencies_K, rate)
    tract_FK *= 1 - 0.6 * tracks["nasal"][:, None] * ((frequencies_K > 600) & (frequencies_K < 1400))
    tract_FK *= (1 + (frequencies_K / 500) ** 2) ** (-voice.tilt / 12.04) * (frequencies_K > 50)
    tract_FK *= (tracks["voice"] / np.sqrt((np.abs(tract_FK) ** 2).mean(1)))[:, None]
    shape_FK = np.exp(-0.5 * ((frequencies_K - tracks["centre"][:, None]) / tracks["width"][:, None]) ** 2)
    shape_FK = shape_FK / np.sqrt((shape_FK**2).mean(1, keepdims=True) + 1e-9)
    return (voiced_FK + voice.breath * noisy_FK) * tract_FK + NOISE * tracks["noise"][:, None] * noisy_FK * shape_FK


def _tract(formants_FR: Floats, frequencies_K: Floats, rate: int) -> NDArray[np.complex128]:
    """Gain [F,K] of the formants' resonators one after the other, each of gain 1 at 0 Hz."""
    z_K = np.exp(-2j * np.pi * frequencies_K / rate)
    gain_FK = np.ones((len(formants_FR), len(frequencies_K)), dtype=np.complex128)
    for r, width in enumerate(WIDTHS):
        radius = np.exp(-np.pi * width / rate)
        b_F = 2 * radius * np.cos(2 * np.pi * np.minimum(formants_FR[:, r], 0.48 * rate) / rate)
        gain_FK *= (1 - b_F + radius**2)[:, None] / (1 - b_F[:, None] * z_K + radius**2 * z_K**2)
    return gain_FK


def _cut(wave_N: Floats, frames: int, hop: int) -> Floats:
    """Windows [F,W] of two hops, one beginning at each hop, the first a hop before the wave."""
    padded = np.pad(wave_N, (hop, (frames + 1) * hop - len(wave_N) - hop))
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop][:frames]


def _added(frames_FN: Floats, hop: int) -> Floats:
    """The sum of frames that begin a hop apart."""
    frames, size = frames_FN.shape
    pieces = -(-size // hop)
    blocks = np.pad(frames_FN, ((0, 0), (0, pieces * hop - size))).reshape(frames, pieces, hop)
    out = np.zeros((frames + pieces, hop))
    for piece in range(pieces):
        out[piece : piece + frames] += blocks[:, piece]
    return out.reshape(-1)
