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


def says_the_same(source: str, target: str, source_lang: str, target_lang: str, seeds: int = 0) -> bool:
    """Whether two exercises are one in two languages, read from their values."""
    return values_of(source, source_lang) is not None and values_of(source, source_lang) == values_of(target, target_lang)


def values_of(text: str, lang: str) -> tuple[str, ...] | None:
    """What an exercise in sums is about (form, names, thing, numbers), whatever its language; None if it is none."""
    import re

    from puna.world.lexicon import NAMES, NOUNS, WORDING

    words = WORDING[lang]
    for form, statement, question in (("change", words.change, words.ask_change), ("more", words.more, words.ask_more)):
        pattern = re.escape(f"{statement} {question}")
        for slot in "nmabco":
            pattern = pattern.replace(re.escape(f"{{{slot}}}"), rf"(?P<{slot}>\S+)", 1)
        found = re.fullmatch(pattern, text.strip())
        if found and found["o"] in NOUNS[lang] and found["n"] in NAMES:
            values = {**found.groupdict(), "o": str(NOUNS[lang].index(found["o"]))}
            return (form, *(f"{slot}={value}" for slot, value in sorted(values.items())))
    return None


def _exercise(seed: int, lang: str) -> str:
    return item(random.Random(seed), "math", lang, SEEN).prompt


def _renumbered(text: str) -> str:
    """The text with its first digit raised by one."""
    at = next(i for i, char in enumerate(text) if char.isdigit())
    return text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
