"""Numbers in free text, read and compared exactly (paper 4.3.3; GSM8K's "#### 72" and plain last-number answers)."""

from __future__ import annotations

import math
import re
import unicodedata
from fractions import Fraction

MAX_DIGITS = 400  # longer digit strings are noise from a looping model, and slow to convert
_NUMBER = re.compile(
    r"(?<![\w.])(?:(?P<sign>[-+]?)[$€£]?(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
    r"(?P<decimals>\.[0-9]+)?(?:\s?/\s?(?P<divisor>[0-9]+))?|(?P<bare>\.[0-9]+))"
)
_OPERATOR = re.compile(r"(?<=[0-9A-Za-z)\]])[-+=*×]")
_MARK = re.compile(r"####\s*(.*)")


def numbers(text: str) -> list[Fraction]:
    """Every number in `text`, in order: signs, thousands commas, decimals, a/b, digits of any script, currency in front.

    A minus right after a digit, letter or bracket is a subtraction, no sign; a division by zero is skipped.
    """
    found = []
    for match in _NUMBER.finditer(_plain(text)):
        value = _value(match)
        if value is not None:
            found.append(value)
    return found


def final_number(text: str) -> Fraction | None:
    """The number after the last `####`, else the last number of the text, else None."""
    marks = _MARK.findall(text)
    if marks:
        after = numbers(marks[-1])
        return after[0] if after else None
    found = numbers(text)
    return found[-1] if found else None


def to_fraction(value: object) -> Fraction | None:
    """A reference as an exact number: int, float (by its shortest decimal), or text such as "1,200", "3/4", "#### 72"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        return final_number(value)
    return Fraction(repr(value)) if math.isfinite(value) else None


def _plain(text: str) -> str:
    """Digits of any script as ASCII, typographic minus signs as '-', operators right after an operand as blanks."""
    return _OPERATOR.sub(" ", "".join(_ascii(c) for c in text))


def _ascii(char: str) -> str:
    if char in "−–‒":
        return "-"
    return str(unicodedata.decimal(char)) if char.isdecimal() else char


def _value(match: re.Match[str]) -> Fraction | None:
    text = match.group()
    if len(text) > MAX_DIGITS:
        return None
    if match.group("bare"):
        return Fraction("0" + match.group("bare"))
    value = Fraction(match.group("whole").replace(",", "") + (match.group("decimals") or ""))
    if match.group("divisor"):
        if int(match.group("divisor")) == 0:
            return None
        value /= int(match.group("divisor"))
    return -value if match.group("sign") == "-" else value
