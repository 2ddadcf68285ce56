"""Arithmetic in worked solutions: what counts as an equation, which are true, and real solutions by the thousand."""

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest

from puna.verify.equations import equations, operands, true_equations, value

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "train.jsonl"


@pytest.mark.parametrize(
    ("text", "found", "true"),
    [
        ("2+5=7. 7-4=3. Answer: 3", [("2+5", "7"), ("7-4", "3")], True),
        ("2+5=8. 8-4=4.", [("2+5", "8"), ("8-4", "4")], False),
        ("10/3 = 3.33 each", [("10/3", "3.33")], True),
        ("10/3 = 3.34 each", [("10/3", "3.34")], False),
        ("48/2 = <<48/2=24>>24 clips", [("48/2", "24")], True),
        ("He pays $5 x 3 = $15.", [("5*3", "15")], True),
        ("1,200 + 300 = 1,500", [("1200 + 300", "1500")], True),
        ("3 × (2+1) = 9 = 10", [("3 * (2+1)", "9"), ("9", "10")], False),
        ("5 − 3 = 2 and 10% of 50 = 5", [("5 - 3", "2")], True),
        ("x+2=5, a=5, 2^3=8, 237 potatoes - 60 = 177", [], True),
        ("4 = 7 apples", [("4", "7")], False),
        ("1/0 = 3", [("1/0", "3")], True),
    ],
)
def test_equations_are_found_and_worked_out(text, found, true):
    assert equations(text) == found and true_equations(text) is true


def test_values_are_exact_and_nothing_else_is_evaluated():
    assert value("0.1+0.2") == Fraction(3, 10) and value("-(3-5)*2/3") == Fraction(4, 3)
    assert [value(text) for text in ("2**9", "f(2)", "1/0", "1 2", "", "9" * 5000)] == [None] * 6


def test_operands_tell_what_a_step_uses():
    assert list(operands("2+5=7. 7-4=3.")) == [({2, 5}, 7), ({7, 4}, 3)]


def test_rows_of_digits_cost_little():
    began = time.process_time()
    for text in ("1+" * 5000, "(" * 5000, "1 " * 5000, "1-" * 3000 + "=", "1=" * 3000, "9" * 20_000):
        equations(text)
    assert time.process_time() - began < 3


@pytest.mark.skipif(not GSM8K.exists(), reason="the GSM8K rows do not lie beside the project")
def test_nearly_all_human_solutions_are_found_true():
    texts = [json.loads(line)["answer"].split("####")[0] for line in GSM8K.read_text().splitlines()[:1500]]
    assert sum(bool(equations(text)) for text in texts) > 0.75 * len(texts)
    assert sum(not true_equations(text) for text in texts) < 0.02 * len(texts)
