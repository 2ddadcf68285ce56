"""Sentences of the mini-world whose reading and prosody depend on what their words mean, with the truth beside.

A number beside a name is an ordinal (Leo 3: the third), beside a place a code read figure by figure (Tesk 214), beside a noun a
count (214 pens); names bear an accent and places none. Which kind a word is can be learnt for words that were seen, and be
known for others only from elsewhere: half of each kind is held out of training, and the text model has read them all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from puna.core.rng import numpy_stream, python_stream
from puna.speech.out.prosody import Prosody, by_rule
from puna.speech.out.reading import Phrase, phrases_of
from puna.world.lexicon import NAMES, NOUNS, PLACES

KINDS = {"ordinal": NAMES, "digits": PLACES, "cardinal": tuple(NOUNS["en"])}  # rule of a number beside a word of each kind
NOISE = (0.05, 0.4, 0.4)  # of a reading: log seconds, semitones, dB
MOST = 3  # pairs of word and number in a sentence
PLAIN = 0.25  # share of words without a number


@dataclass(frozen=True)
class Example:
    """One sentence: its pieces, their rules, the phrase it is and how it was truly meant to sound."""

    pieces: list[str]
    rules: list[str]
    phrase: Phrase
    meant: Prosody

    def beside(self, number: int) -> int:
        """The piece whose kind decides how the number at piece `number` is read."""
        before, after = number - 1, number + 1
        return before if before >= 0 and self.pieces[before] != "and" else after

    def heard(self, stream: np.random.Generator) -> Prosody:
        """How it sounded once: as meant, with noise."""
        noise = stream.standard_normal((3, len(self.meant.semitones))) * np.array(NOISE)[:, None]
        return Prosody(self.meant.durations_s * np.exp(noise[0]), self.meant.semitones + noise[1], self.meant.power_db + noise[2])


def split_words(seed: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """(words of training, words held out) of each kind, half each."""
    train, held = {}, {}
    for kind, words in KINDS.items():
        mixed = list(words)
        python_stream(seed, "spoken words", kind).shuffle(mixed)
        train[kind], held[kind] = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
    return train, held


def examples(words: dict[str, list[str]], count: int, seed: int, name: str) -> list[Example]:
    """So many sentences of these words."""
    draw = python_stream(seed, "spoken sentences", name)
    return [_example(words, draw) for _ in range(count)]


def noise_stream(seed: int, name: str) -> np.random.Generator:
    """Where the noise of readings comes from."""
    return numpy_stream(seed, "spoken noise", name)


def _example(words: dict[str, list[str]], draw: random.Random) -> Example:
    pieces: list[str] = []
    rules: list[str] = []
    raised: list[int] = []
    lowered: list[int] = []
    for pair in range(draw.randint(1, MOST)):
        if pair:
            pieces.append("and")
            rules.append("as_is")
        kind = draw.choice(list(words))
        own = [(draw.choice(words[kind]), "as_is")]
        if draw.random() >= PLAIN:
            own.insert(draw.randint(0, 1), (str(draw.randint(2, 99)), kind))
        for piece, rule in own:
            if rule == "as_is" and kind != "cardinal":
                (raised if kind == "ordinal" else lowered).append(len(pieces))
            pieces.append(piece)
            rules.append(rule)
    pieces[-1] += draw.choice([".", "?"])
    phrase = phrases_of(pieces, rules, "en")[0]
    return Example(pieces, rules, phrase, by_rule(phrase.phones, raised, lowered))
