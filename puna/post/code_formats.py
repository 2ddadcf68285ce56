"""Programming tasks as HumanEval (Chen et al. 2021) and MBPP (Austin et al. 2021) write them, as tasks of ours (paper 5.1.3).

The reference holds the tests, which a prompt shows only where the benchmark does (MBPP); an answer is run against them in
the sandbox.
"""

from __future__ import annotations

import ast
from typing import Any

from puna.tokenizer.dialog import MessageRow, Provenance, Task, content_id


def humaneval(row: dict[str, Any], provenance: Provenance) -> Task:
    """`prompt` (a signature with its docstring), `test` (defines `check`), `entry_point`, and perhaps `canonical_solution`."""
    prompt, entry_point = str(row["prompt"]), str(row["entry_point"])
    asked = f"Complete this Python function and answer with all of it in one code block.\n\n{_fenced(prompt)}"
    reference = {"tests": [str(row["test"])], "entry_point": entry_point, "language": "python", "prompt": prompt}
    solution = row.get("canonical_solution")
    return _task(asked, reference, prompt + str(solution) if solution else None, "humaneval", row, provenance)


def mbpp(row: dict[str, Any], provenance: Provenance) -> Task:
    """`text` or `prompt`, `test_list`, `test_setup_code` or `test_imports`, and perhaps `code`; plain or sanitised rows."""
    tests = [str(test) for test in row["test_list"]]
    if not tests:
        raise ValueError("there are no tests")
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
    solution = str(row["code"]).replace("\r\n", "\n") if row.get("code") else None
    shown = "\n".join(tests)
    text = str(row.get("text") or row["prompt"]).strip()
    asked = f"{text}\nAnswer with a Python program that passes these tests:\n\n{_fenced(shown)}"
    setup = f"{setup}\n" if setup else ""
    reference = {"tests": [setup + tests[0], *tests[1:]], "entry_point": _under_test(tests, solution), "language": "python"}
    return _task(asked, reference, solution, "mbpp", row, provenance)


def _task(
    asked: str, reference: dict[str, Any], solution: str | None, family: str, row: dict[str, Any], provenance: Provenance
) -> Task:
    prompt = [MessageRow(role="user", content=asked)]
    return Task(
        id=content_id({"prompt": asked}),
        prompt=prompt,
        verifier="code",
        reference=reference,
        family=family,
        capability="code",
        lang=str(row.get("lang", "en")),
        gold=None if solution is None else _fenced(solution),
        provenance=provenance,
    )


def _fenced(code: str) -> str:
    return f"```python\n{code.strip(chr(10))}\n```"


def _under_test(tests: list[str], solution: str | None) -> str:
    """The function of the solution that every test calls; empty where there is no one such."""
    defined = {node.name for node in ast.parse(solution or "").body if isinstance(node, ast.FunctionDef)}
    called = [
        {n.func.id for n in ast.walk(ast.parse(t)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)} for t in tests
    ]
    found = sorted(defined.intersection(*called))
    return found[0] if len(found) == 1 else ""
