"""What a selection shows of itself: the funnel, how each value is distributed, and the rows next to every limit.

A limit can only be judged by what stands on its two sides, so three rows just above and three just below are kept with their
openings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from puna.post.quality.predicates import Predicate
from puna.post.quality.rows import text_of
from puna.tokenizer.dialog import Dialog, read_rows

BINS = 30
NEAREST = 3  # rows on each side of a limit
OPENING_CHARS = 240
DIGITS = 6


def funnel(failed: Mapping[str, np.ndarray], rows: int) -> list[dict[str, Any]]:
    """Rows that are left after each operand of `keep`, in its order."""
    left = np.ones(rows, dtype=bool)
    steps: list[dict[str, Any]] = [{"step": "rows", "left": rows}]
    for name, out in failed.items():
        left &= ~out
        steps.append({"step": name, "left": int(left.sum())})
    return steps


def evidence(predicates: Mapping[str, Predicate], keep: np.ndarray, rows: Path) -> dict[str, Any]:
    """For each predicate that says something: counts, histogram, limits, nearest rows.

    Args:
        keep: bool [N].
        rows: `rows.jsonl`.
    """
    told = {name: predicate for name, predicate in predicates.items() if predicate.known.any()}
    near = {name: _nearest(predicate) for name, predicate in told.items()}
    wanted = {row for found in near.values() for row in found}
    openings = {
        number: (dialog.id, text_of(dialog)[:OPENING_CHARS])
        for number, dialog in enumerate(read_rows(rows, Dialog) if wanted else ())
        if number in wanted
    }
    return {
        name: {
            "side": predicate.side,
            "passed": int(predicate.passed.sum()),
            "failed": int((predicate.known & ~predicate.passed).sum()),
            "unknown": int((~predicate.known).sum()),
            **_limits(predicate),
            "histogram": _histogram(predicate, keep),
            "examples": [_example(predicate, row, keep, openings[row]) for row in near[name]],
        }
        for name, predicate in told.items()
    }


def _limits(predicate: Predicate) -> dict[str, Any]:
    """The commonest limit, and how many there are."""
    counts = Counter(np.round(predicate.limits[predicate.known], DIGITS).tolist())
    return {"limit": counts.most_common(1)[0][0], "limits": len(counts)}


def _histogram(predicate: Predicate, keep: np.ndarray) -> dict[str, Any]:
    """Rows by value and fate: kept, failed by this predicate, dropped for another reason."""
    values = predicate.values[predicate.known]
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    fates = {
        "kept": keep,
        "failed": ~keep & ~predicate.passed,
        "dropped": ~keep & predicate.passed,
    }
    counts = {fate: np.histogram(predicate.values[among & predicate.known], edges)[0].tolist() for fate, among in fates.items()}
    return {"edges": edges.round(DIGITS).tolist(), **counts}


def _nearest(predicate: Predicate) -> list[int]:
    """Rows next to the limit, failing ones first, nearest first; of equal distance the earlier."""
    distance = np.abs(predicate.values - predicate.limits)
    found: list[int] = []
    for among in (predicate.known & ~predicate.passed, predicate.passed):
        there = np.flatnonzero(among)
        found += there[np.argsort(distance[there], kind="stable")[:NEAREST]].tolist()
    return found


def _example(predicate: Predicate, row: int, keep: np.ndarray, shown: tuple[str, str]) -> dict[str, Any]:
    detail = predicate.details[row] if predicate.details is not None else ""
    return {
        "passes": bool(predicate.passed[row]),
        "kept": bool(keep[row]),
        "value": round(float(predicate.values[row]), DIGITS),
        "limit": round(float(predicate.limits[row]), DIGITS),
        "detail": detail,
        "id": shown[0],
        "opening": shown[1],
    }


def reasons(failed: Mapping[str, np.ndarray], rows: int) -> list[str]:
    """The first operand that leaves each row out, "" for a kept one."""
    names = np.array(["", *failed], dtype=object)
    first = np.zeros(rows, dtype=np.int64)
    for place, out in enumerate(failed.values(), 1):
        first[out & (first == 0)] = place
    return list(names[first])
