"""Mistakes and corrections: a wrong solution, and the same teacher putting it right (paper 4.3.3, learning from mistakes).

Of several solutions a wrong one is taken, and the teacher is told that it is wrong, not why. The correction must end in the known
answer with steps that hold. In the dialog the wrong turn is there to be answered and stays out of the loss.
"""

from __future__ import annotations

from typing import Any

from pydantic import NonNegativeFloat, PositiveInt

from puna.post.synth.maths import MathsSettings, asked, ended_right, form, is_right
from puna.post.synth.maths import items as items
from puna.post.synth.steps import Accepted, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates
from puna.tokenizer.dialog import Task

CAPABILITY, TEMPLATES = "maths", "maths"
REASONS = ("never wrong", "not corrected")


class Settings(MathsSettings):
    """Those of all generators of maths, and its own.

    Attributes:
        samples: solutions drawn of each, in search of a wrong one; `corrections` are drawn of that.
    """

    samples: PositiveInt = 4
    corrections: PositiveInt = 2
    temperature: NonNegativeFloat = 1.0


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Solutions, a wrong one of them, its correction."""
    task: Task = item.given
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens, "form": form(task)}
    solutions = yield templates.ask("solve", problem=asked(task), samples=settings.samples, **how)
    wrong = next((one.text.strip() for one in solutions if one.finished and one.text and not ended_right(task, one)), None)
    if wrong is None:
        return Rejected("never wrong")
    corrected = yield templates.ask("correct", problem=asked(task), solution=wrong, samples=settings.corrections, **how)
    right = next((one.text.strip() for one in corrected if is_right(task, one, settings.problems)), None)
    if right is None:
        return Rejected("not corrected")
    mistake = assistant(wrong).model_copy(update={"train": False})
    dialog = [*task.prompt, mistake, user(templates.text("feedback")), assistant(right)]
    return Accepted([dialog], {"verifier": "pass", "steps": "hold"}, lang=task.lang)
