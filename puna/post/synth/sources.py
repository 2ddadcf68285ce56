"""What generators draw from: documents, tasks and accepted dialogs among a stage's inputs, and the mini-world (paper 4.3).

Every item says where it comes from, so lineage reaches the rows that are made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from puna.core.errors import InputError
from puna.core.stage import StageContext
from puna.tokenizer.dialog import Dialog, Task, read_rows


@dataclass(frozen=True)
class Document:
    """A kept document: its text, where it is from, and its group of the data mix (general, maths, code, multilingual)."""

    id: str
    text: str
    source: str
    licence: str
    lang: str
    group: str


class Sources:
    """The inputs of a stage as generators read them; what a generator needs and a recipe does not give is an InputError."""

    def __init__(self, ctx: StageContext):
        self._ctx, self._tasks = ctx, ctx.inputs.all("tasks")

    def has(self, kind: str) -> bool:
        """Whether there is an input of this kind."""
        return bool(self._ctx.inputs.all(kind))

    def documents(self, *groups: str) -> Iterator[Document]:
        """Documents of some groups (of all without any), in their order."""
        from puna.data.columns import documents

        found = self._ctx.inputs.all("documents")
        if not found:
            self._lacking("documents")
        for artifact in found:
            for row in documents(artifact.path):
                if not groups or row["group"] in groups:
                    yield Document(**{name: row[name] or "" for name in Document.__dataclass_fields__})

    def tasks(self) -> Iterator[Task]:
        """Tasks to sample on (`prompts.jsonl`), never those that are held out."""
        if not self._tasks:
            self._lacking("tasks")
        for artifact in self._tasks:
            yield from read_rows(artifact.path / "prompts.jsonl", Task)

    def dialogs(self) -> Iterator[Dialog]:
        """Gold dialogs of tasks artifacts and accepted ones of samples artifacts."""
        paths = [artifact.path / "train.jsonl" for artifact in self._tasks]
        paths += [artifact.path / "accepted.jsonl" for artifact in self._ctx.inputs.all("samples")]
        if not paths:
            self._lacking("tasks or samples")
        for path in paths:
            yield from read_rows(path, Dialog)

    def _lacking(self, kind: str) -> None:
        have = ", ".join(f"{a.name} ({a.kind})" for a in self._ctx.inputs.artifacts) or "nothing"
        raise InputError(f"a generator draws from {kind}, and the inputs are {have}", where=self._ctx.name,
                         fix=f"add a stage that makes {kind} under `from`")  # fmt: skip
