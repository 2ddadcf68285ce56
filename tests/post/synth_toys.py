"""Stand-ins for the tests of synthetic data: documents on disk, a teacher from a script, a box that runs trusted code here."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from puna.core.stage import local_artifact
from puna.data.columns import DOCUMENT_COLUMNS, write_shard_table
from puna.post.synth.steps import Answer
from puna.post.synth.teacher import Usage


@dataclass
class Came:
    """What a program came to, as the sandbox tells it."""

    status: str
    passed: bool
    stdout: str = ""
    stderr: str = ""
    returncode: int = 0
    results: tuple = ()


class TrustedBox:
    """Runs Python in this process: for programs that the tests themselves wrote."""

    def __init__(self, *_, **__):
        self.ran = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def outcomes(self, programs):
        return [self._run(program) for program in programs]

    def _run(self, program):
        self.ran += 1
        said, place = io.StringIO(), {}
        try:
            with contextlib.redirect_stdout(said):
                exec(program.code, place)
                for test in program.tests:
                    exec(test, place)
        except BaseException as error:
            return Came("failed", False, said.getvalue(), f"{type(error).__name__}: {error}", 1)
        return Came("passed", True, said.getvalue())


class ProjectBox(TrustedBox):
    """The same for programs that import the Python files that come with them, or read the others."""

    def _run(self, program):
        modules = {name.removesuffix(".py"): ModuleType(name) for name in program.files if name.endswith(".py")}
        used = [line.split()[1] for line in program.code.splitlines() if line.startswith("from ") and line.split()[1] in modules]
        try:
            for name in used:
                sys.modules[name] = modules[name]
                exec(program.files[f"{name}.py"].decode(), vars(modules[name]))
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                for name, content in program.files.items():
                    Path(name).write_bytes(content)
                return super()._run(program)
        finally:
            for name in used:
                sys.modules.pop(name, None)


@dataclass
class Scripted:
    """Answers each template by a function of its slots and the number of the sample; keeps what was asked."""

    script: dict
    name: str = "scripted"
    licence: str = ""
    usage: Usage = field(default_factory=Usage)
    asked: list = field(default_factory=list)

    def answers(self, asks, *, seeds):
        found = []
        for ask in asks:
            self.asked.append(ask)
            texts = [self.script[ask.template](ask.slots, number) for number in range(ask.samples)]
            found.append([Answer(text, True, None, 7 * (n == 0), 3) for n, text in enumerate(texts)])
        self.usage.add(found)
        return found


def documents(root, texts, group="code", lang="en"):
    """A `documents` artifact of texts."""
    (root / "documents").mkdir(parents=True)
    rows = [
        {"id": f"d{i}", "url": "", "date": "", "source": "toy", "licence": "CC0-1.0", "group": group, "lang": lang, "text": text}
        for i, text in enumerate(texts)
    ]
    write_shard_table(root / "documents" / "part-0.parquet", rows, DOCUMENT_COLUMNS)
    return local_artifact(root, "documents", "documents")
