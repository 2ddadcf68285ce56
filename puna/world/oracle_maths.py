"""The oracle on the mini-world's word problems: solutions, checks, corrections and programs, in eight languages.

It errs as models do: a slip in a step carried to the end, a slip that the next step makes good again, the wrong operation, an
answer out of the blue, an answer in the wrong form; a check that sees it the other way round; a program of another sum.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from puna.verify.language import ANSWER_TAGS
from puna.world.lexicon import WORDING
from puna.world.oracle import Answerer, Question


@dataclass(frozen=True)
class Problem:
    """A word problem as it is understood: two steps `(a, operation, b)`, where the second goes on from a result.

    `goes_on` says on which side of the second step the first result stands.
    """

    lang: str
    first: tuple[int, str, int]
    second: tuple[str, int]
    goes_on: str

    def chain(self, first: int | None = None, second: int | None = None, operation: str = "") -> tuple[str, int]:
        """The steps as text and the answer; other results or another second operation make them wrong."""
        a, sign, b = self.first
        middle = _worked(a, sign, b) if first is None else first
        then, c = operation or self.second[0], self.second[1]
        left, right = (middle, c) if self.goes_on == "left" else (c, middle)
        end = _worked(left, then, right) if second is None else second
        return f"{a}{sign}{b}={middle}. {left}{then}{right}={end}.", end

    def answer(self) -> int:
        return self.chain()[1]


def _worked(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b


def _pattern(told: str, ask: str) -> re.Pattern[str]:
    text = re.escape(f"{told} {ask}".strip())
    for name in "abc":
        text = text.replace(rf"\{{{name}\}}", rf"(?P<{name}>\d+)")
    for name in "nmo":
        text = text.replace(rf"\{{{name}\}}", r"[^.\d]+?")
    return re.compile(text)


_CHANGE = {lang: _pattern(words.change, words.ask_change) for lang, words in WORDING.items()}
_MORE = {lang: _pattern(words.more, words.ask_more) for lang, words in WORDING.items()}


def understood(text: str) -> Problem | None:
    """The problem in a text, None if there is none."""
    for lang in WORDING:
        if found := _CHANGE[lang].search(text):
            a, b, c = (int(found[name]) for name in "abc")
            return Problem(lang, (a, "+", b), ("-", c), "left")
        if found := _MORE[lang].search(text):
            a, b = int(found["a"]), int(found["b"])
            return Problem(lang, (a, "+", b), ("+", a), "right")
    return None


def solution(asked: Question, problem: Problem) -> str:
    """A solution, right or wrong in one of the known ways."""
    tag, rng = ANSWER_TAGS[problem.lang], asked.rng
    chain, answer = problem.chain()
    if asked.errs():
        kind, slip = rng.choice(("slip", "slip", "lucky", "operation", "guess", "form")), rng.choice((-2, -1, 1, 2))
        middle = _worked(*problem.first)
        if kind == "slip":
            chain, answer = problem.chain(first=middle + slip)
        elif kind == "lucky":
            chain, answer = problem.chain(first=middle + slip, second=answer)
        elif kind == "operation":
            chain, answer = problem.chain(operation="+" if problem.second[0] == "-" else "-")
        elif kind == "guess":
            chain, answer = f"{rng.randint(1, 9)}+{rng.randint(1, 9)}={rng.randint(2, 18)}.", answer
        else:
            tag = ""
    return f"{chain} {tag}: {answer}".replace(" : ", " ")


def holds(problem: Problem, text: str) -> bool:
    """Whether a solution takes the known steps, each with its known result, and comes to the answer under its tag."""
    chain, answer = problem.chain()
    equations = re.findall(r"\d+[-+]-?\d+=-?\d+", text)
    return equations == re.findall(r"\d+[-+]-?\d+=-?\d+", chain) and text.endswith(f"{ANSWER_TAGS[problem.lang]}: {answer}")


def maths(asked: Question) -> str:
    """solve, check, correct, plan, mend, answer."""
    problem = understood(asked.slots["problem"])
    if problem is None:
        return "?"
    if asked.name in ("solve", "correct"):
        opening = "" if asked.name == "solve" else "A step was wrong. "
        return opening + solution(asked, problem)
    if asked.name == "check":
        right = holds(problem, asked.slots["solution"])
        return f"I went through each step.\nVerdict: {'right' if right is not asked.errs() else 'wrong'}"
    if asked.name in ("plan", "mend"):
        return _program(asked, problem)
    printed = asked.slots["output"].split()[-1]
    return f"{ANSWER_TAGS[problem.lang]}: {int(printed) + 1 if asked.errs() and printed.lstrip('-').isdigit() else printed}"


def program(problem: Problem, operation: str = "", shown: str = "print(second)") -> str:
    """The program of the two steps; with another second operation, or another last line, a wrong one."""
    a, sign, b = problem.first
    then, c = operation or problem.second[0], problem.second[1]
    second = f"first {then} {c}" if problem.goes_on == "left" else f"{c} {then} first"
    return f"first = {a} {sign} {b}\nsecond = {second}\n{shown}".strip()


def _program(asked: Question, problem: Problem) -> str:
    """A plan and a program; in error one of another sum, one that fails, or one that prints nothing."""
    kind = asked.rng.choice(("sum", "name", "silent")) if asked.errs() else ""
    operation = ("+" if problem.second[0] == "-" else "-") if kind == "sum" else ""
    code = program(problem, operation, {"name": "print(secnd)", "silent": ""}.get(kind, "print(second)"))
    return f"{WORDING[problem.lang].so}:\n```python\n{code}\n```"


ANSWERERS: dict[str, Answerer] = {"maths": maths}
