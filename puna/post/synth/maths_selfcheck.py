"""Solutions of problems whose answer nobody gives: the teacher's own agreement and its own checks decide (paper 4.3.3).

Self-verification: several solutions must agree on the answer, the arithmetic of the kept one must hold, and of several checks,
each of which sees only problem and solution, most must find it right. The reference of a task is never looked at, so this also
works on prompts that have none. A check that agreed with the outcome is a dialog as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import PositiveInt

from puna.core.settings import Share
from puna.post.synth.maths import MathsSettings, asked, final_of, form, steps_hold
from puna.post.synth.maths import items as items
from puna.post.synth.steps import Accepted, Answer, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates
from puna.tokenizer.dialog import Task

CAPABILITY, TEMPLATES = "maths", "maths"
REASONS = ("no agreement", "wrong steps", "found wrong")

_VERDICT = re.compile(r"\bverdict\W{1,4}(right|wrong)\b", re.IGNORECASE)


class Settings(MathsSettings):
    """Those of all generators of maths, and its own.

    Attributes:
        samples, agreement: solutions drawn of each, and the share of them that must come to one answer.
        checks, check_agreement: checks of the kept solution, and the share of them that must find it right.
    """

    samples: PositiveInt = 5
    agreement: Share = 0.6
    checks: PositiveInt = 3
    check_agreement: Share = 0.6


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Solutions, their agreement, the checks of one."""
    task: Task = item.given
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    solutions = yield templates.ask("solve", problem=asked(task), form=form(task), samples=settings.samples, **how)
    agreed = agreement(solutions)
    if len(agreed) < settings.agreement * settings.samples or len(agreed) < 2:
        return Rejected("no agreement")
    sound = [one.text.strip() for one in agreed if steps_hold(asked(task), one.text, settings.problems.only_given)]
    if not sound:
        return Rejected("wrong steps")
    solution = sound[0]
    checks = yield templates.ask("check", problem=asked(task), solution=solution, samples=settings.checks, **how)
    finding = [one for one in checks if one.finished and verdict(one.text) == "right"]
    if len(finding) < settings.check_agreement * settings.checks or not finding:
        return Rejected("found wrong")
    request = templates.text("check_request", problem=asked(task), solution=solution)
    dialogs = [[*task.prompt, assistant(solution)], [user(request), assistant(finding[0].text.strip())]]
    told = {"agree": f"{len(agreed)} of {settings.samples}", "steps": "hold", "checks": f"{len(finding)} of {settings.checks}"}
    return Accepted(dialogs, told, lang=task.lang)


def agreement(solutions: Sequence[Answer]) -> list[Answer]:
    """The solutions that come to the commonest answer; none where two answers are as common."""
    finals = [final_of(one.text) if one.finished else None for one in solutions]
    common = Counter(final for final in finals if final is not None).most_common(2)
    if not common or (len(common) > 1 and common[0][1] == common[1][1]):
        return []
    return [one for one, final in zip(solutions, finals, strict=True) if final == common[0][0]]


def verdict(text: str) -> str | None:
    """The one verdict of a check, None for none or both."""
    found = {word.lower() for word in _VERDICT.findall(text)}
    return found.pop() if len(found) == 1 else None
