"""`funnel.json`: how many documents and characters are left after each step, in all and by source and language, with dropped
examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puna.core.store import write_json
from puna.data.decide import EXAMPLES
from puna.data.rules import STEPS

Row = dict[str, Any]  # documents, before and after (characters) by source, licence, lang, group and reason


def write_funnel(out: Path, counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write `funnel.json` and return the stage's summary.

    Args:
        counts: what `decide_shard` returned for every shard, in order.
    """
    rows: list[Row] = [row for count in counts for row in count["rows"]]
    dropped: Counter[str] = Counter()
    for row in rows:
        if row["reason"]:
            dropped[row["reason"]] += row["documents"]
    pages = sum(row["documents"] for row in rows)
    summary = {
        "pages": pages,
        "documents": pages - sum(dropped.values()),
        "characters": sum(row["after"] for row in rows),
        "dropped": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        "lines_removed": sum(count["lines_removed"] for count in counts),
        "redacted": dict(sorted(sum((Counter(count["pii"]) for count in counts), Counter()).items())),
        "sources": _kept_by("source", rows),
        "languages": _kept_by("lang", rows),
        "groups": _kept_by("group", rows),
    }
    funnel = {
        "steps": _steps(rows),
        "by_source": _table("source", rows),
        "by_language": _table("lang", rows),
        "examples": _examples(counts),
        **summary,
    }
    write_json(out / "funnel.json", funnel)
    return summary


def _steps(rows: list[Row]) -> list[dict[str, Any]]:
    documents, characters = (sum(row[name] for row in rows) for name in ("documents", "before"))
    steps = [{"step": "collected", "documents": documents, "characters": characters}]
    for step in STEPS:
        gone = [row for row in rows if row["reason"].partition(":")[0] == step]
        documents -= sum(row["documents"] for row in gone)
        characters -= sum(row["before"] for row in gone)
        steps.append({"step": step, "documents": documents, "characters": characters})
    # what is left differs from what is kept by frequent lines and redaction
    return [*steps, {"step": "lines and personal data", "documents": documents, "characters": sum(row["after"] for row in rows)}]


def _kept_by(column: str, rows: list[Row]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        count = found.setdefault(row[column], {"pages": 0, "kept": 0})
        count["pages"] += row["documents"]
        count["kept"] += 0 if row["reason"] else row["documents"]
    return dict(sorted(found.items()))


def _table(column: str, rows: list[Row]) -> dict[str, dict[str, int]]:
    """Documents by value of a column and by fate."""
    table: dict[str, Counter[str]] = {}
    for row in rows:
        table.setdefault(row[column], Counter())[row["reason"] or "kept"] += row["documents"]
    return {name: dict(sorted(table[name].items())) for name in sorted(table)}


def _examples(counts: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    examples: dict[str, list[dict[str, str]]] = {}
    for count in counts:
        for reason, rows in count["examples"].items():
            shown = examples.setdefault(reason, [])
            shown += rows[: EXAMPLES - len(shown)]
    return examples
