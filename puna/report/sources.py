"""Reading a run's artifacts for the report: JSON files that may be absent, metric rows, and numbers as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from puna.core.stage import Artifact


def read_json(artifact: Artifact, name: str) -> dict[str, Any]:
    """A JSON object of an artifact, or an empty one."""
    path = artifact.path / name
    return json.loads(path.read_text()) if path.exists() else {}


def metrics(artifact: Artifact) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`, empty when the stage wrote none."""
    return list(json_lines(artifact, "metrics.jsonl"))


def json_lines(artifact: Artifact, name: str) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file of an artifact, one by one; none where it has no such file."""
    path = artifact.path / name
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def curve(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric."""
    pairs = [(row["step"], row[key]) for row in rows if key in row and row[key] is not None and "step" in row]
    return [p[0] for p in pairs], [p[1] for p in pairs]


def stage(artifact: Artifact) -> str:
    """The stage file that made an artifact, such as `train.pretrain`."""
    return str(artifact.record.get("stage", ""))


def made_by(artifacts: Iterable[Artifact], *uses: str) -> list[Artifact]:
    """Artifacts of some stage files, in the run's order."""
    return [a for a in artifacts if stage(a) in uses]


def percent(rate: dict[str, Any]) -> str:
    """A rate with its interval: `63.3 (60.8 to 65.7)`, in percent."""
    if not rate or not rate.get("n"):
        return "not measured"
    return f"{100 * rate['accuracy']:.1f} ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


def number(value: Any, digits: int = 3) -> str:
    """A number for a table cell, an en dash when there is none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"
