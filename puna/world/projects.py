"""Small Python projects of the mini-world: one file that many others import, and programs that print what they make of it.

The functions of the shared file are drawn from a table, so what each should return is known for every input.
"""

from __future__ import annotations

import random

from puna.world.lexicon import NAMES, NOUNS

PROJECT_LICENCE = "CC0-1.0"

# name: (parameters, what it does, body, arguments of three calls)
FUNCTIONS = {
    "total": ("values", "Sum of the values.", "return sum(values)", ("[1, 2, 3]", "[10]", "[4, 4]")),
    "largest": ("values", "Largest value.", "return max(values)", ("[3, 9, 2]", "[5]", "[7, 1]")),
    "spread": ("values", "Largest less smallest value.", "return max(values) - min(values)", ("[3, 9, 2]", "[5, 6]", "[8, 1]")),
    "doubled": ("number", "Twice a number.", "return 2 * number", ("3", "0", "11")),
    "backwards": ("text", "The text from back to front.", "return text[::-1]", ("'house'", "'ab'", "'letter'")),
    "initials": ("text", "First letter of each word.", "return ''.join(word[0] for word in text.split())",
                 ("'red old house'", "'one'", "'a b'")),
    "longest": ("words", "The longest word, the first of equals.", "return max(words, key=len)",
                ("['pen', 'house']", "['a', 'bb', 'cc']", "['bird']")),
    "evens": ("values", "The even values, in order.", "return [value for value in values if value % 2 == 0]",
              ("[1, 2, 4]", "[3]", "[6, 6]")),
}  # fmt: skip
SIGNATURES = 4  # functions of the shared file


def draw_project(rng: random.Random) -> tuple[dict[str, str], str]:
    """Files by path, and the path of the one that six to eight of them import.

    Some further files import nothing of it, so that naming the dependents takes reading.
    """
    chosen, shared = rng.sample(sorted(FUNCTIONS), SIGNATURES), f"{rng.choice(NOUNS['en'])}_tools.py"
    module, files = shared.removesuffix(".py"), {shared: _shared(chosen)}
    names = rng.sample([name.lower() for name in NAMES], 10)
    for place, name in enumerate(names[: rng.randint(6, 8)]):
        used = [chosen[place % SIGNATURES], *rng.sample(chosen, 1)]
        files[f"{name}.py"] = _program(module, list(dict.fromkeys(used)), rng)
    for name in names[8:]:
        files[f"{name}.py"] = f'"""Apart from the others."""\n\nNUMBER = {rng.randint(1, 99)}\n\nprint(NUMBER)\n'
    return dict(sorted(files.items())), shared


def _shared(chosen: list[str]) -> str:
    parts = []
    for name in chosen:
        parameters, about, body, _ = FUNCTIONS[name]
        parts.append(f'def {name}({parameters}):\n    """{about}"""\n    {body}\n')
    return "\n\n".join(parts)


def _program(module: str, used: list[str], rng: random.Random) -> str:
    lines = [f"from {module} import {', '.join(sorted(used))}", ""]
    for name in used:
        _, about, _, calls = FUNCTIONS[name]
        lines += [f"# {about}", *(f"print({name}({call}))" for call in rng.sample(calls, 2))]
    return "\n".join(lines) + "\n"
