"""What a stage sees: its inputs, where to write, its random streams, and how to report.

A stage file is a module with `KIND` (what its artifact is: documents, tokenizer, tokens, model, tasks, ...), `REVISION`
(raised when the same settings give other numbers), `Settings`, and `run(settings, ctx)`. Optionally `CORES`,
`expand(name, settings, sources)`, which replaces the stage by a small graph of stages (see `puna.core.graph`), and
`outside(settings)`, which names what the stage reads besides its inputs (digests of the user's files) for its identity, and
`TEACHER`, the place among its model inputs of the one that only teaches, so that its weights do not go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.core.errors import InputError, Preempted
from puna.core.rng import derive_seed

VOLATILE = "volatile"  # folder inside an artifact that is no part of its digest: timings, pages, logs


@dataclass(frozen=True)
class Artifact:
    """A finished stage: a directory, and the record of what made it.

    `digest` covers every file outside `volatile/`; `record` is the content of `artifact.json`.
    """

    name: str
    kind: str
    path: Path
    digest: str
    record: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The numbers the stage returned (`summary.json`), empty if it returned none."""
        path = self.path / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {}


class Inputs:
    """The artifacts named under `from`, in the recipe's order."""

    def __init__(self, artifacts: Iterable[Artifact]):
        self.artifacts = list(artifacts)

    def all(self, kind: str) -> list[Artifact]:
        """Every input of one kind, in the recipe's order."""
        return [a for a in self.artifacts if a.kind == kind]

    def optional(self, kind: str) -> Artifact | None:
        """The only input of one kind, or None."""
        found = self.all(kind)
        if len(found) > 1:
            raise InputError(
                f"this stage takes one input of kind '{kind}' and got {len(found)}",
                where=", ".join(a.name for a in found),
                fix="name one of them under `from`",
            )
        return found[0] if found else None

    def one(self, kind: str) -> Artifact:
        """The only input of one kind; InputError when it is missing or ambiguous."""
        found = self.optional(kind)
        if found is None:
            have = ", ".join(f"{a.name} ({a.kind})" for a in self.artifacts) or "nothing"
            raise InputError(
                f"this stage needs an input of kind '{kind}' and has {have}",
                fix=f"add the stage that makes it under `from`; with puna run: --input {kind}=DIRECTORY",
            )
        return found

    def named(self, name: str) -> Artifact:
        """The input made by one stage, by name."""
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        raise InputError(f"no input is called '{name}'", where=", ".join(a.name for a in self.artifacts))


@dataclass
class StageContext:
    """Everything a stage may touch besides its settings.

    Attributes:
        name: the stage's name in the recipe.
        inputs: finished artifacts it reads.
        out: directory that becomes the artifact when `run` returns; lost parts never look whole.
        scratch: directory for checkpoints and half-done work; survives a kill, bound to the fingerprint, removed at commit.
        seed: the run's seed; use `stream_seed`, never this alone.
        report: receives events for console and page; the default drops them.
        stopping: tells whether the process was asked to stop.
        cores: how many cores the run gave this stage; the result must not depend on it.
        run: `name` and `recipe` of the run that asked for this, for pages under `volatile/`; empty outside a run.
        alive: told which step begins and what is done, so that of many processes the one that hangs can be named.
    """

    name: str
    inputs: Inputs
    out: Path
    scratch: Path
    seed: int = 0
    report: Callable[[dict[str, Any]], None] = lambda event: None
    stopping: Callable[[], bool] = lambda: False
    lineage: list[dict[str, Any]] = field(default_factory=list)
    cores: int = 1
    run: dict[str, str] = field(default_factory=dict)
    alive: Callable[[int, str], None] = lambda step, doing: None

    def stream_seed(self, *names: str | int) -> int:
        """Seed of a stream that is this stage's own: depends on the run's seed and the stage's name."""
        return derive_seed(self.seed, self.name, *names)

    def progress(self, done: float, total: float, **values: Any) -> None:
        """Tell the user how far the stage is; `values` are shown beside the bar (loss, tokens_per_s)."""
        self.report({"event": "progress", "stage": self.name, "done": done, "total": total, **values})

    def note(self, text: str) -> None:
        """One line for the user: a fallback taken, rows skipped, a gate that held."""
        self.report({"event": "note", "stage": self.name, "text": text})
        path = self.out / VOLATILE / "notes.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text + "\n")

    def metric(self, **row: Any) -> None:
        """Append a row to `metrics.jsonl`. Only values that a re-run repeats to the bit belong here, so no times."""
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row, sort_keys=True) + "\n")
        self.report({"event": "metric", "stage": self.name, **row})

    def timing(self, **row: Any) -> None:
        """Append a row to `volatile/timing.jsonl`: tokens per second and other things that differ from run to run."""
        path = self.out / VOLATILE / "timing.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(row, sort_keys=True) + "\n")
        self.report({"event": "timing", "stage": self.name, **row})

    def add_source(self, source: str, licence: str, rows: int = 0, **obligations: Any) -> None:
        """Record that this artifact holds `rows` rows of `source` under `licence` (SPDX id or 'unknown').

        `obligations`: more that is known of it, see `puna.core.lineage` (`use="weights"`, `llama_name=True`).
        """
        self.lineage.append({"source": source, "licence": licence, "rows": rows, **obligations})

    def checkpoint_or_stop(self, save: Callable[[], None]) -> None:
        """If a stop was asked for, save through `save` and raise Preempted."""
        if self.stopping():
            save()
            raise Preempted(f"stage '{self.name}' was asked to stop and saved its state", fix="run it again")


def local_context(out: Path, *, name: str = "stage", inputs: Iterable[Artifact] = (), seed: int = 0) -> StageContext:
    """A context without a run around it: for tests and for `puna run` on plain paths."""
    out = Path(out)
    scratch = out.with_name(out.name + ".scratch")
    out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    return StageContext(name=name, inputs=Inputs(inputs), out=out, scratch=scratch, seed=seed)


def local_artifact(path: Path, kind: str, name: str | None = None) -> Artifact:
    """A directory used as an artifact of `kind` without a record: for tests and for inputs given by path."""
    path = Path(path)
    return Artifact(name=name or path.name, kind=kind, path=path, digest="", record={})
