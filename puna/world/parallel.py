"""Sentences of the mini-world in two languages, with the faults that files of parallel text have, each known."""

from __future__ import annotations

import random
from dataclasses import dataclass

from puna.world.items import SEEN, item
from puna.world.lexicon import LANGUAGES

FAULTS = ("misaligned", "copied", "other language", "cut off", "other number")


@dataclass(frozen=True)
class Pair:
    """Two texts, their languages, and what is wrong with the second ("" for nothing)."""

    source: str
    target: str
    source_lang: str
    target_lang: str
    fault: str = ""


def draw_pair(rng: random.Random, faults: float) -> Pair:
    """A pair of exercises that say the same, or with probability `faults` a pair with a fault."""
    lang, target = rng.sample(LANGUAGES, 2)
    seed = rng.getrandbits(32)
    source, right = _exercise(seed, lang), _exercise(seed, target)
    if rng.random() >= faults:
        return Pair(source, right, lang, target)
    fault = rng.choice(FAULTS)
    third = rng.choice([other for other in LANGUAGES if other not in (lang, target)])
    wrong = {
        "misaligned": _exercise(seed + 1, target), "copied": source, "other language": _exercise(seed, third),
        "cut off": right[: len(right) // 4], "other number": _renumbered(right),
    }[fault]  # fmt: skip
    return Pair(source, wrong, lang, target, "" if wrong == right else fault)


def _exercise(seed: int, lang: str) -> str:
    return item(random.Random(seed), "math", lang, SEEN).prompt


def _renumbered(text: str) -> str:
    """The text with its first digit raised by one."""
    at = next(i for i, char in enumerate(text) if char.isdigit())
    return text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
