"""Small Python projects of the mini-world: one file that many others import, and programs that print what they make of it.

The functions of the shared file are drawn from a table, so what each should return is known for every input.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from puna.world.lexicon import NAMES, NOUNS

PROJECT_LICENCE = "CC0-1.0"

# name: (parameters, what it does, body, arguments of three calls)
FUNCTIONS = {
    "total": ("values: list", "Sum of the values.", "return sum(values)", ("[1, 2, 3]", "[10]", "[4, 4]")),
    "largest": ("values: list", "Largest value.", "return max(values)", ("[3, 9, 2]", "[5]", "[7, 1]")),
    "spread": ("values: list", "Largest less smallest value.", "return max(values) - min(values)",
               ("[3, 9, 2]", "[5, 6]", "[8, 1]")),
    "doubled": ("number: int", "Twice a number.", "return 2 * number", ("3", "0", "11")),
    "backwards": ("text: str", "The text from back to front.", "return text[::-1]", ("'house'", "'ab'", "'letter'")),
    "initials": ("text: str", "First letter of each word.", "return ''.join(word[0] for word in text.split())",
                 ("'red old house'", "'one'", "'a b'")),
    "longest": ("words: list", "The longest word, the first of equals.", "return max(words, key=len)",
                ("['pen', 'house']", "['a', 'bb', 'cc']", "['bird']")),
    "evens": ("values: list", "The even values, in order.", "return [value for value in values if value % 2 == 0]",
              ("[1, 2, 4]", "[3]", "[6, 6]")),
}  # fmt: skip
# the same again, for whoever has to know what is right
VALUES: dict[str, Callable[[Any], Any]] = {
    "total": sum, "largest": max, "spread": lambda values: max(values) - min(values), "doubled": lambda number: 2 * number,
    "backwards": lambda text: text[::-1], "initials": lambda text: "".join(word[0] for word in text.split()),
    "longest": lambda words: max(words, key=len), "evens": lambda values: [value for value in values if value % 2 == 0],
}  # fmt: skip
WRONG = {  # bodies that are wrong, the first for most inputs, the second for some
    "total": ("return len(values)", "return sum(set(values))"),
    "largest": ("return min(values)", "return values[-1]"),
    "spread": ("return max(values)", "return values[0] - values[-1]"),
    "doubled": ("return number + 1", "return number**2 if number == 2 else number + 3"),
    "backwards": ("return text", "return text[:0:-1]"),
    "initials": ("return text[0]", "return ''.join(word[:2] for word in text.split())"),
    "longest": ("return min(words, key=len)", "return words[-1]"),
    "evens": (
        "return [value for value in values if value % 2]",
        "return sorted(set(value for value in values if value % 2 == 0))",
    ),
}
SIGNATURES = 4  # functions of the shared file


def draw_project(rng: random.Random) -> tuple[dict[str, str], str]:
    """Files by path, and the path of the one that six to eight of them import.

    Some further files import nothing of it, so that naming the dependents takes reading.
    """
    chosen, shared = rng.sample(sorted(FUNCTIONS), SIGNATURES), f"{rng.choice(NOUNS['en'])}_tools.py"
    module, files = shared.removesuffix(".py"), {shared: shared_file(chosen)}
    names = rng.sample([name.lower() for name in NAMES], 10)
    for place, name in enumerate(names[: rng.randint(6, 8)]):
        used = [chosen[place % SIGNATURES], *rng.sample(chosen, 1)]
        files[f"{name}.py"] = _program(module, list(dict.fromkeys(used)), rng)
    for name in names[8:]:
        files[f"{name}.py"] = f'"""Apart from the others."""\n\nNUMBER = {rng.randint(1, 99)}\n\nprint(NUMBER)\n'
    return dict(sorted(files.items())), shared


def source(name: str, body: str = "") -> str:
    """One function as it stands in a file, perhaps with another body."""
    parameters, about, right, _ = FUNCTIONS[name]
    return f'def {name}({parameters}):\n    """{about}"""\n    {body or right}\n'


def value(name: str, argument: object) -> object:
    """What the function of this name returns for an argument."""
    return VALUES[name](argument)


def shared_file(chosen: Sequence[str], bodies: Mapping[str, str] = MappingProxyType({})) -> str:
    """A file of some functions; `bodies` replace those of some."""
    return "\n\n".join(source(name, bodies.get(name, "")) for name in chosen)


def _program(module: str, used: list[str], rng: random.Random) -> str:
    lines = [f"from {module} import {', '.join(sorted(used))}", ""]
    for name in used:
        _, about, _, calls = FUNCTIONS[name]
        lines += [f"# {about}", *(f"print({name}({call}))" for call in rng.sample(calls, 2))]
    return "\n".join(lines) + "\n"
