"""A run's curves in TensorBoard or Weights & Biases: listeners that mirror the metric and timing rows of every stage.

Nothing is imported unless asked for, and nothing decides anything: a tracker that fails is left out with one line, and the run
goes on. Numbers keep their names, `timing/` before those of timing rows, and the loop's phase before them where a stage has
several; text is not mirrored.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from puna.core.errors import InputError
from puna.core.journal import Listener

Row = dict[str, float]
KNOWN = ("event", "time", "stage", "step", "phase")


class TensorBoard:
    """Event files in `directory/<stage>`. A stage that goes on repeats its rows to the bit, so points only lie on each other."""

    def __init__(self, directory: Path):
        found = _module("tensorboard.summary.writer.event_file_writer", "tensorboard", f"--tensorboard {directory}")
        self._open, self._event = found.EventFileWriter, importlib.import_module("tensorboard.compat.proto.event_pb2").Event
        self.directory = directory
        self.writers: dict[str, Any] = {}

    def row(self, stage: str, step: int, at: float, values: Row) -> None:
        if stage not in self.writers:
            self.writers[stage] = self._open(str(self.directory / stage))
        event = self._event(wall_time=at, step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        self.writers[stage].add_event(event)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


class Wandb:
    """One run of a project; its names are `<stage>/<name>`, over `<stage>/step`. WANDB_MODE=offline needs no network."""

    def __init__(self, project: str, name: str):
        self.wandb = _module("wandb", "wandb", f"--wandb {project}")
        self.project, self.name = project, name
        self.run: Any = None
        self.stages: set[str] = set()

    def row(self, stage: str, step: int, at: float, values: Row) -> None:
        if self.run is None:
            self.run = self.wandb.init(project=self.project, name=self.name)
        if stage not in self.stages:
            self.stages.add(stage)
            self.run.define_metric(f"{stage}/step")
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self.run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()


Tracker = TensorBoard | Wandb


class Console(Listener, Protocol):
    """A listener that ends."""

    def close(self) -> None: ...


class Mirrored:
    """A listener, and trackers beside it that get the rows of what it hears."""

    def __init__(self, listener: Console, trackers: Sequence[Tracker]):
        self.listener, self.trackers = listener, list(trackers)

    def event(self, event: dict[str, Any]) -> None:
        self.listener.event(event)
        if self.trackers and event["event"] in ("metric", "timing") and isinstance(event.get("step"), int):
            before = "timing/" if event["event"] == "timing" else ""
            values = numbers(event, before + (f"{event['phase']}/" if event.get("phase", "train") != "train" else ""))
            at = event.get("time") or time.time()
            if values:
                self._each(lambda tracker: tracker.row(event["stage"], event["step"], at, values))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())
        self.listener.close()

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                action(tracker)
            except Exception as error:  # whatever a foreign package raises, the run is worth more than its mirror
                self.trackers.remove(tracker)
                text = f"{type(tracker).__name__} failed and is left out: {type(error).__name__}: {error}"
                self.listener.event({"event": "note", "stage": "run", "text": text, "level": "warning"})


def numbers(row: dict[str, Any], before: str) -> Row:
    """The numbers of a row by name, `before` in front of it."""
    return {before + key: float(value) for key, value in row.items()
            if key not in KNOWN and isinstance(value, (int, float)) and not isinstance(value, bool)}  # fmt: skip


def trackers(tensorboard: Path | None, wandb: str | None, name: str) -> list[Tracker]:
    """The trackers asked for; InputError where the package of one is missing."""
    found: list[Tracker] = []
    if tensorboard is not None:
        found.append(TensorBoard(tensorboard))
    if wandb is not None:
        found.append(Wandb(wandb, name))
    return found


def _module(path: str, package: str, asked: str) -> Any:
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise InputError(f"{package} is not installed", where=asked, fix=f"pip install 'puna[{package}]'") from error
