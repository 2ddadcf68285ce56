"""The mini-world aloud: short lists of its words in eight languages, spoken by voices of which some are only heard in tests.

A sentence is a list of nouns (and names, where asked for), the same in every language, so each has its translation. Its English
form is its key, and the hash of the key alone says whether it is for training or held out (`puna.world.drawing.split_of`): no
seed brings a held-out sentence, or its translation, into training. Single words are all for training. Sound comes from `espeak-ng`, an ordinary Debian package
started as a program of its own, or from the formant synthesiser of `puna.world.formants`, which is always there.
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
from puna.world.lexicon import NAMES, NOUN_COUNT, NOUNS

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
    speed: int = 165


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
