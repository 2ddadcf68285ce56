"""Hierarchical summaries of long documents, and questions over the whole of them (paper section 4.3.4).

Chunks are summed up one by one, then groups of summaries, until one is left. Each summary must be shorter than what it sums up,
name no number and no name that is not there, and be found supported by a judge. A question is then asked over all the summaries
of the first level, and kept if fresh readings of them agree with its answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.settings import Settings as BaseSettings
from puna.core.settings import Share
from puna.post.synth.long_documents import Lengths, LongDocument, long_documents
from puna.post.synth.passages import sentences
from puna.post.synth.replies import fields, most_say, said_yes
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Answer, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates
from puna.verify.constraints import fold
from puna.verify.follows import invented_numbers
from puna.verify.language import SCRIPTS

CAPABILITY = "long context"
UNFINISHED, TOO_LONG, INVENTED, UNSUPPORTED = "unfinished summary", "summary too long", "something invented", "judged unsupported"
REASONS = (UNFINISHED, TOO_LONG, INVENTED, UNSUPPORTED)

NOUNS_CAPITAL = ("de",)  # where a capital letter is no sign of a name


class Settings(BaseSettings):
    """`count` documents of these `lengths`.

    Attributes:
        fan_in: summaries that are summed up together.
        shorter: most characters of a summary, as a share of what it sums up.
        samples: of each summary, the first that passes is taken.
        judge: whether a judge reads each summary beside its text. `votes`: its verdicts, and readings for the question.
        questions: whether a question over the whole document is asked as well.
    """

    count: PositiveInt = 50
    lengths: Lengths = Lengths()
    fan_in: int = Field(4, ge=2)
    shorter: Share = 0.6
    samples: int = Field(3, ge=1)
    judge: bool = True
    questions: bool = True
    votes: int = Field(5, ge=1)
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 512
    prompts: str = ""


def items(settings: Settings, sources: Sources, rng: random.Random) -> Iterator[Item]:
    """Long documents."""
    return long_documents(settings.lengths, settings.count, sources, rng)


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Summaries level by level, then a question."""
    document: LongDocument = item.given
    levels: list[list[str]] = [list(document.passages)]
    while len(levels[-1]) > 1 or len(levels) == 1:
        joined = levels[-1] if len(levels) == 1 else _grouped(levels[-1], settings.fan_in)
        summed = yield from _summaries(joined, document.lang, settings, templates)
        if isinstance(summed, Rejected):
            return summed
        levels.append(summed)
    checks: dict[str, Any] = {"levels": len(levels) - 1, "bucket": document.bucket, "judged": settings.judge}
    dialogs = [[user(templates.text("asked", document=document.text)), assistant(levels[-1][0])]]
    if settings.questions and len(levels) > 2:
        asked = yield from _question(levels[1], settings, templates)
        checks["question"] = asked is not None
        if asked:
            question = templates.text("asked_question", document=document.text, question=asked[0])
            dialogs.append([user(question), assistant(asked[1])])
    return Accepted(dialogs, checks, lang=document.lang)


def invents(summary: str, text: str, lang: str = "en") -> bool:
    """Whether a summary holds a number that is not in the text or, where capitals tell, a name that is not."""
    if invented_numbers(summary, text):
        return True
    if lang in SCRIPTS or lang in NOUNS_CAPITAL:
        return False
    known = set(re.findall(r"\w+", text))
    return any(word[0].isupper() and word not in known for one in sentences(summary) for word in re.findall(r"\w+", one)[1:])


def _grouped(summaries: list[str], fan_in: int) -> list[str]:
    return ["\n".join(summaries[i : i + fan_in]) for i in range(0, len(summaries), fan_in)]


def _summaries(texts: Sequence[str], lang: str, settings: Settings, templates: Templates) -> Any:
    """A checked summary of each text, or why one of them has none."""
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    answers = yield [templates.ask("summary", text=text, samples=settings.samples, **how) for text in texts]
    faults = [[_fault(answer, text, lang, settings) for answer in several] for several, text in zip(answers, texts, strict=True)]
    lost = next((one[0] for one in faults if all(one)), None)
    if lost:
        return Rejected(lost)
    sound = [
        list(dict.fromkeys(answer.text.strip() for answer, fault in zip(several, one, strict=True) if not fault))
        for several, one in zip(answers, faults, strict=True)
    ]
    if not settings.judge:
        return [several[0] for several in sound]
    verdicts = iter((yield [
        templates.ask("judge", role="judge", samples=settings.votes, max_tokens=8, text=text, summary=summary)
        for text, several in zip(texts, sound, strict=True) for summary in several
    ]))  # fmt: skip
    supported = [[summary for summary in several if said_yes(next(verdicts))] for several in sound]
    return [several[0] for several in supported] if all(supported) else Rejected(UNSUPPORTED)


def _fault(answer: Answer, text: str, lang: str, settings: Settings) -> str | None:
    summary = answer.text.strip()
    if not answer.finished or not summary:
        return UNFINISHED
    if len(summary) > settings.shorter * len(text):
        return TOO_LONG
    return INVENTED if invents(summary, text, lang) else None


def _question(summaries: list[str], settings: Settings, templates: Templates) -> Any:
    """A question over all summaries and its answer; None if there is none that readings agree on."""
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    joined = "\n\n".join(summaries)
    (written,) = yield templates.ask("question", summaries=joined, **how)
    found = fields(written, "question", "answer")
    if found is None or fold(found[1]) in fold(found[0]):
        return None
    read = yield templates.ask("read", summaries=joined, question=found[0], samples=settings.votes, role="judge", **how)
    return found if most_say(read, found[1]) else None
