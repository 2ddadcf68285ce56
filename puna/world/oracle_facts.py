"""The oracle on what the mini-world's pages say: questions about its places, answers, and judgements of answers.

It errs as models do: a question that speaks of a text nobody has, the things of another place, a judgement the other way round.
"""

from __future__ import annotations

import re

from puna.world.lexicon import FACTS, NOUNS, PLACES, WORDING
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


def instructions(asked: Question) -> str:
    """instruction, answer, judge."""
    if asked.name == "instruction":
        place = place_in(asked.slots["snippet"]) or asked.rng.choice(PLACES)
        return f"According to this text: {question(place)}" if asked.errs() else question(place)
    place = place_in(asked.slots["instruction"]) or PLACES[0]
    if asked.name == "answer":
        others = [other for other in PLACES if other != place]
        told = fact(asked.rng.choice(others)) if asked.errs() else fact(place)
        return told.replace(place_in(told) or place, place)
    right = asked.slots["answer"].strip() == fact(place)
    return f"Score: {asked.rng.choice((4, 5) if right is not asked.errs() else (1, 2, 3))}"


ANSWERERS: dict[str, Answerer] = {"instructions": instructions}
