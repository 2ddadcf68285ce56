"""The dialogs that quality is measured of: of samples, of a tasks artifact, of the user's JSONL files, in that order.

Rows are read one by one and never held together; their order is what every annotation beside them goes by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from puna.core.errors import InputError
from puna.core.stage import Inputs
from puna.post.formats import UnreadableRow, read_row
from puna.post.task_files import json_rows
from puna.tokenizer.dialog import Dialog, Provenance, Task, read_rows

Part = Literal["samples", "gold"]
PARTS: dict[Part, tuple[str, str]] = {"samples": ("samples", "accepted.jsonl"), "gold": ("tasks", "train.jsonl")}  # kind, file
BATCH = 1024  # rows that are measured together
TOPICS = "topics.jsonl"  # labelled dialogs that an artifact may bring along


def dialogs(inputs: Inputs, parts: Sequence[Part], files: Sequence[str], licence: str = "unknown") -> Iterator[Dialog]:
    """Every row to measure.

    Args:
        parts: `samples` for what samples artifacts accepted, `gold` for the dialogs of the tasks artifact.
        files: JSONL of any shape that `post.collect` reads. licence: of their rows that name none.

    Raises InputError for a missing file and for a row that is no dialog.
    """
    for part, (kind, file) in PARTS.items():
        for artifact in inputs.all(kind) if part in parts else ():
            yield from read_rows(artifact.path / file, Dialog)
    for path in map(Path, files):
        yield from _of_file(path, licence)


def _of_file(path: Path, licence: str) -> Iterator[Dialog]:
    if not path.is_file():
        raise InputError("the file does not exist", where=str(path), fix="correct `files`")
    bad: list[dict[str, Any]] = []
    provenance = Provenance(source=path.name, licence=licence)
    for number, row in json_rows(path, bad):
        try:
            found = read_row(row, "auto", provenance).dialogs
        except UnreadableRow as error:
            raise InputError(
                f"this row is no dialog: {error}", where=f"{path}:{number}", fix="mend or remove that line"
            ) from error
        if bad:
            break
        yield from found
    if bad:
        raise InputError(bad[0]["reason"], where=f"{path}:{bad[0]['line']}", fix="mend or remove that line")


def batches(rows: Iterator[Dialog]) -> Iterator[list[Dialog]]:
    """Rows in lists of BATCH."""
    while part := list(islice(rows, BATCH)):
        yield part


def file_digests(files: Sequence[str]) -> dict[str, str]:
    """Content digest of every file by its path; InputError for one that cannot be read."""
    found = {}
    for path in files:
        try:
            with Path(path).open("rb") as file:
                found[path] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise InputError(f"the file cannot be read: {error.strerror}", where=path, fix="correct `files`") from None
    return found


def text_of(dialog: Dialog) -> str:
    """Everything that is said or called in a dialog, a line for each message."""
    return "\n".join(message.content or message.tool_calls or "" for message in dialog.messages)


def asked_in(dialog: Dialog) -> str:
    """What the user and the system say in a dialog, a line for each message."""
    return "\n".join(message.content for message in dialog.messages if message.role in ("system", "user"))


def known_tasks(inputs: Inputs) -> dict[str, Task]:
    """Tasks with a verifier by the key of their prompt, from the `prompts.jsonl` of every input that has one."""
    from puna.post.prompts import prompt_key

    found: dict[str, Task] = {}
    for artifact in inputs.artifacts:
        path = artifact.path / "prompts.jsonl"
        if artifact.kind in ("tasks", "samples") and path.is_file():
            found |= {prompt_key(task.prompt): task for task in read_rows(path, Task) if task.verifier}
    return found
