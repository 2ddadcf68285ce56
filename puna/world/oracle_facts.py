"""The oracle on what the mini-world's pages say: questions about its places, answers, and judgements of answers.

It errs as models do: a question that speaks of a text nobody has, the things of another place, a judgement the other way round.
"""

from __future__ import annotations

import re

from puna.world.lexicon import FACTS, LANGUAGES, NOUNS, PLACES, WORDING
from puna.world.oracle import Answerer, Question

_PLACE = re.compile(rf"\b({'|'.join(PLACES)})\b")


def fact(place: str, lang: str = "en") -> str:
    """What is known of a place, as a sentence."""
    nouns = dict(zip("xyz", (NOUNS[lang][i] for i in FACTS[place]), strict=True))
    return WORDING[lang].fact.format(p=place, **nouns)


def place_in(text: str) -> str | None:
    """The first place named in a text."""
    found = _PLACE.search(text)
    return found[1] if found else None


def question(place: str, lang: str = "en") -> str:
    """A question about a place."""
    return WORDING[lang].ask_lookup.format(x=place)


def language_of(text: str) -> str:
    """The language whose words a fact or a question about a place is told in, English where none fits."""
    place = place_in(text) or PLACES[0]
    return next((lang for lang in LANGUAGES if fact(place, lang) in text or question(place, lang) in text), "en")


def instructions(asked: Question) -> str:
    """instruction, answer, judge."""
    if asked.name == "instruction":
        place, lang = place_in(asked.slots["snippet"]) or asked.rng.choice(PLACES), language_of(asked.slots["snippet"])
        return f"According to this text: {question(place, lang)}" if asked.errs() else question(place, lang)
    place, lang = place_in(asked.slots["instruction"]) or PLACES[0], language_of(asked.slots["instruction"])
    if asked.name == "answer":
        other = asked.rng.choice([found for found in PLACES if found != place])
        return fact(other, lang).replace(other, place) if asked.errs() else fact(place, lang)
    right = asked.slots["answer"].strip() == fact(place, lang)
    return f"Score: {asked.rng.choice((4, 5) if right is not asked.errs() else (1, 2, 3))}"


ANSWERERS: dict[str, Answerer] = {"instructions": instructions}
