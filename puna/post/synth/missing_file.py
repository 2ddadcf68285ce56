"""A project with one file missing: which files need it, and what must it hold (paper section 4.3.4, long-context code).

A file that at least five others import is taken out. Who needs it is read from the syntax trees, so the first answer is true by
analysis. The teacher writes the file; it must define every name that the others take of it, and every program of the project
that ran before must print the same with the new file.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.post.synth.code_text import code_in, fenced
from puna.post.synth.imports import defined, dependents
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Execute, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates
from puna.world.projects import PROJECT_LICENCE, draw_project

CAPABILITY = "long context"
NOTHING_RUNS, NO_CODE, LACKS_NAMES, OTHER_OUTPUT = "nothing to run", "no code", "lacks a name", "other output"
REASONS = (NOTHING_RUNS, NO_CODE, LACKS_NAMES, OTHER_OUTPUT)

BESIDE = "import sys\n\nsys.path.insert(0, '.')\n\n"  # so that a program finds the files that lie beside it


class Settings(BaseSettings):
    """`count` missing files.

    Attributes:
        folder: a folder of Python projects, each a folder of its own; empty draws projects of the mini-world.
        licence: of the user's projects.
        least_dependents: files that import the missing one (paper: 5).
        most_characters: larger projects are left out.
    """

    count: PositiveInt = 50
    folder: str = ""
    licence: str = "unknown"
    least_dependents: int = Field(5, ge=1)
    most_characters: PositiveInt = 400_000
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 2048
    prompts: str = ""


@dataclass(frozen=True)
class Project:
    """Files by path, the one that is taken out, and who takes which names of it."""

    files: Mapping[str, str]
    missing: str
    dependents: Mapping[str, set[str]]


def items(settings: Settings, sources: Sources, rng: random.Random) -> Iterator[Item]:
    """Projects with a file that enough others import: the user's, each file once, or drawn ones."""
    if settings.folder:
        yield from _of_folder(settings)
        return
    for number in range(settings.count):
        files, missing = draw_project(rng)
        found = dependents(files, missing)
        if len(found) >= settings.least_dependents:
            yield Item(f"world-{number}", "world", PROJECT_LICENCE, Project(files, missing, found))


def outside(settings: Settings) -> list[Path]:
    """The user's files that the items are drawn from."""
    if not settings.folder:
        return []
    found = sorted(Path(settings.folder).glob("*/**/*.py"))
    if not found:
        raise InputError(
            "no project with Python files lies here", where=settings.folder, fix="check `folder`: one folder a project"
        )
    return found


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Write the file, run the project."""
    project: Project = item.given
    others = {path: source for path, source in project.files.items() if path != project.missing}
    shown = "\n\n".join(f"{path}\n{fenced(source)}" for path, source in others.items())
    (written,) = yield templates.ask("write", project=shown, missing=project.missing, temperature=settings.temperature,
                                     max_tokens=settings.max_tokens)  # fmt: skip
    code = code_in(written.text)
    if not written.finished or not code.strip():
        return Rejected(NO_CODE)
    taken = set().union(*project.dependents.values()) - {"", "*"}
    if not taken <= defined(code):
        return Rejected(LACKS_NAMES)
    before = yield [_program(path, project.files) for path in project.dependents]
    running = [path for path, outcome in zip(project.dependents, before, strict=True) if outcome.returncode == 0]
    printed = [outcome.stdout for outcome in before if outcome.returncode == 0]
    if not any(map(str.strip, printed)):
        return Rejected(NOTHING_RUNS)
    after = yield [_program(path, {**project.files, project.missing: code}) for path in running]
    if any((outcome.returncode, outcome.stdout) != (0, wanted) for outcome, wanted in zip(after, printed, strict=True)):
        return Rejected(OTHER_OUTPUT)
    listed = "\n".join(f"- {path}" for path in sorted(project.dependents))
    dialog = [
        user(templates.text("asked", project=shown, missing=project.missing)), assistant(listed),
        user(templates.text("asked_file", missing=project.missing)), assistant(fenced(code)),
    ]  # fmt: skip
    checks = {"dependents": len(project.dependents), "programs": len(running), "names": len(taken)}
    return Accepted([dialog], checks)


def _program(path: str, files: Mapping[str, str]) -> Execute:
    return Execute(BESIDE + files[path], files={name: source.encode() for name, source in files.items() if name != path})


def _of_folder(settings: Settings) -> Iterator[Item]:
    made = 0
    projects: dict[str, dict[str, Path]] = {}
    for path in outside(settings):
        inside = path.relative_to(settings.folder)
        projects.setdefault(inside.parts[0], {})["/".join(inside.parts[1:])] = path
    for name, paths in projects.items():
        files: dict[str, Any] = {inside: path.read_text(encoding="utf-8", errors="replace") for inside, path in paths.items()}
        if sum(map(len, files.values())) > settings.most_characters:
            continue
        for missing in files:
            found = dependents(files, missing)
            if len(found) >= settings.least_dependents and made < settings.count:
                made += 1
                yield Item(f"{name}/{missing}", name, settings.licence, Project(files, missing, found))
