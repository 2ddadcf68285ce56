"""Whether a program in an answer does what its task's tests ask (paper 4.3.1: execution feedback), found out in the sandbox.

The program is the last fenced block of the answer, or the whole answer where there is none. One sandbox serves a process: it is
opened by the first program to be judged, with a box for each core, and closed with the process.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Iterable
from typing import Any

from puna.core.errors import InputError
from puna.core.hardware import usable_cores
from puna.verify.sandbox import Job, Sandbox, languages

KEYS = {"tests", "entry_point", "language", "prompt"}
FORM = 'reference: {"tests": ["assert add(1, 2) == 3"], "entry_point": "add"}'
_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_opened: dict[int, Sandbox] = {}


def code(reference: Any, text: str) -> bool:
    """Whether the program in `text` passes every test of `reference`; InputError for a reference that cannot be one.

    A reference has `tests` (Python texts, or pairs of stdin and stdout for whole programs in any language) and may have
    `entry_point` (the function under test), `language`, and `prompt`: the beginning that the answer goes on from or repeats.
    """
    return shared_sandbox().run_job(job_of(reference, text)).passed


def code_many(pairs: Iterable[tuple[Any, str]]) -> list[bool]:
    """The same for many, as many at a time as there are cores."""
    jobs = [job_of(*pair) for pair in pairs]
    return [outcome.passed for outcome in shared_sandbox().map_python(jobs)] if jobs else []


def job_of(reference: Any, text: str) -> Job:
    """The program in an answer with its task's tests."""
    if not isinstance(reference, dict) or not reference.get("tests") or reference.keys() - KEYS:
        raise InputError("'code' needs a reference with 'tests'", where=repr(reference)[:80], fix=FORM)
    tests, language, entry_point = reference["tests"], reference.get("language", "python"), reference.get("entry_point") or ""
    if language not in languages():
        fix = f"installed are: {', '.join(languages())}"
        raise InputError(f"no compiler or interpreter for '{language}'", where=repr(reference)[:80], fix=fix)
    if not isinstance(tests, str) and not all(isinstance(test, str) for test in tests):
        if not all(isinstance(test, list | tuple) and len(test) == 2 for test in tests):
            raise InputError("a test is a text, or a pair (stdin, stdout)", where=repr(reference)[:80], fix=FORM)
        tests = [(str(stdin), str(stdout)) for stdin, stdout in tests]
    program = _completed(reference.get("prompt") or "", program_in(text), entry_point)
    return Job(program, tests, entry_point=entry_point, language=language)


def program_in(text: str) -> str:
    """The last fenced block of a text, else all of it."""
    blocks = [match.group(2) for match in _FENCED.finditer(text)]
    return blocks[-1] if blocks else text


def _completed(prompt: str, program: str, entry_point: str) -> str:
    """The prompt's beginning before a program: all of it, or what stands before the function if the program writes that anew."""
    head = re.compile(rf"^def {re.escape(entry_point)}\b", re.MULTILINE)
    if entry_point and head.search(program) and (starts := [match.start() for match in head.finditer(prompt)]):
        return prompt[: starts[-1]] + "\n" + program
    return prompt + program


def shared_sandbox() -> Sandbox:
    """This process's sandbox; one that was opened before a fork is its parent's."""
    if os.getpid() not in _opened:
        _opened.clear()
        _opened[os.getpid()] = Sandbox(workers=usable_cores())
    return _opened[os.getpid()]


@atexit.register
def _close() -> None:
    if sandbox := _opened.pop(os.getpid(), None):
        sandbox.close()
