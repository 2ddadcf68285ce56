"""Waveform back ends: the built-in formant synthesiser, and espeak-ng as a process of its own.

The formant voice takes durations, pitch and power of every phone exactly. espeak-ng (GPL, hence never linked) takes what SSML can
say: rate, pitch and volume of every word, as they differ from the rules' own; its phones and its pauses are its own.
"""

from __future__ import annotations

import html
import io
import shutil
import subprocess
import wave
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import InputError, RunError
from puna.speech.out.prosody import Prosody, by_rule
from puna.speech.out.reading import Phrase
from puna.world.formants import VOICES, render
from puna.world.phones import PAUSE

BackendName = Literal["formant", "espeak"]
SECONDS = 60.0  # longest that espeak-ng may take for a phrase
ESPEAK_RATE = 22050
ESPEAK_WORDS = 160  # words a minute at speed 1
LANGUAGES = {"en": "en", "pt": "pt", "es": "es", "fr": "fr", "de": "de", "it": "it", "hi": "hi", "th": "th"}


class Backend(Protocol):
    """What makes a wave of a phrase."""

    name: str
    rate: int
    voices: list[str]

    def wave(self, phrase: Phrase, prosody: Prosody, lang: str, voice: str, speed: float) -> NDArray[np.float32]:
        """Mono samples [N] within -1 and 1; `prosody` is for speed 1."""
        ...


class Formant:
    """The built-in synthesiser."""

    name, rate, voices = "formant", 16000, list(VOICES)

    def wave(self, phrase: Phrase, prosody: Prosody, lang: str, voice: str, speed: float) -> NDArray[np.float32]:
        """Every phone as long, as high and as loud as `prosody` says."""
        chosen = VOICES[voice]
        f0 = chosen.f0 * 2 ** (prosody.semitones / 12)
        return render(phrase.phones, prosody.faster(speed).durations_s, f0, prosody.power_db, chosen, self.rate)


class Espeak:
    """espeak-ng as a subprocess; InputError where it is not installed."""

    name, rate = "espeak", ESPEAK_RATE
    voices = ["m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5"]

    def __init__(self) -> None:
        found = shutil.which("espeak-ng")
        if found is None:
            raise InputError("espeak-ng is not installed", where="backend espeak",
                             fix="install the package espeak-ng, or choose the backend formant")  # fmt: skip
        self.program = found

    def wave(self, phrase: Phrase, prosody: Prosody, lang: str, voice: str, speed: float) -> NDArray[np.float32]:
        """The phrase with rate, pitch and volume word by word."""
        command = [
            self.program,
            "-m",
            "-b",
            "1",
            "--stdout",
            "-v",
            f"{LANGUAGES[lang]}+{voice}",
            "-s",
            str(round(ESPEAK_WORDS * speed)),
        ]
        try:
            done = subprocess.run(
                command, input=ssml(phrase, prosody).encode(), capture_output=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RunError(
                "espeak-ng did not answer", where=" ".join(phrase.spoken)[:80], fix="try the backend formant"
            ) from error
        if done.returncode or not done.stdout.startswith(b"RIFF"):
            raise RunError(
                "espeak-ng failed: " + done.stderr.decode(errors="replace").strip()[:200], fix="try the backend formant"
            )
        return _samples(done.stdout)


def ssml(phrase: Phrase, prosody: Prosody) -> str:
    """The phrase for espeak-ng: each word with its rate, pitch and volume as they differ from the rules' own."""
    plain = by_rule(phrase.phones)
    words = []
    for place, spoken in enumerate(phrase.spoken):
        own = np.array([phone.word == place and phone.symbol != PAUSE for phone in phrase.phones])
        if not own.any():
            continue
        rate = 100 * plain.durations_s[own].sum() / prosody.durations_s[own].sum()
        pitch = 100 * (2 ** (float((prosody.semitones[own] - plain.semitones[own]).mean()) / 12) - 1)
        louder = float((prosody.power_db[own] - plain.power_db[own]).mean())
        text = html.escape(spoken)
        if abs(rate - 100) >= 1 or abs(pitch) >= 1 or abs(louder) >= 0.5:
            text = f'<prosody rate="{rate:.0f}%" pitch="{pitch:+.0f}%" volume="{louder:+.1f}dB">{text}</prosody>'
        words.append(text)
    mark = {"comma": ",", "end": ".", "question": "?"}[phrase.phones[-1].mark]
    return f"<speak>{' '.join(words)}{mark}</speak>"


def _samples(data: bytes) -> NDArray[np.float32]:
    """Samples of a wave file whose length in the header may be open, as it is from a pipe."""
    with wave.open(io.BytesIO(data)) as file:
        frames = file.readframes(len(data))
    return np.frombuffer(frames[: len(frames) // 2 * 2], "<i2").astype(np.float32) * np.float32(1 / 32768)


def open_backend(name: BackendName | None) -> Backend:
    """The back end of that name; None is espeak-ng where it is installed, else the formant synthesiser."""
    if name not in ("formant", "espeak", None):
        raise InputError(f"there is no speech back end '{name}'", fix="formant or espeak")
    if name == "espeak" or (name is None and shutil.which("espeak-ng")):
        return Espeak()
    return Formant()
