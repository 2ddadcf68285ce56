"""A calculator over a small part of Python's expressions, exact wherever the numbers are (the paper's Wolfram Alpha, 4.3.5).

The text is parsed and walked, never evaluated: numbers, + - * / // % **, brackets and a dozen functions. Decimals are taken as
the fractions they stand for, so 0.1 + 0.2 is 0.3. Sizes are bounded before anything large is computed.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction

from puna.post.tools.failure import ToolFailed

MAX_CHARS = 500
MAX_BITS = 4096  # of any number on the way
MAX_DECIMALS = 100
DIGITS = 12  # significant digits of a result that has no short exact form

Number = Fraction | float


def calculate(expression: str) -> str:
    """The value of an arithmetic expression as text: exact if it is a short decimal, else with 12 significant digits.

    Raises ToolFailed for anything but arithmetic, division by zero, and numbers too large.
    """
    text = expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")
    if not text or len(text) > MAX_CHARS:
        raise ToolFailed(f"an expression has 1 to {MAX_CHARS} characters")
    try:
        return shown(_value(ast.parse(text, mode="eval").body))
    except ZeroDivisionError:
        raise ToolFailed("division by zero") from None
    except (SyntaxError, ValueError, TypeError, OverflowError, RecursionError, MemoryError):
        raise ToolFailed(f"not an arithmetic expression: {text[:80]}") from None


def shown(value: Number) -> str:
    """A number as people write it: 3, 0.25, 0.333333333333."""
    if isinstance(value, Fraction):
        if value.denominator == 1:
            return str(value.numerator)
        decimals = _decimals(value.denominator)
        if decimals is not None:
            digits = str(abs(value.numerator) * 10**decimals // value.denominator).rjust(decimals + 1, "0")
            return ("-" if value < 0 else "") + digits[:-decimals] + "." + digits[-decimals:]
    return f"{float(value):.{DIGITS}g}"


def _decimals(denominator: int) -> int | None:
    """How many decimals write a fraction with this denominator exactly, None if more than DIGITS or endlessly many."""
    return next((n for n in range(1, DIGITS + 1) if 10**n % denominator == 0), None)


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=bool()):
            raise ValueError
        case ast.Constant(value=int() | float()):
            return _bounded(Fraction(str(node.value)))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bounded(_power(_value(left), _value(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_value(left), _value(right)))
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*map(_value, args)))
    raise ValueError


def _bounded(value: Number) -> Number:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OverflowError
        return value
    if isinstance(value, int):
        value = Fraction(value)
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ToolFailed("a number on the way is too large")
    return value


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent.numerator)
        if bits > 2 * MAX_BITS:
            raise ToolFailed("a number on the way is too large")
        return base**exponent.numerator
    found = float(base) ** float(exponent)
    if isinstance(found, complex):
        raise ValueError
    return found


def _root(value: Number) -> Number:
    if isinstance(value, Fraction) and value >= 0:
        top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if top * top == value.numerator and bottom * bottom == value.denominator:
            return Fraction(top, bottom)
    return math.sqrt(value)


def _rounded(value: Number, digits: Number = Fraction(0)) -> Number:
    if not -MAX_DECIMALS <= digits <= MAX_DECIMALS:
        raise ToolFailed(f"rounding is to at most {MAX_DECIMALS} digits")
    return Fraction(round(Fraction(value), int(digits)))


def _factorial(value: Number) -> Number:
    if value > 400:
        raise ToolFailed("a number on the way is too large")
    return Fraction(math.factorial(int(value) if value == int(value) else -1))


_OPERATORS: dict[type, Callable[[Number, Number], Number]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e}
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "sqrt": _root, "abs": abs, "round": _rounded, "min": min, "max": max, "floor": math.floor, "ceil": math.ceil,
    "exp": math.exp, "log": math.log, "log10": math.log10, "log2": math.log2, "sin": math.sin, "cos": math.cos, "tan": math.tan,
    "factorial": _factorial,
}  # fmt: skip
