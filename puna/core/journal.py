"""What a run says: every event to `events.jsonl`, its state to `status.json`, and both to the console.

The live page and `puna status` read these files and nothing else, so a page can join late and a run can go on without one.

`events.jsonl`, one JSON object a line, appended; `time` in Unix seconds:
    {"event": "run", "state": "started", "name"}                  a `puna up` begins; older lines belong to earlier attempts
    {"event": "stage", "stage", "state": "running" | "finished" | "reused" | "failed" | "preempted", ...}
    {"event": "progress", "stage", "done", "total", ...values}    at most five a second and stage
    {"event": "metric", "stage", ...row}                          rows of metrics.jsonl; start over when a stage starts again
    {"event": "timing", "stage", ...row}                          rows of volatile/timing.jsonl: rates, memory, waits
    {"event": "note", "stage", "text"}
    {"event": "run", "state": "finished" | "failed" | "preempted", "seconds", "peak_memory_mb"}
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Protocol

from puna.core.graph import Graph
from puna.core.recipe import Recipe

EVENTS, STATUS = "events.jsonl", "status.json"
STATUS_EVERY_S = 0.5


class Listener(Protocol):
    """Whoever shows a run to a person."""

    def event(self, event: dict[str, Any]) -> None: ...


class Journal:
    """Writes both files of one run. A file that cannot be written (disk full) costs one warning and not the run."""

    def __init__(self, run_dir: Path, recipe: Recipe, graph: Graph, cores: int, listener: Listener):
        self.run_dir, self.listener = run_dir, listener
        self.started = time.time()
        earlier = {row["name"]: row.get("fingerprint") for row in read_status(run_dir).get("stages", [])}
        self.stages: dict[str, dict[str, Any]] = {
            name: {
                "name": name,
                "uses": node.uses,
                "kind": node.kind,
                "from": list(node.sources),
                "owner": node.owner,
                "fingerprint": earlier.get(name),  # of the work it last began; this run has not come to it yet
                "state": "waiting",
                "done": 0,
                "total": 0,
                "values": {},
                "started": None,
                "ended": None,
                "path": None,
                "note": None,
                "error": None,
                "summary": None,
            }
            for name, node in graph.items()
        }
        self.head: dict[str, Any] = {
            "name": recipe.name,
            "description": recipe.description,
            "seed": recipe.seed,
            "chat": recipe.chat,
            "recipe": recipe.label,
            "cores": cores,
            "pid": os.getpid(),
            "state": "running",
            "started": self.started,
            "ended": None,
            "memory_mb": 0,
            "peak_memory_mb": 0,
        }
        self._written = 0.0
        self._warned = False
        self.say({"event": "run", "state": "started", "name": recipe.name})

    def say(self, event: dict[str, Any]) -> None:
        """Record one event, show it, and bring the status up to date."""
        event = {"time": round(time.time(), 3), **event}
        self._write(lambda: self._append(event))
        if event["event"] == "progress":
            known = ("event", "time", "stage", "done", "total")
            values = {k: v for k, v in event.items() if k not in known}
            self.stages[event["stage"]].update(done=event["done"], total=event["total"], values=values)
        elif event["event"] == "note" and event.get("stage") in self.stages:
            self.stages[event["stage"]]["note"] = event["text"]
        self.listener.event(event)

    def stage(self, name: str, state: str, **facts: Any) -> None:
        """A stage changes state; `facts` (path, summary, error, fingerprint, seconds) go to the event and the status."""
        entry = self.stages[name]
        entry["state"] = state
        if state == "running":
            entry.update(started=time.time(), ended=None, done=0, total=0, values={}, error=None)
        else:
            entry["ended"] = time.time()
        entry.update({key: value for key, value in facts.items() if key in entry})
        self.say({"event": "stage", "stage": name, "state": state, **facts})
        self.refresh(force=True)

    def memory(self, bytes_now: int) -> None:
        """The run's resident memory as sampled now."""
        self.head["memory_mb"] = bytes_now // 2**20
        self.head["peak_memory_mb"] = max(self.head["peak_memory_mb"], self.head["memory_mb"])

    def end(self, state: str, error: dict[str, Any] | None = None) -> None:
        """The run is over."""
        seconds = round(time.time() - self.started, 1)
        self.head.update(state=state, ended=time.time(), error=error)
        self.say(
            {"event": "run", "state": state, "seconds": seconds, "peak_memory_mb": self.head["peak_memory_mb"], "error": error}
        )
        self.refresh(force=True)

    def refresh(self, *, force: bool = False) -> None:
        """Write `status.json`, by rename, at most every half second unless forced."""
        now = time.monotonic()
        if not force and now - self._written < STATUS_EVERY_S:
            return
        self._written = now
        self._write(self._write_status)

    def _append(self, event: dict[str, Any]) -> None:
        with (self.run_dir / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def _write_status(self) -> None:
        beside = self.run_dir / f"{STATUS}.new"
        beside.write_text(json.dumps({**self.head, "updated": time.time(), "stages": list(self.stages.values())}))
        beside.replace(self.run_dir / STATUS)

    def _write(self, action: Any) -> None:
        try:
            action()
        except OSError as error:
            if not self._warned:
                self._warned = True
                text = f"the run's log cannot be written ({error.strerror}): the live page and `puna status` will be behind"
                self.listener.event({"event": "note", "stage": "run", "text": text})


def read_status(run_dir: Path) -> dict[str, Any]:
    """The last status of a run, empty when there is none."""
    try:
        return json.loads((run_dir / STATUS).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
