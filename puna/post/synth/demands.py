"""What system prompts may demand of every answer: length, format, tone, persona (paper section 4.3.7).

Demands of length and format are checked by a program; those of tone and persona a judge has to see.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Demand:
    """One demand in words, with the constraint that checks it (`puna.verify.constraints`); without one, a judge does."""

    kind: str
    text: str
    constraint: dict[str, Any] = field(default_factory=dict)


def _most_words(rng: random.Random) -> Demand:
    count = rng.choice((20, 40, 60))
    return Demand("length", f"Never use more than {count} words.", {"max_words": count})


def _least_words(rng: random.Random) -> Demand:
    count = rng.choice((5, 10, 20))
    return Demand("length", f"Write at least {count} words each time.", {"min_words": count})


def _small(rng: random.Random) -> Demand:
    return Demand("format", "Write in lower case only.", {"lowercase": True})


def _capitals(rng: random.Random) -> Demand:
    return Demand("format", "WRITE IN CAPITAL LETTERS ONLY.", {"uppercase": True})


def _bullets(rng: random.Random) -> Demand:
    count = rng.randint(2, 4)
    return Demand("format", f'Answer as a list of exactly {count} lines that each begin with "- ".', {"bullets": count})


def _paragraphs(rng: random.Random) -> Demand:
    count = rng.randint(2, 3)
    return Demand("format", f"Answer in exactly {count} paragraphs with a blank line between them.", {"paragraphs": count})


def _opening(rng: random.Random) -> Demand:
    words = rng.choice(("In short:", "My view:", "Note:"))
    return Demand("format", f'Begin every answer with "{words}"', {"begins": words})


def _without(rng: random.Random) -> Demand:
    words = rng.sample(("very", "really", "sorry", "please", "just"), 2)
    return Demand("format", f'Never use the words "{words[0]}" and "{words[1]}".', {"exclude": words})


def _object(rng: random.Random) -> Demand:
    return Demand("format", 'Answer with a JSON object with the one key "answer" and nothing else.', {"json": True})


def _tone(rng: random.Random) -> Demand:
    tone = rng.choice(("formal and polite", "warm and encouraging", "dry and matter-of-fact", "playful"))
    return Demand("tone", f"Your tone is {tone}.")


def _persona(rng: random.Random) -> Demand:
    who = rng.choice(("an old sea captain", "a patient school teacher", "a gardener who loves plants", "a night-train conductor"))
    return Demand("persona", f"You are {who} and always speak as one.")


DRAWS: dict[str, tuple[Callable[[random.Random], Demand], ...]] = {
    "length": (_most_words, _least_words),
    "format": (_small, _capitals, _bullets, _paragraphs, _opening, _without, _object),
    "tone": (_tone,),
    "persona": (_persona,),
}


def draw_demands(kinds: Sequence[str], most: int, rng: random.Random) -> tuple[Demand, ...]:
    """One to `most` demands of different kinds, the judged ones first as people write them."""
    chosen = rng.sample(list(kinds), rng.randint(1, min(most, len(kinds))))
    drawn = [rng.choice(DRAWS[kind])(rng) for kind in chosen]
    return tuple(sorted(drawn, key=lambda demand: bool(demand.constraint)))
