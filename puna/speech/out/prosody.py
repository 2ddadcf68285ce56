"""Prosody by rule: how long, how high and how loud each phone is, from its kind, its stress and the stop that ends its phrase.

What the trained model (`puna.speech.out.prosody_model`) learns to improve on, and what speaks where there is none. Durations are
near those of Klatt (1976) for read English; pitch is in semitones from the voice's own, so it fits every voice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.world.formants import STOPS
from puna.world.phones import PAUSE, Phone

Floats = NDArray[np.float64]

VOWEL_S, STOP_S, OTHER_S = 0.095, 0.075, 0.07
STRESSED, FINAL = 1.3, 1.35  # how much longer a stressed vowel and the phones of a phrase's last word are
PAUSE_S = {"comma": 0.18, "end": 0.32, "question": 0.32}
HIGH, LOW = 2.0, -2.5  # semitones at a phrase's start and end
ACCENT = 2.0  # semitones on a stressed vowel
END = {"comma": 2.0, "end": -2.0, "question": 6.0}  # semitones more in the last word
STRESS_DB, LAST_DB = 2.0, -1.5


@dataclass(frozen=True)
class Prosody:
    """One value a phone: seconds, semitones from the voice's pitch, dB."""

    durations_s: Floats
    semitones: Floats
    power_db: Floats

    def faster(self, speed: float) -> Prosody:
        """The same, `speed` times as fast."""
        return Prosody(self.durations_s / speed, self.semitones, self.power_db)


def by_rule(phones: Sequence[Phone], raised: Iterable[int] = (), lowered: Iterable[int] = ()) -> Prosody:
    """The prosody of one phrase.

    Args:
        raised: words (as `Phone.word` counts) that bear an accent: longer, higher, louder. lowered: words that bear none.
    """
    raised, lowered = set(raised), set(lowered)
    last = max((phone.word for phone in phones), default=0)
    mark = phones[-1].mark if phones else ""
    durations, semitones, power = np.zeros((3, len(phones)))
    for i, phone in enumerate(phones):
        durations[i] = _seconds(phone)
        semitones[i] = HIGH + (LOW - HIGH) * i / max(1, len(phones) - 1) + (ACCENT if phone.stressed else 0.0)
        power[i] = STRESS_DB if phone.stressed else 0.0
        if phone.word == last and phone.symbol != PAUSE:
            durations[i] *= FINAL
            semitones[i] += END.get(mark, 0.0)
            power[i] += LAST_DB if mark == "end" else 0.0
        if phone.word in raised and phone.symbol != PAUSE:
            durations[i] *= 1.2
            semitones[i] += 3.0
            power[i] += 3.0
        elif phone.word in lowered and phone.symbol != PAUSE:
            durations[i] *= 0.85
            semitones[i] -= 2.0
            power[i] -= 3.0
    return Prosody(durations, semitones, power)


def _seconds(phone: Phone) -> float:
    if phone.symbol == PAUSE:
        return PAUSE_S.get(phone.mark, PAUSE_S["comma"])
    if phone.vowel:
        return VOWEL_S * (STRESSED if phone.stressed else 1.0)
    return STOP_S if phone.symbol in STOPS else OTHER_S
