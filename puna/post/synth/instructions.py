"""Instructions from snippets: a question to which a document holds the answer, and that answer (paper 4.3.1, 4.3.6).

Prompts that people would ask are scarce, documents are not. The teacher invents an instruction that is clear without the snippet,
then answers it with the snippet in view, and a judge who sees all three scores it. Instructions that speak of "the text", answers
in another language than the instruction, and answers the judge finds fault with are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.settings import Settings as BaseSettings
from puna.post.choose import same_language
from puna.post.synth.judging import mean_score
from puna.post.synth.snippets import Snippets, snippets
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates

CAPABILITY = "general"
REASONS = ("no instruction", "leans on the text", "no answer", "other language", "judged poor")

MOST_CHARS = 1000  # of an instruction
_LEANING = re.compile(
    r"\b(?:this|the|that|above|following|given|provided)\s+(?:\w+\s+)?(?:text|passage|snippet|paragraph|excerpt|document|article)\b"
    r"|\baccording to (?:it|this)\b|<<<|>>>",
    re.IGNORECASE,
)


class Settings(BaseSettings):
    """`count` instructions from `snippets`.

    Attributes:
        samples: answers drawn to each, of which the best is kept.
        votes, least_score: judgements of an answer, from 1 to 5, and what their mean must reach.
        temperature, max_tokens: of the answers. `prompts`: a file of templates instead of Puna's own.
    """

    count: PositiveInt = 200
    snippets: Snippets = Snippets()
    samples: PositiveInt = 2
    votes: PositiveInt = 3
    least_score: float = Field(3.5, ge=1, le=5)
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 512
    prompts: str = ""


def items(settings: Settings, sources: Sources, rng: Random) -> Iterator[Item]:
    """Snippets of documents."""
    return snippets(settings.snippets, settings.count, sources, rng)


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Instruction, answers, judgements."""
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens, "snippet": item.given}
    (invented,) = yield templates.ask("instruction", **how)
    instruction = invented.text.strip()
    if not invented.finished or not 0 < len(instruction) <= MOST_CHARS:
        return Rejected("no instruction")
    if leans(instruction):
        return Rejected("leans on the text")
    drawn = yield templates.ask("answer", instruction=instruction, samples=settings.samples, **how)
    answers = list(dict.fromkeys(one.text.strip() for one in drawn if one.finished and one.text.strip() and not leans(one.text)))
    if not answers:
        return Rejected("no answer")
    spoken = [answer for answer in answers if same_language(instruction, answer)]
    if not spoken:
        return Rejected("other language")
    judged = yield [
        templates.ask("judge", instruction=instruction, answer=answer, snippet=item.given, role="judge", samples=settings.votes,
                      max_tokens=64)
        for answer in spoken
    ]  # fmt: skip
    scores = [mean_score(votes) for votes in judged]
    best = max(range(len(spoken)), key=lambda i: (scores[i], -i))
    if scores[best] < settings.least_score:
        return Rejected("judged poor")
    return Accepted([[user(instruction), assistant(spoken[best])]], {"score": scores[best]})


def leans(text: str) -> bool:
    """Whether a text speaks of the snippet that whoever reads it does not have."""
    return _LEANING.search(text) is not None
