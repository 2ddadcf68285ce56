"""Steerability: system prompts that hold for a whole conversation, and answers that keep to them (paper section 4.3.7).

A system prompt of one or more demands is put before a prompt; the teacher answers, asks further as the user, and answers again.
Every answer must meet the demands that a program can check; those of tone and persona, and whether the question was answered
at all, a judge sees. Where the prompt is a task with a verifier, the first answer must be right as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.settings import Portion
from puna.core.settings import Settings as BaseSettings
from puna.post.synth.demands import Demand, draw_demands
from puna.post.synth.replies import said_yes
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Ask, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates
from puna.tokenizer.chat import Message
from puna.tokenizer.dialog import MessageRow, Task
from puna.verify.check import verify
from puna.verify.constraints import fold, holds
from puna.verify.numbers import final_number, to_fraction

CAPABILITY = "steerability"
UNFINISHED, BROKEN, WRONG, JUDGED, NO_FOLLOW_UP = "unfinished", "demand not met", "wrong answer", "judged off", "no follow-up"
REASONS = (UNFINISHED, BROKEN, WRONG, JUDGED, NO_FOLLOW_UP)

Kind = Literal["length", "format", "tone", "persona"]


class Settings(BaseSettings):
    """`count` conversations.

    Attributes:
        kinds: of demands, at most `most` of them in a system prompt.
        capabilities: of the tasks whose prompts are taken, empty for all.
        turns: answers in a conversation; the first counts.
        samples: of each answer, the first that passes the program's checks is taken.
        judge: whether a judge reads the answers; demands of tone and persona need one. `votes`: its verdicts on each answer, of
            which a share above `agree` must be yes: no program checks the later answers, so more than half is not enough.
    """

    count: PositiveInt = 200
    kinds: tuple[Kind, ...] = Field(("length", "format", "tone", "persona"), min_length=1)
    most: int = Field(2, ge=1)
    capabilities: tuple[str, ...] = ()
    turns: int = Field(2, ge=1)
    samples: int = Field(2, ge=1)
    judge: bool = True
    votes: int = Field(5, ge=1)
    agree: Portion = 0.6
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 256
    prompts: str = ""


@dataclass(frozen=True)
class Given:
    """A prompt and the demands on every answer to it."""

    task: Task
    demands: tuple[Demand, ...]

    @property
    def system(self) -> str:
        return " ".join(demand.text for demand in self.demands)

    @property
    def constraint(self) -> dict[str, Any]:
        return {name: value for demand in self.demands for name, value in demand.constraint.items()}


def items(settings: Settings, sources: Sources, rng: random.Random) -> Iterator[Item]:
    """Prompts without a system message or a constraint of their own, each with demands drawn for it."""
    made = 0
    for task in sources.tasks():
        fits = not settings.capabilities or task.capability in settings.capabilities
        plain = [message.role for message in task.prompt] == ["user"] and not task.constraint and task.verifier != "tool_call"
        if made < settings.count and fits and plain:
            made += 1
            given = Given(task, draw_demands(settings.kinds, settings.most, rng))
            yield Item(task.id, task.provenance.source, task.provenance.licence, given, (task.id,))


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Answer, follow-up, answer, each checked."""
    given: Given = item.given
    dialog = [MessageRow(role="system", content=given.system), *given.task.prompt]
    for turn in range(settings.turns):
        if turn:
            (further,) = yield templates.ask("follow_up", dialog=_shown(dialog[1:]), temperature=settings.temperature,
                                             max_tokens=settings.max_tokens)  # fmt: skip
            if not further.finished or not further.text.strip():
                return Rejected(NO_FOLLOW_UP)
            dialog.append(user(further.text.strip()))
        answers = yield _ask(dialog, given, settings, templates)
        texts = [answer.text.strip() for answer in answers if answer.finished and answer.text.strip()]
        if not texts:
            return Rejected(UNFINISHED)
        kept = [text for text in texts if holds(given.constraint, text)]
        if not kept:
            return Rejected(BROKEN)
        right = [text for text in kept if turn or is_right(given.task, text)]
        if not right:
            return Rejected(WRONG)
        dialog.append(assistant(right[0]))
        if settings.judge:
            verdict = yield templates.ask("judge", role="judge", samples=settings.votes, max_tokens=8, system=given.system,
                                          dialog=_shown(dialog[1:]))  # fmt: skip
            if not said_yes(verdict, settings.agree):
                return Rejected(JUDGED)
    judged = sum(not demand.constraint for demand in given.demands)
    checks = {"constraint": given.constraint, "judged_demands": judged, "judge": settings.judge}
    return Accepted([dialog], checks, lang=given.task.lang)


def is_right(task: Task, text: str) -> bool:
    """Whether an answer holds the right one, in whatever form the demands gave it; a task without a verifier says nothing."""
    if task.verifier == "final_answer":
        wanted = str(task.reference["answer"])
        number = to_fraction(wanted)
        return final_number(text) == number if number is not None else fold(wanted) in fold(text)
    return not task.verifier or verify(task, Message("assistant", text))


def _ask(dialog: Sequence[MessageRow], given: Given, settings: Settings, templates: Templates) -> Ask:
    slots = {"system": given.system, "question": dialog[-1].content, "turn": str(len(dialog) // 2)}
    template = f"{templates.generator}.answer"
    return Ask(list(dialog), settings.samples, settings.temperature, settings.max_tokens, template=template, slots=slots)


def _shown(dialog: Sequence[MessageRow]) -> str:
    return "\n\n".join(f"{message.role}: {message.content}" for message in dialog)
