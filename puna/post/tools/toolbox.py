"""The tools a model is offered, in one table: a calculator, search over local documents, reading files, the Python interpreter.

The first three answer at once. Python needs the sandbox, so whoever holds one runs it (`puna.verify.sandbox`); what the program
prints is the tool's output (paper section 4.3.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puna.post.tools.calculator import calculate
from puna.post.tools.failure import ToolFailed
from puna.post.tools.files import read_file
from puna.post.tools.search import Search

PYTHON = "python"


def _described(name: str, description: str, parameter: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"name": name, "description": description, "parameters": schema}


TOOLS = {
    "calculator": _described("calculator", "Work out an arithmetic expression, such as (3 + 4) * 2 or sqrt(2).", "expression"),
    "search": _described("search", "Find passages in the local documents that answer a query.", "query"),
    "read_file": _described("read_file", "Read one of the user's files as text.", "name"),
    PYTHON: _described(PYTHON, "Run a Python program and return what it prints. The user's files lie beside it.", "code"),
}


@dataclass(frozen=True)
class Workspace:
    """What the tools work on: the user's files by name, and an index of documents where there is one."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    documents: Search | None = None

    def use(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The output of any tool but Python. Raises ToolFailed for arguments it cannot serve and tools that are not here."""
        if name not in TOOLS or name == PYTHON:
            raise ToolFailed(f"there is no tool '{name}' here")
        value = next(iter(arguments.values()), None)
        if not isinstance(value, str):
            raise ToolFailed(f"'{name}' takes one text")
        if name == "calculator":
            return calculate(value)
        if name == "search" and self.documents is not None:
            return self.documents.answer(value)
        if name == "read_file" and value in self.files:
            return read_file(value, self.files[value])
        raise ToolFailed("there are no documents here" if name == "search" else f"there is no file '{value}'")
