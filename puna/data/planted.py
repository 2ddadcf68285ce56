"""Scores curation against planted faults: recall and precision per kind, with their counts and Wilson intervals
(`planted.json`).

A pair of duplicates counts as found when not both of it were kept. Personal data and frequent lines are counted one by one,
in kept documents only, so that dropping a document earns nothing. Precision asks whether what was dropped (or removed) had
been planted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from puna.core.intervals import wilson
from puna.data.columns import read_shard_table, shard_paths
from puna.data.pii import KINDS

COPIES = ("near_duplicate", "exact_duplicate", "url_duplicate")


def score_planted(truth_path: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Score the decisions under `out` against `truth_path`; writes `planted.json` and returns it.

    Returns:
        By fault: recall, recall_interval, planted, precision, precision_interval, found.
    """
    truth = {row["id"]: row | {"detail": json.loads(row["detail"])} for row in read_shard_table(truth_path)}
    reasons = {row["id"]: row["reason"] for row in _rows(out / "dropped", ["id", "reason"]) if row["id"] in truth}
    texts = {row["id"]: row["text"] for row in _rows(out / "documents", ["id", "text"]) if row["id"] in truth}
    wanted = ["id", "lines_removed", *(f"pii_{kind}" for kind in KINDS)]
    notes = {row["id"]: row for row in _rows(out / "annotations", wanted) if row["id"] in truth}
    scores = {fault: _copies(fault, truth, reasons) for fault in COPIES}
    scores["spam"] = _pages("spam", "spam", truth, reasons)
    scores["wrong_language"] = _pages("wrong_language", "language", truth, reasons)
    scores["pii"] = _strings(
        "pii",
        [(kept, [text for _, text in kept["detail"]["strings"]], texts[kept["id"]]) for kept in _kept("pii", truth, texts)],
        sum(row[f"pii_{kind}"] for row in notes.values() for kind in KINDS),
        notes,
    )
    scores["boilerplate"] = _strings(
        "boilerplate",
        [(kept, kept["detail"]["lines"], texts[kept["id"]]) for kept in _kept("boilerplate", truth, texts)],
        sum(row["lines_removed"] for row in notes.values()),
        notes,
    )
    scores = {fault: score for fault, score in scores.items() if score["planted"]}
    (out / "planted.json").write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n")
    return scores


def _rows(directory: Path, columns: list[str]) -> Iterable[dict[str, Any]]:
    for path in shard_paths(directory):
        yield from read_shard_table(path, columns)


def _kept(fault: str, truth: dict[str, dict[str, Any]], texts: dict[str, str]) -> list[dict[str, Any]]:
    return [row for row in truth.values() if row["fault"] == fault and row["id"] in texts]


def _copies(fault: str, truth: dict[str, dict[str, Any]], reasons: dict[str, str]) -> dict[str, Any]:
    pairs = [(row["id"], row["detail"]["of"]) for row in truth.values() if row["fault"] == fault]
    members = {name for row in truth.values() if row["fault"] in COPIES for name in (row["id"], row["detail"]["of"])}
    found = [name for name, reason in reasons.items() if reason == fault]
    return rates(
        sum(copy in reasons or original in reasons for copy, original in pairs),
        len(pairs),
        sum(name in members for name in found),
        len(found),
    )


def _pages(fault: str, reason: str, truth: dict[str, dict[str, Any]], reasons: dict[str, str]) -> dict[str, Any]:
    planted = [row["id"] for row in truth.values() if row["fault"] == fault]
    found = [name for name, given in reasons.items() if given.partition(":")[0] == reason]
    return rates(
        sum(name in reasons for name in planted), len(planted), sum(truth[name]["fault"] == fault for name in found), len(found)
    )


def _strings(
    fault: str, planted: list[tuple[dict[str, Any], list[str], str]], removed: int, notes: dict[str, Any]
) -> dict[str, Any]:
    """Planted strings of kept documents that are gone, and how many of all removals they are."""
    gone = sum(string not in text for _, strings, text in planted for string in strings)
    return rates(gone, sum(len(strings) for _, strings, _ in planted), min(gone, removed), removed)


def rates(hits: int, planted: int, right: int, found: int) -> dict[str, Any]:
    """Recall of what was planted and precision of what was found, with their Wilson intervals and counts."""
    return {
        "recall": hits / planted if planted else 1.0,
        "recall_interval": list(wilson(hits, planted)),
        "planted": planted,
        "precision": right / found if found else 1.0,
        "precision_interval": list(wilson(right, found)),
        "found": found,
    }
