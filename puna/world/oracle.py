"""The mini-world's oracle: a teacher that knows the truth, and errs at a given rate in ways that are known.

It answers the templates of the generators of synthetic data from what the mini-world is made of, so what a generator's checker
lets through can be compared with the truth (paper 4.3: "execution feedback as a source of truth"; here even the source is known).
Every answer is a function of the question and its seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from puna.core.errors import InputError


@dataclass(frozen=True)
class Said:
    """What the oracle says: a text, or with `call` a tool call as JSON."""

    text: str
    call: str | None = None


@dataclass(frozen=True)
class Question:
    """A filled template.

    Attributes:
        name: of the template, without its generator.
        slots: its values; `turns` are all messages as (role, content).
        rng: the stream of this answer; `errors` the share of answers that are wrong.
    """

    name: str
    slots: Mapping[str, str]
    rng: random.Random
    errors: float
    turns: Sequence[tuple[str, str]] = field(default_factory=list)

    def errs(self) -> bool:
        """Whether this answer is to be wrong."""
        return self.rng.random() < self.errors


Answerer = Callable[[Question], str | Said]


def answer(template: str, slots: Mapping[str, str], seed: int, errors: float, turns: Sequence[tuple[str, str]] = ()) -> Said:
    """The answer to a template "GENERATOR.NAME"; InputError for a generator whose questions the oracle does not know."""
    generator, _, name = template.partition(".")
    known = _answerers()
    if generator not in known:
        raise InputError(f"the oracle does not know the questions of '{generator}'", fix=f"it knows {', '.join(known)}")
    said = known[generator](Question(name, slots, random.Random(seed), errors, turns))
    return said if isinstance(said, Said) else Said(said)


def _answerers() -> dict[str, Answerer]:
    from puna.world import (
        oracle_code,
        oracle_facts,
        oracle_languages,
        oracle_maths,
        oracle_steering,
        oracle_texts,
        oracle_tools,
    )

    parts = (oracle_code, oracle_maths, oracle_facts, oracle_texts, oracle_languages, oracle_tools, oracle_steering)
    return {generator: answerer for part in parts for generator, answerer in part.ANSWERERS.items()}
