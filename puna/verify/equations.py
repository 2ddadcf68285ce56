"""The arithmetic of a worked solution: whether each equation in it is true (paper 4.3.3, wrong intermediate steps).

A right answer can stand under wrong steps, and a model that learns from those learns to err. Equations between numbers are
worked out exactly, as fractions; where the right side is a rounded decimal, to its last digit. What has no equation says nothing.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from puna.verify.numbers import MAX_DIGITS

_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", **dict.fromkeys("$€£", None)})
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's notes to its calculator, which repeat what stands before them
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TIMES = re.compile(r"(?<=[\d)])\s*[xX]\s*(?=\.?\d|\()")
_NUMBER = r"(?:\(\s{0,3}){0,9}+-?(?:\d{1,40}+(?:\.\d{1,40}+)?+|\.\d{1,40}+)(?:\s{0,3}\)){0,9}+"
_SIDE = rf"{_NUMBER}(?:\s{{0,3}}[-+*/]\s{{0,3}}{_NUMBER}){{0,40}}+"  # bounded, so that rows of digits stay cheap
_EQUATION = re.compile(rf"(?<![\w.]){_SIDE}(?:\s{{0,3}}=\s{{0,3}}{_SIDE}){{1,40}}+(?![\w^%])")
_BEFORE = re.compile(r"(?:[-+*/^%=:]|\d\s|\b(?:x|of|by|per))\s*$", re.IGNORECASE)  # then the left side began earlier, with a word
MAX_CHARS = 2000  # of one side: a longer one is noise


def equations(text: str) -> list[tuple[str, str]]:
    """Both sides of every equation between numbers, in order; `a = b = c` is two."""
    plain = _TIMES.sub("*", _THOUSANDS.sub("", _CALCULATOR.sub("", text).translate(_SIGNS)))
    found: list[tuple[str, str]] = []
    for match in _EQUATION.finditer(plain):
        if not _BEFORE.search(plain[max(0, match.start() - 5) : match.start()]):
            found += pairwise(side.strip() for side in match[0].split("="))
    return found


def true_equations(text: str) -> bool:
    """Whether every equation in `text` is true; one that cannot be worked out counts as none."""
    return all(_equal(left, right) is not False for left, right in equations(text))


def operands(text: str) -> Iterator[tuple[set[Fraction], Fraction | None]]:
    """For every equation in order: the numbers on its left side, and what its right side comes to."""
    for left, right in equations(text):
        yield {Fraction(number) for number in re.findall(r"\d+(?:\.\d+)?", left) if len(number) < MAX_DIGITS}, value(right)


def value(expression: str) -> Fraction | None:
    """An expression of numbers and + - * / ( ), exactly; None for anything else. Never raises."""
    if len(expression) > MAX_CHARS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            return _value(ast.parse(expression, mode="eval").body, expression)
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
            return None


def _value(node: ast.expr, text: str) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(text[node.col_offset : node.end_col_offset])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _value(node.operand, text)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, text), _value(node.right, text)
        if isinstance(node.op, ast.Add | ast.Sub):
            return left + right if isinstance(node.op, ast.Add) else left - right
        if isinstance(node.op, ast.Mult | ast.Div):
            return left * right if isinstance(node.op, ast.Mult) else left / right
    raise ValueError("no arithmetic")


def _equal(left: str, right: str) -> bool | None:
    a, b = value(left), value(right)
    if a is None or b is None:
        return None
    decimals = re.fullmatch(r"[-+]?\d*\.(\d+)", right)
    return abs(a - b) <= (Fraction(1, 2 * 10 ** len(decimals[1])) if decimals else 0)
