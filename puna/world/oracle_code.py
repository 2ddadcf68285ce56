"""The oracle on code: problems, solutions, tests, repairs, translations and explanations of the mini-world's programs.

It errs as models do: a solution with one of the known bugs, tests that were worked out with a bug in mind, tests so weak that
they pass whatever they test, a repair that bends the tests to the code, an explanation of something else.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from puna.world.oracle import Answerer, Question
from puna.world.programs import BUGS, LANGUAGES, PROGRAMS, QUIET_BUGS, Program, described, idle_lists, lists, program

ASSERTS = 6
_NAME = re.compile("|".join(sorted(map(re.escape, PROGRAMS), key=len, reverse=True)))


def named(text: str) -> Program:
    """The program that a text is about."""
    found = _NAME.search(text)
    return PROGRAMS[found[0]] if found else next(iter(PROGRAMS.values()))


def block(code: str, language: str = "python") -> str:
    """Code as a block of a message."""
    return f"```{language}\n{code.strip()}\n```"


def solution(asked: Question, about: Program) -> str:
    """The function, right or with a bug."""
    found = about.wrong(asked.rng.choice(BUGS)) if asked.errs() else about
    return f"The loop goes over the list once.\n{block(found.python())}"


def suite(asked: Question, about: Program) -> str:
    """Asserts: right ones, some worked out with a bug, or ones on the empty list and its like alone."""
    rng, believed, weak = asked.rng, about, False
    if asked.errs():
        weak = rng.random() < 1 / 3
        believed = about if weak else about.wrong(rng.choice(QUIET_BUGS))
    tried = idle_lists(ASSERTS) if weak else lists(rng, about, ASSERTS)
    return block("\n".join(f"assert {about.name}({xs}) == {believed.value(xs)}" for xs in tried))


def bent(rng: random.Random, code: str, about: Program) -> str:
    """A repair that keeps wrong code and writes tests it passes."""
    bug = next((bug for bug in QUIET_BUGS if about.wrong(bug).python().strip() == code.strip()), "")
    wrong = about.wrong(bug)
    tests = "\n".join(f"assert {about.name}({xs}) == {wrong.value(xs)}" for xs in lists(rng, about, ASSERTS))
    return f"A test was wrong.\n{block(wrong.python())}\n{block(tests)}"


def code_feedback(asked: Question) -> str:
    """problem, solution, tests, repair."""
    if asked.name == "problem":
        drawn = program(asked.rng)
        stated = f"{drawn.problem}\n{block(f'def {drawn.name}(xs):')}"
        return drawn.problem if asked.errs() and asked.rng.random() < 0.5 else stated
    about = named(asked.slots["problem"])
    if asked.name == "solution":
        return solution(asked, about)
    if asked.name == "tests":
        return suite(asked, about)
    if asked.errs():
        return bent(asked.rng, asked.slots["code"].strip().removeprefix("```python").removesuffix("```"), about)
    return f"Here is all of it, mended.\n{block(about.python())}\n{suite(asked, about)}"


def code_translate(asked: Question) -> str:
    """program, inputs, translation."""
    about = named(asked.slots["code"])
    if asked.name == "program":
        return block(about.whole("python"))
    if asked.name == "inputs":
        tried = idle_lists(ASSERTS) if asked.errs() else lists(asked.rng, about, ASSERTS)
        return "\n".join(block(" ".join(map(str, xs)) + "\n", "input") for xs in tried)
    language = asked.slots["language"].lower()
    found = about.wrong(asked.rng.choice(BUGS)) if asked.errs() else about
    return block(found.whole(language if language in LANGUAGES else "python"), language)


def code_backtranslate(asked: Question) -> str:
    """explain, calls, regenerate, judge."""
    if asked.name == "explain":
        about = named(asked.slots["code"])
        told = program(asked.rng) if asked.errs() else about
        return f"`{about.name}` works on a list. {told.problem}"
    if asked.name == "calls":
        about = named(asked.slots["code"])
        tried = idle_lists(ASSERTS) if asked.errs() else lists(asked.rng, about, ASSERTS)
        return block("\n".join(f"{about.name}({xs})" for xs in tried))
    if asked.name == "regenerate":
        return solution(asked, _described(asked.slots["explanation"]))
    faithful = described(asked.slots["explanation"]) == named(asked.slots["code"])
    return f"Score: {asked.rng.choice((4, 5) if faithful is not asked.errs() else (1, 2, 3))}"


def _described(explanation: str) -> Program:
    """The program that the words describe, under the name that they give it."""
    name = named(explanation)
    return replace(described(explanation) or name, alias=name.name)


ANSWERERS: dict[str, Answerer] = {
    "code_feedback": code_feedback,
    "code_translate": code_translate,
    "code_backtranslate": code_backtranslate,
}
