"""Small programs of the mini-world: functions over a list of numbers whose truth, mistakes and translations are known.

A program folds a list: it looks at some items and puts each into a result. Conditions and updates are written so that Python,
JavaScript, Java and C read them alike, which makes some 1,300 programs out of a few lines. Each has known wrong versions: those
that a tired programmer writes. What a checker of code lets through can so be counted (paper 4.3.1).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

BUGS = ("bound", "start", "skips", "constant", "name", "syntax")  # a wrong comparison, first value, item, number; no such name
QUIET_BUGS = BUGS[:4]  # these run, and some answers are wrong
MOST = 20  # largest number in a list
LANGUAGES = ("javascript", "java", "c")


@dataclass(frozen=True)
class Condition:
    """Which items count: in words, as an expression in `x`, and wrongly."""

    word: str
    words: str
    code: str
    wrong: str


@dataclass(frozen=True)
class Update:
    """What happens to each: in words, as an expression in `acc` and `x`, its first value, and wrongly."""

    word: str
    words: str
    code: str
    start: int
    wrong: str


CONDITIONS = {
    "multiples": Condition("multiples_of_{k}", "that is divisible by {k}", "x % {k} == 0", "x % {k} == 1"),
    "above": Condition("above_{k}", "that is greater than {k}", "x > {k}", "x >= {k}"),
    "below": Condition("below_{k}", "that is less than {k}", "x < {k}", "x <= {k}"),
    "not_multiples": Condition("not_multiples_of_{k}", "that is not divisible by {k}", "x % {k} != 0", "x % {k} == 0"),
    "ending": Condition("with_remainder_1_by_{k}", "that leaves the remainder 1 when divided by {k}", "x % {k} == 1",
                        "x % {k} == 0"),
    "large_even": Condition("even_above_{k}", "that is even and greater than {k}", "x % 2 == 0 && x > {k}", "x % 2 == 0"),
}  # fmt: skip
UPDATES = {
    "sum": Update("sum", "adds the item to a result that begins with 0", "acc + x", 0, "acc + 1"),
    "count": Update("count", "adds 1 to a result that begins with 0", "acc + 1", 0, "acc + x"),
    "squares": Update("sum_of_squares", "adds the square of the item to a result that begins with 0", "acc + x * x", 0,
                      "acc + 2 * x"),
    "shifted": Update("sum_of_{j}_more", "adds the item plus {j} to a result that begins with 0", "acc + x + {j}", 0, "acc + x"),
    "scaled": Update("sum_of_{j}_times", "adds {j} times the item to a result that begins with 0", "acc + {j} * x", 0,
                     "acc + x"),
    "digits": Update("chain", "multiplies the result, which begins with 1, by 3 and adds the item, and keeps the remainder of a "
                     "division by 997", "(acc * 3 + x) % 997", 1, "(acc * 2 + x) % 997"),
}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """One function: the name says all of it. `bug` is the mistake it makes, empty for the right one; `alias` another name."""

    condition: str
    update: str
    k: int
    j: int
    bug: str = ""
    alias: str = ""

    @property
    def name(self) -> str:
        return self.alias or f"{UPDATES[self.update].word}_of_{CONDITIONS[self.condition].word}".format(k=self.k, j=self.j)

    @property
    def problem(self) -> str:
        """What it does, in words."""
        does = UPDATES[self.update].words.format(j=self.j)
        which = CONDITIONS[self.condition].words.format(k=self.k)
        return f"The function takes a list of whole numbers. For every item {which}, it {does}. It returns the result."

    def _parts(self) -> tuple[str, str, int]:
        condition, update = CONDITIONS[self.condition], UPDATES[self.update]
        test = condition.wrong if self.bug == "bound" else condition.code
        change = update.wrong if self.bug == "constant" else update.code
        return test.format(k=self.k), change.format(j=self.j), update.start + (self.bug == "start")

    def python(self) -> str:
        """The function in Python."""
        test, change, start = self._parts()
        test = test.replace("&&", "and")
        items = "xs[1:]" if self.bug == "skips" else "xs"
        result = "total" if self.bug == "name" else "acc"
        colon = "" if self.bug == "syntax" else ":"
        loop = f"    for x in {items}:\n        if {test}{colon}\n            acc = {change}\n"
        body = f"    acc = {start}\n{loop}    return {result}\n"
        return f"def {self.name}(xs):\n{body}"

    def whole(self, language: str) -> str:
        """A whole program that reads numbers from standard input and prints the result."""
        if language == "python":
            return f"import sys\n\n\n{self.python()}\n\nprint({self.name}([int(word) for word in sys.stdin.read().split()]))\n"
        test, change, start = self._parts()
        first = 1 if self.bug == "skips" else 0
        result = "total" if self.bug == "name" else "acc"
        fold = f"if ({test}{'' if self.bug == 'syntax' else ')'} acc = {change};"
        return _SHAPES[language].format(start=start, first=first, fold=fold, result=result)

    def value(self, xs: Sequence[int]) -> int:
        """What the function returns; a bug that does not run has no value."""
        return _function(self)(list(xs))

    def wrong(self, bug: str) -> Program:
        """The version with a bug."""
        return replace(self, bug=bug)


_SHAPES = {
    "javascript": "const words = require('fs').readFileSync(0, 'utf8').split(/\\s+/).filter(w => w.length);\n"
    "let acc = {start};\nfor (const word of words.slice({first})) {{\n  const x = Number(word);\n  {fold}\n}}\n"
    "console.log(String({result}));\n",
    "java": "import java.util.Scanner;\n\npublic class Main {{\n  public static void main(String[] args) {{\n"
    "    Scanner in = new Scanner(System.in);\n    long acc = {start};\n    int seen = 0;\n    while (in.hasNextLong()) {{\n"
    "      long x = in.nextLong();\n      if (seen++ < {first}) continue;\n      {fold}\n    }}\n"
    "    System.out.println({result});\n  }}\n}}\n",
    "c": "#include <stdio.h>\n\nint main(void) {{\n  long acc = {start}, x;\n  int seen = 0;\n"
    "  while (scanf(\"%ld\", &x) == 1) {{\n    if (seen++ < {first}) continue;\n    {fold}\n  }}\n"
    "  printf(\"%ld\\n\", {result});\n  return 0;\n}}\n",
}  # fmt: skip

PROGRAMS = {
    program.name: program
    for condition in CONDITIONS
    for update in UPDATES
    for k in range(2, 10)
    for j in (range(2, 10) if update in ("shifted", "scaled") else (2,))
    for program in [Program(condition, update, k, j)]
}


@lru_cache(maxsize=4096)
def _function(program: Program) -> Callable[[list[int]], int]:
    place: dict[str, Any] = {}
    exec(program.python(), place)
    return place[program.name]


_BY_PROBLEM = {program.problem: program for program in PROGRAMS.values()}
_PROBLEM = re.compile(r"The function takes .*? It returns the result\.")


def program(rng: random.Random) -> Program:
    """Any of the programs."""
    return PROGRAMS[rng.choice(list(PROGRAMS))]


def numbers(rng: random.Random) -> list[int]:
    """A list for a program."""
    return [rng.randint(0, MOST) for _ in range(rng.randint(3, 7))]


def lists(rng: random.Random, about: Program, count: int) -> list[list[int]]:
    """Lists to test a program on: the empty one, one at its bounds, and drawn ones."""
    return [[], [about.k, about.k + 1, about.k - 1], *(numbers(rng) for _ in range(count - 2))]


def idle_lists(count: int) -> list[list[int]]:
    """Lists on which few bugs show."""
    return [[0] * n for n in range(count)]


def described(words: str) -> Program | None:
    """The program whose problem stands in a text."""
    return next((_BY_PROBLEM[sentence] for sentence in _PROBLEM.findall(words) if sentence in _BY_PROBLEM), None)
