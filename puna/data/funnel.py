"""`funnel.json`: how many documents and characters are left after each step, in all and by source and language, with dropped
examples.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from puna.data.columns import read_shard_table, shard_paths

STEPS = (
    "empty",
    "url_duplicate",
    "spam",
    "language",
    "exact_duplicate",
    "near_duplicate",
    "quality",
)  # in the order of the rules
EXAMPLES = 5  # dropped documents shown per reason


def write_funnel(out: Path, facts: Any, counts: list[dict[str, Any]]) -> dict[str, Any]:
    """Write `funnel.json` and return the stage's summary.

    Args:
        out: the artifact's directory, with `dropped/` written.
        facts: `puna.data.annotate.Facts` of all documents.
        counts: what `decide_shard` returned for every shard.
    """
    reasons = [reason for count in counts for reason in count["reasons"]]
    before = [chars for count in counts for chars in count["before"]]
    after = sum(sum(count["after"]) for count in counts)
    dropped = Counter(reason for reason in reasons if reason)
    summary = {
        "pages": len(reasons),
        "documents": len(reasons) - sum(dropped.values()),
        "characters": after,
        "dropped": dict(dropped.most_common()),
        "lines_removed": sum(count["lines_removed"] for count in counts),
        "redacted": dict(sorted(sum((Counter(count["pii"]) for count in counts), Counter()).items())),
        "sources": _kept_by("source", facts.rows, reasons),
        "languages": _kept_by("lang", facts.rows, reasons),
        "groups": _kept_by("group", facts.rows, reasons),
    }
    funnel = {
        "steps": _steps(reasons, before, after),
        "by_source": _table("source", facts.rows, reasons),
        "by_language": _table("lang", facts.rows, reasons),
        "examples": _examples(out),
        **summary,
    }
    (out / "funnel.json").write_text(json.dumps(funnel, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    return summary


def _steps(reasons: list[str], before: list[int], after: int) -> list[dict[str, Any]]:
    documents, characters = len(reasons), sum(before)
    steps = [{"step": "collected", "documents": documents, "characters": characters}]
    for step in STEPS:
        gone = [index for index, reason in enumerate(reasons) if reason.partition(":")[0] == step]
        documents -= len(gone)
        characters -= sum(before[index] for index in gone)
        steps.append({"step": step, "documents": documents, "characters": characters})
    # what is left differs from what is kept by frequent lines and redaction
    return [*steps, {"step": "lines and personal data", "documents": documents, "characters": after}]


def _kept_by(column: str, rows: list[dict[str, Any]], reasons: list[str]) -> dict[str, dict[str, int]]:
    pages = Counter(row[column] for row in rows)
    kept = Counter(row[column] for row, reason in zip(rows, reasons, strict=True) if not reason)
    return {name: {"pages": pages[name], "kept": kept[name]} for name in sorted(pages)}


def _table(column: str, rows: list[dict[str, Any]], reasons: list[str]) -> dict[str, dict[str, int]]:
    """Documents by value of a column and by fate."""
    table: dict[str, Counter[str]] = {}
    for row, reason in zip(rows, reasons, strict=True):
        table.setdefault(row[column], Counter())[reason or "kept"] += 1
    return {name: dict(sorted(table[name].items())) for name in sorted(table)}


def _examples(out: Path) -> dict[str, list[dict[str, str]]]:
    examples: dict[str, list[dict[str, str]]] = {}
    for path in shard_paths(out / "dropped"):
        for row in read_shard_table(path, ["id", "url", "reason", "opening"]):
            shown = examples.setdefault(row["reason"], [])
            if len(shown) < EXAMPLES:
                shown.append({"id": row["id"], "url": row["url"], "opening": row["opening"]})
    return examples
