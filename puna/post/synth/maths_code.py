"""Reasoning with code in between: a plan, a program that works it out, and an answer from what it printed (paper 4.3.3).

The program runs in the sandbox. One that fails is mended, with what happened in view. The answer must be the known one and what
the program printed last, so that a model learns to rely on the program and not to guess beside it. In the dialog the program
is a call of the Python tool and its output comes back from there.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from puna.post.synth.code_text import blocks, code_in, fenced, parsed
from puna.post.synth.maths import MathsSettings, asked, ended_right, final_of, form
from puna.post.synth.maths import items as items
from puna.post.synth.steps import Accepted, Execute, Item, Rejected, Story, assistant
from puna.post.synth.templates import Templates
from puna.tokenizer.dialog import MessageRow, Task

CAPABILITY, TEMPLATES = "maths", "maths"
REASONS = ("no program", "does not run", "prints no answer", "wrong answer", "answer not from the program")

PYTHON = {
    "name": "python",
    "description": "Run a Python program and return what it prints.",
    "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
}
TOOLS = json.dumps([{"type": "function", "function": PYTHON}])
SHOWN = 800  # characters of an output


class Settings(MathsSettings):
    """Those of all generators of maths, and its own.

    Attributes:
        repairs: how often a failing program may be mended.
    """

    repairs: int = Field(1, ge=0)


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Plan, program and output, perhaps again, and the answer."""
    task: Task = item.given
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens, "problem": asked(task)}
    dialog = list(task.prompt)
    (said,) = yield templates.ask("plan", **how)
    for attempt in range(settings.repairs + 1):
        code = code_in(said.text)
        if not said.finished or not blocks(said.text) or parsed(code) is None:
            return Rejected("no program")
        outcome = yield Execute(code)
        output = (outcome.stdout if outcome.passed else outcome.stderr or outcome.status).strip()[-SHOWN:]
        dialog += _turn(said.text, code, output, learnt=outcome.passed)
        if outcome.passed:
            break
        if attempt == settings.repairs:
            return Rejected("does not run")
        (said,) = yield templates.ask("mend", code=fenced(code), output=output, **how)
    if final_of(output) is None:
        return Rejected("prints no answer")
    (answer,) = yield templates.ask("answer", code=fenced(code), output=output, form=form(task), **how)
    if not ended_right(task, answer):
        return Rejected("wrong answer")
    if final_of(answer.text) != final_of(output):
        return Rejected("answer not from the program")
    checks = {"verifier": "pass", "programs": attempt + 1}
    return Accepted([[*dialog, assistant(answer.text.strip())]], checks, tools=TOOLS, lang=task.lang)


def _turn(text: str, code: str, output: str, learnt: bool) -> list[MessageRow]:
    """What was said before the program, the call, and what came back; a program that failed is not learnt."""
    call = json.dumps({"name": "python", "parameters": {"code": code.strip()}}, ensure_ascii=False)
    plan = text.partition("```")[0].strip()
    called = MessageRow(role="assistant", content=plan, tool_calls=call, train=None if learnt else False)
    return [called, MessageRow(role="ipython", content=output)]
