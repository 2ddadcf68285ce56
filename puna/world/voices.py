"""The mini-world aloud: short lists of its words in eight languages, spoken by voices of which some are only heard in tests.

A sentence is a list of nouns (and names, where asked for), the same in every language, so each has its translation. Its English
form is its key, and the hash of the key alone says whether it is for training or held out (`puna.world.drawing.split_of`): no
seed brings a held-out sentence, or its translation, into training. Single words are all for training. Sound comes from
`espeak-ng`, an ordinary Debian package started as a program of its own, or from the formant synthesiser of
`puna.world.formants`, which is always there.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

import numpy as np

from puna.core.errors import InputError, RunError
from puna.core.rng import python_stream
from puna.world.drawing import split_of
from puna.world.formants import FormantVoice, render
from puna.world.lexicon import NAMES, NOUN_COUNT, NOUNS
from puna.world.phones import PAUSE, Phone, phones_of

PROGRAM = "espeak-ng"
SECONDS = 30.0  # for one sentence, after which the program counts as hung
HEADER = 44  # bytes before the samples of the program's WAV, whose lengths are not filled in when it writes to a pipe
RATE_AT = 24  # where the header has the rate
VARIANTS = {  # of espeak-ng: its men and women of other pitch and formants
    "train": ("m1", "m2", "m3", "m4", "m6", "f1", "f2", "f4"),
    "dev": ("m8", "f5"),
    "test": ("m7", "f3"),
}
LANGUAGE = {"fr": "fr-fr", "en": "en-us"}  # espeak-ng's names of languages, where they are not ours
PITCH = (35, 65)  # of espeak-ng, 50 being a voice's own
SPEED = (140, 190)  # words a minute
TRACTS = {  # of the formant synthesiser under the same names: pitch in Hz, scale of formants, breath, tilt
    "m1": (112, 1.00, 0.04, 9), "m2": (96, 0.95, 0.06, 10), "m3": (128, 1.03, 0.03, 8), "m4": (104, 0.98, 0.10, 11),
    "m6": (120, 0.93, 0.05, 9), "f1": (205, 1.16, 0.08, 10), "f2": (188, 1.12, 0.05, 9), "f4": (230, 1.20, 0.10, 11),
    "m8": (134, 1.01, 0.07, 10), "f5": (196, 1.14, 0.06, 9), "m7": (108, 0.97, 0.05, 8), "f3": (215, 1.18, 0.11, 10),
}  # fmt: skip
PITCH_STEP = 1.01  # of the formant synthesiser's pitch, for one of espeak-ng's
VOWEL, STRESSED, CONSONANT, PAUSE_S = 0.095, 0.135, 0.07, 0.1  # seconds at the usual speed
USUAL_SPEED = 165
FALL = 0.8  # pitch at the end of a sentence over that at its beginning
FORMANT_RATE = 16_000


@dataclass(frozen=True)
class Sentence:
    """A list of words by their numbers: nouns, and from NOUN_COUNT on names."""

    words: tuple[int, ...]

    def text(self, lang: str) -> str:
        """It in one of the eight languages."""
        return " ".join(NOUNS[lang][word] if word < NOUN_COUNT else NAMES[word - NOUN_COUNT] for word in self.words)

    @property
    def key(self) -> str:
        """What it says, whatever the language."""
        return self.text("en")


@dataclass(frozen=True)
class Voice:
    """Who speaks, and how.

    Attributes:
        name: a variant of espeak-ng.
        pitch: 0-99, 50 as the variant has it. speed: words a minute.
    """

    name: str
    pitch: int = 50
    speed: int = USUAL_SPEED


def sentence(split: str, rng: random.Random, most: int = 3, names: float = 0.0) -> Sentence:
    """A sentence of a split with 1 to `most` words, of a held-out split with 2 at least; each a name with probability `names`."""
    while True:
        length = rng.randint(1 if split == "train" else 2, most)
        found = Sentence(tuple(_word(rng, names) for _ in range(length)))
        if (split_of(found.key) if length > 1 else "train") == split:
            return found


def _word(rng: random.Random, names: float) -> int:
    return NOUN_COUNT + rng.randrange(len(NAMES)) if rng.random() < names else rng.randrange(NOUN_COUNT)


def voice(split: str, seed: int, lang: str, number: int) -> Voice:
    """The voice of the utterance with a number in a split; no voice of one split speaks in another."""
    rng = python_stream(seed, "voice", lang, split, number)
    return Voice(rng.choice(VARIANTS[split]), rng.randint(*PITCH), rng.randint(*SPEED))


@cache
def has_espeak() -> bool:
    """Whether the program is installed."""
    return shutil.which(PROGRAM) is not None


@cache
def version() -> str:
    """What the program says of itself: another one may speak otherwise."""
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, timeout=SECONDS)
    return done.stdout.decode("utf-8", "replace").partition("Data at")[0].strip()


def espeak(text: str, lang: str, speaker: Voice) -> tuple[np.ndarray, int]:
    """A text spoken by espeak-ng: (mono samples float32 in -1..1, samples a second).

    Raises InputError where the program is missing or does not know the language, RunError where it fails or hangs.
    """
    name = f"{LANGUAGE.get(lang, lang)}+{speaker.name}"
    command = [PROGRAM, "-v", name, "-p", str(speaker.pitch), "-s", str(speaker.speed), "-b", "1", "--stdin", "--stdout"]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=SECONDS)
    except FileNotFoundError:
        raise InputError(f"{PROGRAM} is not installed", fix=f"apt-get install {PROGRAM}, or take the formant voices") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{PROGRAM} did not end within {SECONDS:g} seconds", where=f"{name}: {text[:60]}") from None
    if b"voice" in done.stderr or not done.stdout.startswith(b"RIFF"):
        said = done.stderr.decode("utf-8", "replace").strip()[:200]
        raise InputError(f"{PROGRAM} cannot speak this", where=f"{name}: {text[:60]}", fix=said or "try another language")
    samples = np.frombuffer(done.stdout[HEADER : len(done.stdout) // 2 * 2], "<i2")
    return samples.astype(np.float32) / 2**15, int.from_bytes(done.stdout[RATE_AT : RATE_AT + 4], "little")


def formant(text: str, lang: str, speaker: Voice) -> tuple[np.ndarray, int]:
    """The same by the built-in synthesiser, read with even rhythm and falling pitch: coarser, and on every machine."""
    pitch, scale, breath, tilt = TRACTS[speaker.name]
    own = FormantVoice(speaker.name, pitch * PITCH_STEP ** (speaker.pitch - 50), scale, breath, tilt)
    phones = phones_of(text, lang)
    durations = [_seconds(phone) * USUAL_SPEED / speaker.speed for phone in phones]
    f0 = own.f0 * np.linspace(1.0, FALL, len(phones))
    return render(phones, durations, f0, np.zeros(len(phones)), own, FORMANT_RATE), FORMANT_RATE


def _seconds(phone: Phone) -> float:
    if phone.symbol == PAUSE:
        return PAUSE_S
    return (STRESSED if phone.stressed else VOWEL) if phone.vowel else CONSONANT
