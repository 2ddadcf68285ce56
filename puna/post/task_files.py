"""Rows of the user's JSONL files, and the tasks in one: what `post.collect` learns from and `puna eval` scores on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puna.core.errors import InputError
from puna.core.modules import did_you_mean
from puna.data.open_file import STREAM_ERRORS, open_bytes
from puna.post.formats import UnreadableRow, read_row
from puna.tokenizer.dialog import Provenance, Task
from puna.verify.check import VERIFIERS

FORMS = (
    'one JSON object a line: {"question": ..., "answer": "... #### 7"} as in GSM8K, HumanEval and MBPP as they are, or '
    '{"prompt": [{"role": "user", "content": ...}], "verifier": "number", "reference": 7}'
)
AGAIN = "the file is cut short or damaged: copy or download it again"


def json_rows(path: Path, bad: list[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
    """(line number, parsed row); what is not JSON goes to `bad`, and so does a broken end of a compressed file."""
    number = 0
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    bad.append({"file": path.name, "line": number, "reason": f"not JSON: {error}"})
                    continue
                yield number, row
    except STREAM_ERRORS as error:
        bad.append({"file": path.name, "line": number + 1, "reason": f"the file breaks off: {error}"})


def read_tasks(path: Path, limit: int | None = None) -> list[Task]:
    """The tasks of a file in any form that `post.collect` reads, or of a tasks artifact (its `test.jsonl`); the first `limit`.

    Raises InputError for a missing file, one that breaks off, and the first row that has no answer to check.
    """
    file = path / "test.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise InputError("there is no such file of tasks", where=str(file), fix="name a JSONL file or a tasks artifact")
    found = list(itertools.islice(_tasks(file), limit))
    if not found:
        raise InputError("there are no tasks in the file", where=str(file), fix=FORMS)
    return found


def _tasks(file: Path) -> Iterator[Task]:
    provenance = Provenance(source=file.name, licence="unknown")
    bad: list[dict[str, Any]] = []
    for number, row in json_rows(file, bad):
        _refuse(bad, file)
        try:
            tasks = read_row(row, "auto", provenance).tasks
        except UnreadableRow as error:
            raise InputError(f"this row is no task: {error}", where=f"{file}:{number}", fix=FORMS) from error
        if not tasks or not tasks[0].verifier:
            raise InputError("this row has no answer that can be checked", where=f"{file}:{number}", fix=FORMS)
        if tasks[0].verifier not in VERIFIERS:
            what, fix = f"there is no check called '{tasks[0].verifier}'", did_you_mean(tasks[0].verifier, VERIFIERS)
            raise InputError(what, where=f"{file}:{number}", fix=fix)
        yield tasks[0]
    _refuse(bad, file)


def _refuse(bad: list[dict[str, Any]], file: Path) -> None:
    if bad:
        broken = bad[0]["reason"].startswith("the file breaks off")
        raise InputError(bad[0]["reason"], where=f"{file}:{bad[0]['line']}", fix=AGAIN if broken else FORMS)
