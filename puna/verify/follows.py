"""Whether an answer in words follows from what a tool gave back (paper 4.3.5): it says every value of the output, and no number
that stands neither there nor in the question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from puna.verify.constraints import fold
from puna.verify.numbers import numbers, to_fraction

YES, NO = frozenset({"yes", "true"}), frozenset({"no", "not", "false"})
MAX_VALUES = 12  # of an output whose values can all be told


def follows(output: str, answer: str, question: str = "") -> bool:
    """Whether `answer` tells the values of `output` (JSON, or plain text taken as one value) and invents no number.

    Of an output with more than MAX_VALUES values only the second is asked.
    """
    values = list(_values(_loaded(output)))
    said = len(values) > MAX_VALUES or all(_says(answer, value) for value in values)
    return said and bool(answer.strip()) and invented_numbers(answer, output, question) == 0


def invented_numbers(answer: str, *sources: str) -> int:
    """How many numbers of an answer stand in none of the sources."""
    known = {number for source in sources for number in numbers(source)}
    return sum(number not in known for number in numbers(answer))


def stands_in(value: Any, text: str) -> bool:
    """Whether a JSON value's parts all stand in a text: numbers as numbers, texts as texts, truth values and null always."""
    found = set(numbers(text))
    for part in _values(value):
        if isinstance(part, str) and fold(part) not in fold(text):
            return False
        if isinstance(part, int | float) and not isinstance(part, bool) and to_fraction(part) not in found:
            return False
    return True


def _loaded(output: str) -> Any:
    try:
        return json.loads(output)
    except (ValueError, RecursionError):
        return output


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for part in value:
            yield from _values(part)
    elif value is not None:
        yield value


def _says(answer: str, value: Any) -> bool:
    if isinstance(value, bool):
        words = set(re.findall(r"\w+", answer.casefold()))
        return bool(words & (YES if value else NO)) and not words & (NO if value else YES)
    if isinstance(value, int | float):
        return to_fraction(value) in numbers(answer)
    return fold(value) in fold(answer)
