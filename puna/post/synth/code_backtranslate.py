"""Back-translation: explain code, write it again from the explanation alone, and see whether it is the same (paper 4.3.1).

The paper's largest part of synthetic code dialogs. An explanation from which the same function comes again is a good one, and the
code it explains is a good answer to it, whoever wrote that. "The same" is judged by the results of calls, which the teacher
chooses and the sandbox makes of both functions, and by a judge who reads all three.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from random import Random
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.settings import Settings as BaseSettings
from puna.post.synth.code_text import code_in, defines, fenced, parsed
from puna.post.synth.functions import functions, name_of
from puna.post.synth.judging import mean_score
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Execute, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates

CAPABILITY = "code"
REASONS = ("no explanation", "too few calls", "results all alike", "no code", "other results", "judged unfaithful")


class Settings(BaseSettings):
    """`count` functions.

    Attributes:
        call_sets: how often the teacher is asked for calls.
        least_calls, least_results: different calls that the function answers, and different results among theirs.
        votes, least_score: judgements of an explanation, from 1 to 5, and what their mean must reach.
        temperature, max_tokens: of the answers. `prompts`: a file of templates instead of Puna's own.
    """

    count: PositiveInt = 200
    call_sets: PositiveInt = 2
    least_calls: PositiveInt = 6
    least_results: PositiveInt = 3
    votes: PositiveInt = 3
    least_score: float = Field(3.5, ge=1, le=5)
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 768
    prompts: str = ""


def items(settings: Settings, sources: Sources, rng: Random) -> Iterator[Item]:
    """Python functions of dialogs and documents."""
    return functions(settings.count, sources)


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Explanation and calls, the function again, the results of both, the judge."""
    code, name = item.given, name_of(item.given)
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    (explained,), asked = yield [
        templates.ask("explain", code=fenced(code), **how),
        templates.ask("calls", code=fenced(code), samples=settings.call_sets, **how),
    ]
    explanation = explained.text.strip()
    if not explained.finished or not explanation or "```" in explanation:
        return Rejected("no explanation")
    calls = list(dict.fromkeys(call for one in asked for call in literal_calls(one.text, name)))
    if len(calls) < settings.least_calls:
        return Rejected("too few calls")
    (again,) = yield templates.ask("regenerate", explanation=explanation, **how)
    written = code_in(again.text)
    if not again.finished or not defines(written, name):
        return Rejected("no code")
    first, second = yield [Execute(with_calls(code, calls)), Execute(with_calls(written, calls))]
    results = first.stdout.splitlines()
    if not first.passed or len(set(results)) < settings.least_results:
        return Rejected("results all alike")
    if not second.passed or second.stdout.splitlines() != results:
        return Rejected("other results")
    scores = yield templates.ask("judge", code=fenced(code), explanation=explanation, regenerated=fenced(written),
                                 role="judge", samples=settings.votes, max_tokens=64)  # fmt: skip
    score = mean_score(scores)
    if score < settings.least_score:
        return Rejected("judged unfaithful")
    explain = [user(templates.text("explain_request", code=fenced(code))), assistant(explanation)]
    write = [user(templates.text("write_request", explanation=explanation)), assistant(fenced(code))]
    return Accepted([explain, write], {"calls": len(calls), "score": score})


def literal_calls(text: str, name: str) -> list[str]:
    """The calls of a function with literal arguments that stand alone in a block."""
    tree = parsed(code_in(text))
    found = [node.value for node in tree.body if isinstance(node, ast.Expr)] if tree else []
    return [ast.unparse(node) for node in found if isinstance(node, ast.Call) and _is_literal(node, name)]


def _is_literal(node: ast.Call, name: str) -> bool:
    given = [*node.args, *(word.value for word in node.keywords)]
    try:
        for value in given:
            ast.literal_eval(value)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return False
    return isinstance(node.func, ast.Name) and node.func.id == name and bool(given)


def with_calls(code: str, calls: list[str]) -> str:
    """A program that prints the result of each call, or the kind of error it raises."""
    lines = [f"    (lambda: {call})," for call in calls]
    loop = "for call in [\n" + "\n".join(lines) + "\n]:\n    try:\n        print(repr(call()))\n"
    return f"{code}\n\n{loop}    except Exception as error:\n        print(type(error).__name__)\n"
