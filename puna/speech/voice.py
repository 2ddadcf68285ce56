"""Where in a sound somebody speaks (section 8.1.2 keeps pre-training sounds by voice activity), and whether anybody does.

No model: a frame counts when it is loud enough beside the rest, and when the second around it is like speech in three ways. For a
good part, speech has a period (60 to 400 Hz) and most of its power below 1 kHz, and its spectral envelope keeps moving as one
sound follows another. Whistles, hiss and clicks fail the first two, held notes and tones the third. Singing passes; so may other
sounds that come as syllables do, and a whisper fails. The limits are set on few recordings (docs/speech.md).

Shape legend: N samples at 16 kHz, F frames of 10 ms, M mel channels.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from puna.speech.features import MelConfig, filters, log_mel
from puna.speech.resample import resample
from puna.speech.sound import RATE

MEL = MelConfig()
SILENCE_DB = -65.0  # of full scale: below this nothing is heard
RANGE_DB = (10.0, 25.0)  # below the loud frames: what is always loud enough, and what never is
ABOVE_FLOOR_DB = 6.0  # of a frame over the quiet tenth of the sound
AROUND = 75  # frames on each side that say what a frame belongs to
LEAST_ACTIVE = 8  # loud frames among these: a click has fewer
PITCH_HZ = (60.0, 400.0)
PERIODIC = 0.6  # of the autocorrelation at a period, beside that at 0
LOW_HZ = (100.0, 1000.0)
TELEPHONE_HZ = 3600.0
LAG, BAND, DEEPEST, FARTHEST = 5, 9, 9.0, 2.0  # frames apart, channels smoothed over, depth and distance that count, in nepers
LEAST = {"low": 0.35, "periodic": 0.25, "moving": 0.46}  # shares of loud frames, and mean movement in nepers

JOINED_S, LEAST_S, PADDED_S = 0.3, 0.08, 0.1  # pauses within a segment, shortest segment, sound kept on each side


def voiced(wave_N: Tensor) -> Tensor:
    """Which frames belong to speech, bool [F], F as of `log_mel`.

    Levels are compared within the sound, and memory grows with it: give long sounds block by block.
    """
    mel_FM = log_mel(wave_N, MEL)
    if not len(mel_FM):
        return torch.zeros(0, dtype=torch.bool)
    active_F = _active(wave_N)
    signs = {"low": _low(mel_FM), "periodic": _periodic(wave_N), "moving": _moving(mel_FM, active_F)}
    count_F = _around(active_F.float())
    speech_F = count_F >= LEAST_ACTIVE
    for name, sign_F in signs.items():
        speech_F &= _around(sign_F.float() * active_F) >= LEAST[name] * count_F
    return active_F & speech_F


def segments(wave_N: Tensor, rate: int = RATE) -> list[tuple[float, float]]:
    """Stretches of speech in seconds, ascending and apart; none where nobody speaks.

    Pauses of up to 0.3 s stay inside; each stretch has 0.1 s of what lies around it.
    """
    flags_F = voiced(resample(wave_N, rate, RATE))
    if not flags_F.any():
        return []
    hop, window, total = MEL.hop / RATE, MEL.window / RATE, len(wave_N) / rate
    edges = F.pad(flags_F.int(), (1, 1)).diff()
    starts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    found: list[list[float]] = []
    for start, end in zip(starts, ends, strict=True):
        begins, ends_at = start * hop, (end - 1) * hop + window
        if found and begins - found[-1][1] <= JOINED_S:
            found[-1][1] = ends_at
        else:
            found.append([begins, ends_at])
    return [(max(0.0, a - PADDED_S), min(total, b + PADDED_S)) for a, b in found if b - a >= LEAST_S]


def _framed(wave_N: Tensor, width: int) -> Tensor:
    """[F, width]: the samples from the beginning of each frame on; silence follows the end."""
    frames = MEL.frames(len(wave_N))
    return F.pad(wave_N.float(), (0, max(0, (frames - 1) * MEL.hop + width - len(wave_N)))).unfold(0, width, MEL.hop)[:frames]


def _active(wave_N: Tensor) -> Tensor:
    """Which frames are loud enough, beside the loudest and the quietest twentieth and tenth."""
    level_F = 10 * _framed(wave_N, MEL.window).square().mean(1).clamp_min(1e-12).log10()
    loud, floor = float(torch.quantile(level_F, 0.95)), float(torch.quantile(level_F, 0.1))
    least = min(loud - RANGE_DB[0], max(loud - RANGE_DB[1], floor + ABOVE_FLOOR_DB))
    return level_F > max(least, SILENCE_DB)


def _around(values_F: Tensor) -> Tensor:
    """Sums over the frames on both sides of each."""
    sums = F.pad(values_F.double().cumsum(0), (AROUND + 1, 0))
    sums = torch.cat((sums, sums[-1:].expand(AROUND)))
    return sums[2 * AROUND + 1 :] - sums[: -2 * AROUND - 1]


@lru_cache(maxsize=1)
def _low_channels() -> Tensor:
    """bool [M]: channels whose middle lies in the low band."""
    return (_middles() >= LOW_HZ[0]) & (_middles() <= LOW_HZ[1])


@lru_cache(maxsize=1)
def _middles() -> Tensor:
    """Hertz [M] where each channel hears best."""
    return filters(MEL).argmax(0) * MEL.rate / MEL.points


def _low(mel_FM: Tensor) -> Tensor:
    """Which frames have most of their power in the low band, bool [F]."""
    power_FM = mel_FM.exp()
    return power_FM[:, _low_channels()].sum(1) > 0.5 * power_FM.sum(1)


def _periodic(wave_N: Tensor) -> Tensor:
    """Which frames have a period of a voice, bool [F], by the autocorrelation of 40 ms without that of the window."""
    width, points = 640, 2048
    window = torch.hann_window(width)
    frames_FN = _framed(wave_N, width)
    frames_FN = (frames_FN - frames_FN.mean(1, keepdim=True)) * window
    of_frame, of_window = (torch.fft.irfft(torch.fft.rfft(x, points).abs().square()) for x in (frames_FN, window))
    periods = slice(math.ceil(RATE / PITCH_HZ[1]), math.floor(RATE / PITCH_HZ[0]) + 1)
    peaks_F = (of_frame[:, periods] / of_window[periods]).amax(1) * of_window[0]
    return peaks_F > PERIODIC * of_frame[:, 0].clamp_min(1e-9)


def _moving(mel_FM: Tensor, active_F: Tensor) -> Tensor:
    """How far the envelope of each frame is from that of 50 ms before, nepers [F], whatever their levels; 0 beside silence."""
    mel_FM = mel_FM[:, _middles() <= TELEPHONE_HZ]  # so that recordings of 8 kHz are not thought still
    shape_FM = (mel_FM - mel_FM.amax(1, keepdim=True)).clamp_min(-DEEPEST)
    shape_FM = F.avg_pool1d(shape_FM[None], BAND, padding=BAND // 2, stride=1)[0]
    far_F = F.pad((shape_FM[LAG:] - shape_FM[:-LAG]).abs().mean(1).clamp_max(FARTHEST), (min(LAG, len(shape_FM)), 0))
    before_F = F.pad(active_F, (LAG, 0))[: len(active_F)]
    return far_F * before_F
