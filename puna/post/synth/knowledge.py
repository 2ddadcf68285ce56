"""Factuality: the model learns to know what it knows (paper section 4.3.6).

A question is made from a snippet, and the model answers it several times without the snippet. A judge with the snippet tells
which answers are right and which say anything definite. A question that is answered right again and again is kept with such
an answer; one that is answered definitely and wrong again and again gets a refusal; what lies between teaches nothing. The
teacher here is the model that is to be trained: what another one knows says nothing about it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.settings import Settings as BaseSettings
from puna.core.settings import Share
from puna.post.synth.replies import fields, most_say, said_yes
from puna.post.synth.snippets import Snippets, snippets
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Answer, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates
from puna.verify.constraints import fold

CAPABILITY = "factuality"
NO_QUESTION, UNCLEAR, MIXED, NO_REFUSAL = "no question", "unclear question", "mixed answers", "no refusal"
REASONS = (NO_QUESTION, UNCLEAR, MIXED, NO_REFUSAL)


class Settings(BaseSettings):
    """`count` questions from `snippets`.

    Attributes:
        samples: answers without the snippet, at `spread` (their temperature).
        right: least share of right answers for a question to be kept with one of them.
        wrong: least share of definite and wrong answers for a refusal; a question with any right answer gets none.
        votes: readings of the snippet, of which more than half must give the answer that came with the question; also verdicts
            on each answer.
    """

    count: PositiveInt = 200
    snippets: Snippets = Snippets()
    samples: int = Field(8, ge=2)
    spread: NonNegativeFloat = 1.0
    right: Share = 0.75
    wrong: Share = 0.75
    votes: int = Field(3, ge=1)
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 128
    prompts: str = ""


def items(settings: Settings, sources: Sources, rng: random.Random) -> Iterator[Item]:
    """Snippets of documents."""
    return snippets(settings.snippets, settings.count, sources, rng)


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Question, answers from memory, verdicts, and a right answer or a refusal."""
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    (written,) = yield templates.ask("question", snippet=item.given, **how)
    found = fields(written, "question", "answer")
    if found is None or fold(found[1]) not in fold(item.given) or fold(found[1]) in fold(found[0]):
        return Rejected(NO_QUESTION)
    question, reference = found
    judged: dict[str, Any] = {"role": "judge", "samples": settings.votes, "max_tokens": 8}
    read, clear = yield [
        templates.ask("read", snippet=item.given, question=question, role="judge", samples=settings.votes, **how),
        templates.ask("clear", question=question, **judged),
    ]
    if not said_yes(clear) or not most_say(read, reference):
        return Rejected(UNCLEAR)
    remembered = yield templates.ask("remember", question=question, samples=settings.samples, temperature=settings.spread,
                                     max_tokens=settings.max_tokens)  # fmt: skip
    right, definite = yield from _judged(remembered, question, reference, item.given, templates, judged)
    count = len(remembered)
    checks = {"samples": count, "right": len(right), "definite": len(definite)}
    if right and len(right) >= settings.right * count:
        return Accepted([[user(question), assistant(right[0])]], checks | {"kept": "answer"})
    near = any(fold(reference) in fold(one.text) for one in remembered)  # right perhaps, whatever the judge says
    if near or len(definite) < settings.wrong * count:
        return Rejected(MIXED)
    (refusal,) = yield templates.ask("refuse", question=question, **how)
    text = refusal.text.strip()
    verdict = yield templates.ask("definite", question=question, answer=text, **judged)
    if not refusal.finished or not text or said_yes(verdict) or fold(reference) in fold(text):
        return Rejected(NO_REFUSAL)
    return Accepted([[user(question), assistant(text)]], checks | {"kept": "refusal"})


def _judged(answers: list[Answer], question: str, reference: str, snippet: str, templates: Templates, how: dict[str, Any]) -> Any:
    """The texts of the answers that are right, and of those that are definite; a text that came twice is judged once."""
    texts = [answer.text.strip() for answer in answers if answer.finished and answer.text.strip()]
    different = list(dict.fromkeys(texts))
    asked = [
        templates.ask("right", question=question, answer=text, snippet=snippet, reference=reference, **how) for text in different
    ]
    asked += [templates.ask("definite", question=question, answer=text, **how) for text in different]
    verdicts = [said_yes(verdict) for verdict in ((yield asked) if asked else [])]
    first, second = verdicts[: len(different)], verdicts[len(different) :]
    right = {text for text, verdict in zip(different, first, strict=True) if verdict and fold(reference) in fold(text)}
    definite = {text for text, verdict in zip(different, second, strict=True) if verdict}
    return [text for text in texts if text in right], [text for text in texts if text in definite]
