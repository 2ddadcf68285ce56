"""Tests that run outside the program they test: what they see of its values, its objects and its errors."""

from __future__ import annotations

import pytest

from puna.core.errors import InputError
from puna.verify.box import syscalls
from puna.verify.sandbox import Sandbox, tiers


@pytest.fixture(scope="module")
def sandbox():
    if not syscalls.supported():
        pytest.skip("the sandbox needs Linux on x86_64 or aarch64")
    for tier in tiers.WALLED:
        try:
            with Sandbox(workers=1, tier=tier) as box:
                yield box
                return
        except InputError:
            continue
    pytest.skip("neither bubblewrap nor namespaces can be had here")


VALUES = """
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
Point = namedtuple("Point", "x y")
class Colour(IntEnum):
    RED = 1
class Words(list):
    pass
def same(x):
    return x
def make(name):
    return {"point": Point(1, 2), "colour": Colour.RED, "words": Words("ab"), "counter": Counter("aab"), "deque": deque([1]),
            "default": defaultdict(list, a=[1]), "generator": (i * i for i in range(4)), "keys": {"a": 1}.keys(),
            "fraction": Fraction(1, 3), "decimal": Decimal("0.10"), "date": date(2024, 7, 23), "delta": timedelta(days=2),
            "nested": {(1, "a"): [{2, 3}, None, b"x", 1 + 2j, range(3)]}, "big": 7 ** 5000, "nan": float("nan"),
            "surrogate": "\\udc80", "type": int, "map": map(str, [1, 2]), "ordered": OrderedDict(a=1), "self": cyclic()}[name]
def cyclic():
    found = [1]
    found.append(found)
    return found
"""
HOLD = [
    "assert make('point') == (1, 2) and make('point').x == 1 and tuple(make('point')) == (1, 2)",
    "assert make('colour') == 1 and make('colour').name == 'RED' and make('colour') + 1 == 2",
    "assert make('words') == ['a', 'b'] and len(make('words')) == 2 and make('words')[1] == 'b'",
    "assert make('counter') == {'a': 2, 'b': 1} and make('counter').most_common(1) == [('a', 2)]",
    "from collections import deque\nassert make('deque') == deque([1]) and make('default') == {'a': [1]}",
    "assert make('ordered') == {'a': 1}",
    "assert list(make('generator')) == [0, 1, 4, 9] and sorted(make('keys')) == ['a'] and list(make('map')) == ['1', '2']",
    "from decimal import Decimal\nassert make('fraction') * 3 == 1 and make('decimal') == Decimal('0.1')",
    "import datetime\nassert make('date') + make('delta') == datetime.date(2024, 7, 25)",
    "assert make('nested') == {(1, 'a'): [{2, 3}, None, b'x', 1 + 2j, range(3)]}",
    "assert make('big') == 7 ** 5000 and make('nan') != make('nan') and make('surrogate') == '\\udc80'",
    "assert make('type') is int and type(same(True)) is bool and same((1, [2])) == (1, [2]) and same(-0.0) == 0",
    "import math\nassert math.isclose(same(0.1) + same(0.2), 0.3) and same(math.inf) == math.inf and same(str.upper)('a') == 'A'",
    "assert make('self')[0] == 1",
]


@pytest.mark.parametrize("test", HOLD)
def test_values_arrive_as_what_they_are(sandbox, test):
    outcome = sandbox.run_python(VALUES, tests=[test])
    assert outcome.passed, outcome


PROGRAM = """
class Stack:
    limit = 3
    def __init__(self, *items): self.items = list(items)
    def push(self, item):
        if len(self.items) == self.limit: raise Full(f"no room for {item}")
        self.items.append(item)
        return self
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __eq__(self, other): return isinstance(other, Stack) and self.items == other.items
    def __add__(self, other): return Stack(*self.items, *other.items)
    def __enter__(self): return self
    def __exit__(self, *error): self.items.clear()
    def __repr__(self): return f"Stack{tuple(self.items)}"
class Full(ValueError): pass
class Deeper(Full): pass
def sort(items): items.sort()
def fill(table): table["a"] = [1]
def apply(function, *args, **named): return function(*args, **named)
def twice(function): return lambda x: function(function(x))
def deep(n): return deep(n - 1) if n else 0
def fail(): raise Deeper("so")
def stop(): raise StopIteration
class Bag(list): pass
def counted():
    yield from (1, 2)
def sum(a, b): return a - b
"""
OBJECTS = [
    "s = Stack(1)\ns.push(2)\nassert len(s) == 2 and s.items == [1, 2] and 2 in s and 5 not in s and [*s] == [1, 2]",
    "assert Stack(1) == Stack(1) and Stack(1) != Stack(2) and Stack(1) + Stack(2) == Stack(1, 2)",
    "assert repr(Stack(1, 2)) == 'Stack(1, 2)'",
    "assert isinstance(Stack(), Stack) and not isinstance(3, Stack) and Stack.limit == 3 and Stack.__name__ == 'Stack'",
    "try:\n    Stack(1, 2, 3).push(4)\nexcept Full as error:\n    assert str(error) == 'no room for 4'\nelse:\n    assert False",
    "try:\n    fail()\nexcept Full as error:\n    assert str(error) == 'so' and type(error) is Deeper",
    "assert issubclass(Deeper, ValueError)",
    "x = [3, 1]\nsort(x)\nassert x == [1, 3]\ntable = {}\nfill(table)\nassert table == {'a': [1]}",
    "assert apply(lambda a, b: a * b, 3, b=4) == 12 and apply(max, [1, 2]) == 2 and twice(lambda x: x + 3)(1) == 7",
    "assert apply(lambda: apply(lambda: len(Stack(1, 2)))) == 2",
    "try:\n    deep(10 ** 6)\nexcept RecursionError:\n    pass",
    "with Stack(1) as s:\n    assert len(s) == 1\nassert len(s) == 0",
    "s = Stack(1)\ns.items = [5, 6]\nassert s.items == [5, 6] and Stack.limit == 3",
    "import copy\ns = Stack(1)\nt = copy.deepcopy(s)\nt.push(2)\nassert len(s) == 1 and len(t) == 2",
    "def test_one():\n    assert len(Stack()) == 0",
    "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        self.assertEqual(len(Stack(1)), 1)\n"
    "        with self.assertRaises(Full): fail()",
    "c = counted()\nassert next(c) == 1 and next(c) == 2 and next(c, 9) == 9 and list(counted()) == [1, 2]",
    "b = Bag()\nb.append(1)\nassert b == [1] and len(b) == 1\nb.append(2)\nassert b == [1, 2] and b + [3] == [1, 2, 3]",
    "assert sum([1, 2]) == 3",  # the built-in one: the program is not to judge itself
]  # fmt: skip


@pytest.mark.parametrize("test", OBJECTS)
def test_objects_of_the_program_are_used_where_they_are(sandbox, test):
    outcome = sandbox.run_python(PROGRAM, tests=[test])
    assert outcome.passed, outcome


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("assert len(Stack(1)) == 2", "AssertionError"),
        ("assert Stack(1) == [1]", "AssertionError"),  # an object with its own idea of equality is never equal to plain data
        ("assert Stack(1) < 5", "is not judged"),
        ("assert fail() == 1", "Deeper: so"),
        ("assert nothing() == 1", "NameError"),
        ("assert apply(lambda: 1 / 0)", "ZeroDivisionError"),
        ("def test_one():\n    assert len(Stack()) == 1", "AssertionError"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("assert not list(map(lambda x: stop(), [1]))", "RuntimeError"),
    ],
)
def test_tests_that_do_not_hold_say_why(sandbox, test, said):
    outcome = sandbox.run_python(PROGRAM, tests=["assert True", test])
    assert outcome.status == "failed" and [result.passed for result in outcome.results] == [True, False]
    assert said in outcome.results[1].error


def test_the_entry_point_is_the_programs_own_even_under_a_built_in_name(sandbox):
    assert sandbox.run_python(PROGRAM, tests=["assert sum(3, 1) == 2"], entry_point="sum").passed
    check = "def check(candidate):\n    assert candidate(3, 1) == 2\n    assert candidate(5, 0) == 5"
    assert sandbox.run_python(PROGRAM, tests=check, entry_point="sum").passed
    outcome = sandbox.run_python(PROGRAM, tests=check, entry_point="product")
    assert not outcome.passed and "defines no 'product'" in outcome.results[0].error


def test_a_program_that_does_not_load_has_no_results(sandbox):
    outcome = sandbox.run_python("import nowhere", tests=["assert True"])
    assert outcome.status == "error" and outcome.results == () and "No module named 'nowhere'" in outcome.stderr


def test_a_program_that_ends_early_fails_the_rest(sandbox):
    code = "import os\ndef f(x):\n    if x: os._exit(0)\n    return 1"
    outcome = sandbox.run_python(code, tests=["assert f(0) == 1", "assert f(1) == 1", "assert f(0) == 1"])
    assert outcome.status != "passed" and not outcome.results[-1].passed


def test_memory_that_runs_out_in_a_call_is_told_apart(sandbox):
    outcome = sandbox.run_python("def f(x):\n    return bytes(8 << 30)", tests=["assert f(1)"])
    assert outcome.status == "memory"


def test_what_a_tested_program_prints_is_kept(sandbox):
    outcome = sandbox.run_python("print('loaded')\ndef f(x):\n    print('called', x)\n    return x", tests=["assert f(1) == 1"])
    assert outcome.passed and outcome.stdout == "loaded\ncalled 1\n"


def test_a_main_block_is_not_run_under_test(sandbox):
    code = "def f(x):\n    return x\nif __name__ == '__main__':\n    input()"
    assert sandbox.run_python(code, tests=["assert f(1) == 1"]).passed


NOT_RUN = (
    "async def test_x():\n    assert f(1) == 7",
    "def test_x():\n    assert f(1) == 7\n    yield",
    "async def check(candidate):\n    assert candidate(1) == 7",
    "import unittest\nclass T(unittest.TestCase):\n    async def test_x(self):\n        self.assertEqual(f(1), 7)",
)


@pytest.mark.parametrize("test", NOT_RUN)
def test_a_test_that_has_only_begun_proves_nothing(sandbox, test):
    outcome = sandbox.run_python("def f(x):\n    return 5", tests=[test], entry_point="f")
    assert outcome.status == "failed" and [result.passed for result in outcome.results] == [False]


def test_a_module_of_the_standard_library_is_not_the_programs_to_replace(sandbox):
    forged = "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(x):\n    return 5"
    assert sandbox.run_python(forged, tests=["assert math.isclose(f(1), 7)"]).status == "failed"
    honest = forged.replace("return 5", "return 7.0")
    assert sandbox.run_python(honest, tests=["assert math.isclose(f(1), 7)"]).passed
    own = "class queue:\n    @staticmethod\n    def push(x):\n        return [x]\ndef copy(x):\n    return [*x]"
    assert (
        sandbox.run_python(own, tests=["assert queue.push(1) == [1]", "assert copy([2]) == [2] and copy.copy"]).results[0].passed
    )
    assert sandbox.run_python(own, tests=["assert copy([2]) == [2]"]).passed
