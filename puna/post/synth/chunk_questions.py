"""Questions on chunks of long documents, learnt with the whole document as context (paper section 4.3.4).

The question is made from one chunk, so any teacher can read it. It is kept if the answer stands in the chunk, if fresh readings
of the chunk give the same answer, and if the chunks most like the question give no other: in the whole document it must be clear
what is meant.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.settings import Settings as BaseSettings
from puna.post.synth.long_documents import Lengths, LongDocument, long_documents, nearest
from puna.post.synth.replies import fields, most_say
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Answer, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates
from puna.verify.constraints import fold

CAPABILITY = "long context"
NO_QUESTION, NOT_IN_CHUNK, DISAGREE, AMBIGUOUS = (
    "no question",
    "answer not in the chunk",
    "readings disagree",
    "ambiguous question",
)
REASONS = (NO_QUESTION, NOT_IN_CHUNK, DISAGREE, AMBIGUOUS)


class Settings(BaseSettings):
    """`count` questions on documents of these `lengths`.

    Attributes:
        per_document: questions on one document, each on a chunk of its own.
        votes: fresh readings of the chunk, of which more than half must give the answer.
        others: chunks most like the question that must not give another answer.
    """

    count: PositiveInt = 100
    lengths: Lengths = Lengths()
    per_document: int = Field(1, ge=1)
    votes: int = Field(3, ge=1)
    others: int = Field(2, ge=0)
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 256
    prompts: str = ""


def items(settings: Settings, sources: Sources, rng: random.Random) -> Iterator[Item]:
    """Long documents, each with the number of the chunk that is asked about."""
    documents, left = -(-settings.count // settings.per_document), settings.count
    for item in long_documents(settings.lengths, documents, sources, rng):
        chunks = rng.sample(range(len(item.given.passages)), min(settings.per_document, len(item.given.passages), left))
        left -= len(chunks)
        for chunk in chunks:
            yield replace(item, key=f"{item.key}-{chunk}", given=(item.given, chunk))


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Question, fresh readings of its chunk and of others."""
    document, number = item.given
    chunk = document.passages[number]
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    (written,) = yield templates.ask("question", chunk=chunk, **how)
    found = fields(written, "question", "answer")
    if found is None or fold(found[1]) in fold(found[0]):
        return Rejected(NO_QUESTION)
    question, answer = found
    if fold(answer) not in fold(chunk):
        return Rejected(NOT_IN_CHUNK)
    others = nearest(question, [*document.passages[:number], *document.passages[number + 1 :]], settings.others)
    readings = yield [
        templates.ask("read", chunk=text, question=question, samples=settings.votes, role="judge", **how)
        for text in (chunk, *others)
    ]
    if not most_say(readings[0], answer):
        return Rejected(DISAGREE)
    if not all(most_say(reading, answer) or _says_nothing(reading) for reading in readings[1:]):
        return Rejected(AMBIGUOUS)
    checks = {"readings": settings.votes, "others": len(others), "bucket": document.bucket}
    return Accepted([asked(document, question, answer, templates)], checks, lang=document.lang)


def asked(document: LongDocument, question: str, answer: str, templates: Templates) -> list[Any]:
    """The dialog that is learnt: the whole document, the question, the answer."""
    return [user(templates.text("asked", document=document.text, question=question)), assistant(answer)]


def _says_nothing(answers: list[Answer]) -> bool:
    """Whether more than half of the readings found no answer: "none" is what the template asks them to write then."""
    return 2 * sum(fold(one.text).startswith("none") for one in answers) > len(answers)
