"""Questions about a table whose answers a few lines compute: the data analysis of section 4.3.5, with a reference beside it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from puna.post.tools.calculator import shown
from puna.verify.numbers import to_fraction

MAX_ROWS = 60  # a model has to read them


@dataclass(frozen=True)
class TableQuestion:
    """What is asked of a table: the name of a template with its slots, the answer, and whether it must be worked out."""

    template: str
    slots: dict[str, str]
    answer: str
    worked: bool


def ask_table(rows: Sequence[Sequence[str]], rng: random.Random, *, worked: bool) -> TableQuestion | None:
    """A question about a table (header first): a total, mean or difference, or one cell. None for a table that has no such.

    A column counts as numbers if every cell is one; a row is named by its cell in the first column, which must be unlike others.
    """
    header, body = (list(rows[0]), [list(row) for row in rows[1:]]) if rows else ([], [])
    even = all(len(row) == len(header) for row in body) and len(set(header)) == len(header)
    if not even or not 2 <= len(body) <= MAX_ROWS or len({row[0] for row in body}) < len(body):
        return None
    columns = {name: [to_fraction(row[i]) for row in body] for i, name in enumerate(header) if i}
    numeric = {name: values for name, values in columns.items() if name and all(value is not None for value in values)}
    if not numeric:
        return None
    column = rng.choice(sorted(numeric))
    values = [value for value in numeric[column] if value is not None]
    first, second = rng.sample(range(len(body)), 2)
    named = {"column": column, "row": body[first][0], "other": body[second][0]}
    if not worked:
        return TableQuestion("ask_cell", named, shown(values[first]), False)
    form = rng.choice(("ask_total", "ask_mean", "ask_difference"))
    found = {"ask_total": sum(values, Fraction()), "ask_mean": sum(values, Fraction()) / len(values),
             "ask_difference": abs(values[first] - values[second])}[form]  # fmt: skip
    return TableQuestion(form, named, shown(found), True)
