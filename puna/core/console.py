"""How a run looks in a terminal: the plan first, bars with rate and time left while it works, plain lines when nobody watches.

Three listeners for the events of `puna.core.journal`: `Bars` for a terminal, `Lines` for logs (each line stands alone, at most
one every five seconds and stage), `JsonLines` for programs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TextIO

from puna.core.graph import Graph
from puna.core.recipe import Recipe

LINE_EVERY_S = 5.0
STATE_SIGN = {"finished": "done", "reused": "kept", "failed": "FAILED", "preempted": "stopped"}


def plan_text(recipe: Recipe, graph: Graph, cores: int, *, memory_gb: float, disk_gb: float, finished: int) -> str:
    """The first lines of a run: what will be done, on what, and what the author measured it to cost."""
    chain: dict[str, int] = {}
    for name, node in graph.items():
        chain[name] = 1 + max((chain[s] for s in node.sources), default=0)
    left = f", {finished} finished before" if finished else ""
    lines = [
        f"puna up {recipe.name} (seed {recipe.seed}): {len(graph)} stages{left}, the longest chain {max(chain.values())}, "
        f"on {cores} core{'s' * (cores > 1)}",
        f"  machine: {memory_gb:.1f} GB memory free, {disk_gb:.1f} GB disk free, no network needed",
    ]
    budget = recipe.budget
    known = [
        (budget.minutes, "about {:g} min on two cores"),
        (budget.memory_gb, "{:g} GB memory"),
        (budget.disk_gb, "{:g} GB disk"),
    ]
    if words := [text.format(value) for value, text in known if value is not None]:
        lines.append(f"  work:    {', '.join(words)} (as the recipe's author measured it)")
    width = max(map(len, recipe.stages))
    for name, entry in recipe.stages.items():
        parts = sum(node.owner == name for node in graph.values())
        sources = "all" if entry.sources is None else ", ".join(entry.sources) or "-"
        lines.append(
            f"  {name:<{width}}  {graph[name].uses} -> {graph[name].kind}, from {sources}"
            + (f"  ({parts} stages)" if parts > 1 else "")
        )
    return "\n".join(lines)


def listener(*, as_json: bool, stages: Sequence[str], out: TextIO | None = None) -> Lines | JsonLines | Bars:
    """The listener that fits: JSON when asked for, bars on a terminal, lines otherwise."""
    out = out or sys.stdout
    if as_json:
        return JsonLines(out)
    return Bars(stages) if out.isatty() else Lines(out)


class JsonLines:
    """Every event as one line of JSON."""

    def __init__(self, out: TextIO):
        self.out = out

    def event(self, event: dict[str, Any]) -> None:
        print(json.dumps(event), file=self.out, flush=True)

    def close(self) -> None:
        self.out.flush()


class Lines:
    """One self-contained line per thing worth knowing: `[  12.3s] stage  what`."""

    def __init__(self, out: TextIO):
        self.out = out
        self._start = time.monotonic()
        self._said: dict[str, float] = {}
        self._rate = Rates()

    def event(self, event: dict[str, Any]) -> None:
        text = self._text(event)
        if text is not None:
            print(f"[{time.monotonic() - self._start:7.1f}s] {event.get('stage', 'run')}  {text}", file=self.out, flush=True)

    def close(self) -> None:
        self.out.flush()

    def _text(self, event: dict[str, Any]) -> str | None:
        if event["event"] == "stage":
            self._rate.forget(event["stage"])
            self._said[event["stage"]] = time.monotonic()
            return state_text(event)
        if event["event"] == "note":
            return f"note: {event['text']}"
        if event["event"] == "progress":
            self._rate.see(event)
            if time.monotonic() - self._said.get(event["stage"], 0.0) >= LINE_EVERY_S:
                self._said[event["stage"]] = time.monotonic()
                return progress_text(event, self._rate)
        return None


class Bars:
    """Rich progress bars for what runs, and a line above them for what ended."""

    def __init__(self, stages: Sequence[str]):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = Console()
        width = min(40, max(map(len, stages), default=10))
        self.bars = Progress(
            TextColumn(f"{{task.fields[label]:<{width}}}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.tasks: dict[str, Any] = {}
        self.width = width
        self._rate = Rates()
        self.bars.start()

    def event(self, event: dict[str, Any]) -> None:
        stage = event.get("stage", "run")
        if event["event"] == "stage" and event["state"] == "running":
            self._rate.forget(stage)
            self.tasks[stage] = self.bars.add_task("", total=None, label=stage[: self.width], text="")
        elif event["event"] == "stage":
            if stage in self.tasks:
                self.bars.remove_task(self.tasks.pop(stage))
            colour = {"finished": "green", "reused": "bright_black", "failed": "red"}.get(event["state"], "yellow")
            self._say(f"{stage:<{self.width}}  {state_text(event)}", colour)
        elif event["event"] == "progress" and stage in self.tasks:
            self._rate.see(event)
            self.bars.update(
                self.tasks[stage], completed=event["done"], total=event["total"] or None, text=progress_text(event, self._rate)
            )
        elif event["event"] == "note":
            style = "yellow" if event.get("level") == "warning" else "bright_black"
            self._say(f"{stage:<{self.width}}  note: {event['text']}", style)

    def _say(self, text: str, style: str) -> None:
        from rich.text import Text

        self.bars.print(Text(text, style=style))  # a Text, since a style of `print` would colour the bars below it too

    def close(self) -> None:
        self.bars.stop()


class Rates:
    """Units per second of each stage since its first progress event."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, float]] = {}
        self._now: dict[str, tuple[float, float]] = {}

    def see(self, event: dict[str, Any]) -> None:
        now = (event.get("time", time.time()), float(event["done"]))
        self._first.setdefault(event["stage"], now)
        self._now[event["stage"]] = now

    def forget(self, stage: str) -> None:
        self._first.pop(stage, None)

    def rate(self, stage: str) -> float | None:
        """None until two different moments were seen."""
        (t0, d0), (t1, d1) = self._first[stage], self._now[stage]
        return (d1 - d0) / (t1 - t0) if t1 > t0 and d1 > d0 else None


def state_text(event: dict[str, Any]) -> str:
    """What a change of state says to a person."""
    state = event["state"]
    if state == "running":
        return "started"
    if state == "failed":
        return f"FAILED: {event['error']['what']}"
    seconds = f" in {clock(event['seconds'])}" if "seconds" in event else ""
    shown = {key: value for key, value in (event.get("summary") or {}).items() if isinstance(value, (int, float, str))}
    numbers = [f"{key}={short(value)}" for key, value in shown.items() if len(str(value)) <= 24]
    return f"{STATE_SIGN[state]}{seconds}  {'  '.join(numbers[:5])}".rstrip()


def progress_text(event: dict[str, Any], rates: Rates) -> str:
    """`120/600 20%  8.1/s  59 s left  loss=2.31`."""
    done, total, rate = event["done"], event["total"], rates.rate(event["stage"])
    parts = [f"{short(done)}/{short(total)} {100 * done / total:.0f}%" if total else short(done)]
    if rate:
        parts.append(f"{short(rate)}/s")
        if total and done < total:
            parts.append(f"{clock((total - done) / rate)} left")
    known = ("event", "time", "stage", "done", "total")
    parts += [f"{key}={short(value)}" for key, value in event.items() if key not in known][:4]
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """A duration as people say it: `8.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(text: str) -> str:
    """A recorded time (ISO 8601) on this machine's clock, to the minute: `2024-07-23 14:05`."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def short(value: Any) -> str:
    """A number in few characters: three significant digits, thousands with k, M, G."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return str(value) if isinstance(value, int) else f"{value:.3g}"
