"""Licence expressions as SPDX writes them: names, AND before OR, brackets (SPDX 3.0.1, annex B).

What a licence asks for is asked of names; an expression says which of its names count. `WITH` stays in the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

OPERATOR = re.compile(r"([()]|(?<![^\s()])(?:AND|OR|and|or)(?![^\s()]))")
UNREADABLE = "unknown"  # what counts where operators and brackets do not fit together


def counted(licence: str, weight: Callable[[list[str]], tuple]) -> list[str]:
    """The names that count: all of `A AND B`, and of `A OR B` those of the lighter side by `weight`.

    Brackets without an operator are part of a name.
    """
    tokens = [part.strip() for part in OPERATOR.split(licence) if part.strip()]
    if not any(token.upper() in ("AND", "OR") for token in tokens):
        return [" ".join(token for token in tokens if token not in "()")]
    names = _either(tokens, weight)
    return [UNREADABLE] if names is None or tokens else names


def _either(tokens: list[str], weight: Callable[[list[str]], tuple]) -> list[str] | None:
    """Take `A OR B ...` off the front of `tokens`; None where there is none."""
    sides = [_every(tokens, weight)]
    while tokens and tokens[0].upper() == "OR":
        del tokens[0]
        sides.append(_every(tokens, weight))
    found = [side for side in sides if side is not None]
    return min(found, key=weight) if len(found) == len(sides) else None


def _every(tokens: list[str], weight: Callable[[list[str]], tuple]) -> list[str] | None:
    names = _one(tokens, weight)
    while names is not None and tokens and tokens[0].upper() == "AND":
        del tokens[0]
        more = _one(tokens, weight)
        names = None if more is None else names + more
    return names


def _one(tokens: list[str], weight: Callable[[list[str]], tuple]) -> list[str] | None:
    if not tokens or tokens[0] == ")" or tokens[0].upper() in ("AND", "OR"):
        return None
    first = tokens.pop(0)
    if first != "(":
        return [first]
    names = _either(tokens, weight)
    return names if tokens and tokens.pop(0) == ")" else None
