"""What the generators of maths share: problems whose answer is known, the form of an answer, whether steps hold (4.3.3)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from random import Random

from pydantic import NonNegativeFloat, PositiveInt

from puna.core.settings import Settings as BaseSettings
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Answer, Item
from puna.tokenizer.chat import Message
from puna.tokenizer.dialog import Task
from puna.verify.check import verify
from puna.verify.equations import operands, true_equations
from puna.verify.language import ANSWER_TAGS, answer_tags
from puna.verify.numbers import final_number, numbers

VERIFIERS = ("final_answer", "number")
FREE = frozenset(map(Fraction, (1, 2, 100)))  # numbers that a step may use though no one named them: once, twice, percent


class Problems(BaseSettings):
    """Which tasks, and how strictly steps are read.

    Attributes:
        capabilities, langs: of the tasks, empty for all; only those whose answer is a number or a tagged answer are taken.
        only_given: whether a step may use only numbers that the problem or an earlier step gave in digits. Catches answers out of
            the blue; of GSM8K's own solutions 57 % pass, since people write "a dozen" and know that an hour has 60 minutes.
    """

    capabilities: tuple[str, ...] = ("maths",)
    langs: tuple[str, ...] = ()
    only_given: bool = False


class MathsSettings(BaseSettings):
    """What every generator of maths takes.

    Attributes:
        count: of the tasks that `problems` describes.
        temperature, max_tokens: of the answers. `prompts`: a file of templates instead of Puna's own.
    """

    count: PositiveInt = 200
    problems: Problems = Problems()
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 512
    prompts: str = ""


def items(settings: MathsSettings, sources: Sources, rng: Random) -> Iterator[Item]:
    """At most `count` items whose `given` is a task, drawn from those that fit."""
    fitting = [task for task in sources.tasks() if _fits(task, settings.problems)]
    chosen = sorted(rng.sample(range(len(fitting)), min(settings.count, len(fitting))))
    for task in (fitting[i] for i in chosen):
        yield Item(task.id, task.provenance.source, task.provenance.licence, task, (task.id,))


def _fits(task: Task, settings: Problems) -> bool:
    of_kind = not settings.capabilities or task.capability in settings.capabilities
    return task.verifier in VERIFIERS and of_kind and (not settings.langs or task.lang in settings.langs)


def asked(task: Task) -> str:
    """The problem as one text."""
    return "\n".join(row.content for row in task.prompt)


def form(task: Task) -> str:
    """How an answer must end, as its verifier reads it."""
    if task.verifier == "number":
        return "#### and the number"
    return f"{ANSWER_TAGS[task.reference['lang']]}: and the answer"


def is_right(task: Task, answer: Answer, settings: Problems) -> bool:
    """Whether the teacher ended the answer, its verifier passes it and its steps hold."""
    return ended_right(task, answer) and steps_hold(asked(task), answer.text, settings.only_given)


def ended_right(task: Task, answer: Answer) -> bool:
    """Whether the teacher ended the answer and its verifier passes it."""
    return answer.finished and verify(task, Message("assistant", answer.text.strip()))


def steps_hold(problem: str, text: str, only_given: bool = False) -> bool:
    """Whether all equations are true and, if asked for, use numbers of the problem, of earlier steps, or FREE ones alone."""
    if not true_equations(text):
        return False
    if not only_given:
        return True
    known = {abs(number) for number in numbers(problem)} | FREE
    for used, result in operands(text):
        if not used <= known:
            return False
        known |= used | ({abs(result)} if result is not None else set())
    return True


def final_of(text: str) -> str | None:
    """What an answer settles on, in a form in which equal answers are equal: its last number, or the words behind its tag."""
    tags = answer_tags(text)
    said = text[tags[-1][2] :].strip() if tags else text
    number = final_number(said)
    return str(number) if number is not None else " ".join(said.casefold().split()) if tags and said else None
