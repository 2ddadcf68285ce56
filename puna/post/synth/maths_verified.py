"""Step-by-step solutions, filtered by the final answer and by their own arithmetic (paper 4.3.3).

Several solutions of each problem are drawn. Kept are those that end in the known answer and whose equations are all true. Of
those that reason alike one is kept, and beside the commonest reasoning only what came more than once: a way to the right answer
that was taken once is likelier a wrong one.
"""

from __future__ import annotations

from pydantic import PositiveInt

from puna.post.choose import signature
from puna.post.synth.maths import MathsSettings, asked, ended_right, form, is_right
from puna.post.synth.maths import items as items
from puna.post.synth.steps import Accepted, Item, Rejected, Story, assistant
from puna.post.synth.templates import Templates
from puna.tokenizer.dialog import Task

CAPABILITY, TEMPLATES = "maths", "maths"
REASONS = ("wrong answer", "wrong steps")


class Settings(MathsSettings):
    """Those of all generators of maths, and its own.

    Attributes:
        samples: solutions drawn of each; `cap` of different reasoning are kept.
        seen: how often a reasoning must have come to be kept beside the commonest; 1 keeps every one.
    """

    samples: PositiveInt = 4
    cap: PositiveInt = 2
    seen: PositiveInt = 2


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Solutions, and those of them that hold."""
    task: Task = item.given
    solutions = yield templates.ask("solve", problem=asked(task), form=form(task), samples=settings.samples,
                                    temperature=settings.temperature, max_tokens=settings.max_tokens)  # fmt: skip
    right = [one.text.strip() for one in solutions if is_right(task, one, settings.problems)]
    if not right:
        return Rejected("wrong steps" if any(ended_right(task, one) for one in solutions) else "wrong answer")
    kept = distinct(right, settings.seen)[: settings.cap]
    checks = {"verifier": "pass", "steps": "hold", "right": f"{len(right)} of {len(solutions)}"}
    return Accepted([[*task.prompt, assistant(text)] for text in kept], checks, lang=task.lang)


def distinct(solutions: list[str], seen: int) -> list[str]:
    """One solution of each reasoning, the commonest first, the others only if they came `seen` times."""
    alike: dict[str, list[str]] = {}
    for text in solutions:
        alike.setdefault(signature(text), []).append(text)
    ranked = sorted(alike.values(), key=len, reverse=True)
    return [texts[0] for place, texts in enumerate(ranked) if place == 0 or len(texts) >= seen]
