"""`keep`: one expression over named predicates, such as `topic and (reward or judge) and unique`.

A predicate may have nothing to say of a row: no verifier for its prompt, an answer of the judge that could not be read. Such an
operand is left out, so that the others decide; a row of which nothing is known is kept. The expression is read by Python's own
parser and may hold names, `and`, `or`, `not` and brackets, nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

import numpy as np

from puna.core.errors import InputError
from puna.core.modules import did_you_mean

Truth = tuple[np.ndarray, np.ndarray]  # bool [N] each: whether it holds, whether that is known
_ALLOWED = (ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Name, ast.Load)


def names_in(expression: str) -> list[str]:
    """Names of the predicates in an expression, in order; ValueError for one that cannot be read."""
    found = [node for node in ast.walk(_parse(expression)) if isinstance(node, ast.Name)]
    return list(dict.fromkeys(node.id for node in sorted(found, key=lambda node: (node.lineno, node.col_offset))))


def failures(expression: str, predicates: Mapping[str, Truth], rows: int) -> dict[str, np.ndarray]:
    """For each operand of the outermost `and`, as it is written, which rows it leaves out; a kept row is left out by none.

    Args:
        predicates: by name, (holds, known) of every row.

    Returns bool [rows] by operand, in order. Raises InputError for a name that is no predicate.
    """
    for name in names_in(expression):
        if name not in predicates:
            raise InputError(f"no predicate is called '{name}'", where=f"keep: {expression}", fix=did_you_mean(name, predicates))
    body = _parse(expression).body
    parts = body.values if isinstance(body, ast.BoolOp) and isinstance(body.op, ast.And) else [body]
    found = {}
    for part in parts:
        holds, known = _value(part, predicates, rows)
        found[ast.unparse(part)] = known & ~holds
    return found


def _parse(expression: str) -> ast.Expression:
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"`keep` cannot be read: {expression!r}; write names with and, or, not and brackets") from None
    wrong = next((node for node in ast.walk(tree) if not isinstance(node, _ALLOWED)), None)
    if wrong is not None:
        raise ValueError(f"`keep` may hold names, and, or, not and brackets; it has {type(wrong).__name__} in {expression!r}")
    return tree


def _value(node: ast.expr, predicates: Mapping[str, Truth], rows: int) -> Truth:
    if isinstance(node, ast.Name):
        return predicates[node.id]
    if isinstance(node, ast.UnaryOp):
        holds, known = _value(node.operand, predicates, rows)
        return ~holds, known
    assert isinstance(node, ast.BoolOp)
    every = isinstance(node.op, ast.And)
    holds, known = np.full(rows, every), np.zeros(rows, dtype=bool)
    for part in node.values:
        other, told = _value(part, predicates, rows)
        holds = holds & (other | ~told) if every else holds | (other & told)
        known = known | told
    return holds, known
