"""The mini-world's sentences as sound files and rows: recognition to learn from, recognition and translation to be tested by.

Sentences and voices of dev and test are in no training row. Translation is learnt only where it is asked for (`translated`):
without, a model that translates speech does so because its frozen text model can (section 8.3 trains on both).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from pydantic import AfterValidator, Field, NonNegativeInt

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.core.settings import Settings, Share
from puna.speech.features import MelConfig
from puna.speech.prompts import heard, recognition, translation
from puna.speech.resample import resample
from puna.tokenizer.dialog import Dialog, MessageRow, Task, content_id
from puna.world.tasks import PROVENANCE
from puna.world.voices import Sentence, Voice, espeak, formant, has_espeak, sentence, voice

PER_FOLDER = 1000  # files
RATE = MelConfig().rate

Split = Literal["train", "dev", "test"]
Lang = Literal["en", "pt", "es", "fr", "de", "it", "hi", "th"]
Speak = Callable[[str, str, Voice], tuple[np.ndarray, int]]  # (text, language, voice) -> (samples in -1..1, rate)
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
EVERY: tuple[Lang, ...] = get_args(Lang)


def different(languages: tuple[Lang, ...]) -> tuple[Lang, ...]:
    """The languages; ValueError if one stands there twice."""
    if len(set(languages)) < len(languages):
        raise ValueError("a language stands there twice")
    return languages


class WorldSounds(Settings):
    """Generated speech: how much of it, of what, and who speaks.

    Attributes:
        languages: spoken, and translated into.
        train, dev, test: utterances of each language.
        words: in a sentence, at most; names: how often a word is a name, which is the same in every language.
        translated: share of the training utterances whose answer is a translation and not what is said.
        voices: "espeak" is the program espeak-ng, "formant" the built-in synthesiser, "auto" the former where it is installed;
            which of them spoke stands in the summary and with every row.
    """

    languages: Annotated[tuple[Lang, ...], Field(min_length=1), AfterValidator(different)] = EVERY
    train: NonNegativeInt = 500
    dev: NonNegativeInt = 20
    test: NonNegativeInt = 60
    words: int = Field(default=3, ge=2, le=8)
    names: Share = 0.0
    translated: Share = 0.0
    voices: Literal["auto", "espeak", "formant"] = "auto"


@dataclass(frozen=True)
class Utterance:
    """One sentence in one language by one voice; `other` is the language it is to be translated into, if it is."""

    split: Split
    number: int
    sentence: Sentence
    lang: Lang
    other: Lang | None
    voice: Voice

    @property
    def url(self) -> str:
        """Address of its file below the folder of the source."""
        return f"{self.lang}-{self.split}/{self.number // PER_FOLDER:04d}/{self.number:07d}.flac"


def utterances(world: WorldSounds, split: Split, seed: int) -> Iterator[Utterance]:
    """Every utterance of a split, language by language; each is a function of seed, split, language and number."""
    for lang in world.languages:
        others = [other for other in world.languages if other != lang]
        for number in range(getattr(world, split)):
            rng = python_stream(seed, "utterance", lang, split, number)
            said = sentence(split, rng, world.words, world.names)
            asks = bool(others) and (split != "train" or rng.random() < world.translated)
            yield Utterance(split, number, said, lang, rng.choice(others) if asks else None, voice(split, seed, lang, number))


def spoken(
    world: WorldSounds, split: Split, seed: int, folder: Path, speak: Speak, cores: int, told: Callable[[int], None]
) -> Iterator[tuple[Utterance, float]]:
    """Utterances with their seconds, each written as FLAC at 16 kHz below `folder` before it comes.

    `cores` are spoken side by side; `told` hears how many are done, after every PER_FOLDER.
    """

    def write(one: Utterance) -> float:
        samples, rate = speak(one.sentence.text(one.lang), one.lang, one.voice)
        return write_flac(folder / one.url, samples, rate)

    every, done = utterances(world, split, seed), 0
    with ThreadPoolExecutor(max(1, cores)) as pool:
        while group := list(islice(every, PER_FOLDER)):
            yield from zip(group, pool.map(write, group), strict=True)
            done += len(group)
            told(done)


def write_flac(path: Path, samples_N: np.ndarray, rate: int) -> float:
    """Write mono samples in -1..1 as 16-bit FLAC at 16 kHz; returns the seconds."""
    import soundfile

    wave_N = resample(torch.from_numpy(samples_N), rate, RATE).clamp(-1, 1).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave_N, RATE, format="FLAC", subtype="PCM_16")
    return len(wave_N) / RATE


def rows_of(one: Utterance, seconds: float, url: str, seed: int, backend: str) -> Iterator[Dialog | Task]:
    """The rows about an utterance: of training one to learn, of the others what is said and, apart, its translation.

    Their ids name the seed as well: other stages have sounds of other seeds at the same addresses.
    """
    checks = {
        "shows": hashlib.blake2b(one.sentence.key.encode(), digest_size=16).hexdigest(), "voice": one.voice.name,
        "backend": backend, "speaks": one.lang, "seconds": round(seconds, 3),
    }  # fmt: skip
    provenance = PROVENANCE.model_copy(update={"checks": checks})
    asked = [("transcribe", one.lang, recognition(one.lang))]
    if one.other is not None:
        asked = [*asked[: one.split != "train"], ("translate", one.other, translation(one.other))]
    for family, lang, system in asked:
        prompt, answer = heard(url, system), one.sentence.text(lang)
        if one.split == "train":
            messages = [*prompt, MessageRow(role="assistant", content=answer)]
            identity = content_id({"messages": messages, "seed": seed})
            yield Dialog(id=identity, messages=messages, lang=lang, capability=family, provenance=provenance)
        else:
            yield Task(
                id=content_id({"prompt": prompt, "seed": seed}), prompt=prompt, verifier="exact", reference=[answer],
                family=family, capability=family, lang=lang, gold=answer, split=one.split, provenance=provenance,
            )  # fmt: skip


def speaker_of(voices: Literal["auto", "espeak", "formant"]) -> tuple[str, Speak]:
    """The name of the back end that speaks, and what speaks; InputError where espeak-ng is asked for and missing."""
    if voices == "espeak" and not has_espeak():
        raise InputError(
            "espeak-ng is not installed", where="voices: espeak", fix="apt-get install espeak-ng, or voices: formant"
        )
    return ("espeak", espeak) if voices != "formant" and has_espeak() else ("formant", formant)
