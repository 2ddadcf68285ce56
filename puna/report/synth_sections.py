"""The report on synthetic data (sections 4.2.2 and 4.3): what each generator accepted and refused, why, and at what cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from puna.core.stage import Artifact
from puna.report.page import Section
from puna.report.sources import json_lines, made_by, percent

SHOWN = 1500  # characters of a message in an example


def synth_section(artifacts: Sequence[Artifact]) -> Section | None:
    """Acceptance by generator with intervals, reasons, cost, one accepted and one refused example each."""
    found = made_by(artifacts, "post.synthesise")
    if not found:
        return None
    section = Section("Synthetic data", "4.3")
    for artifact in found:
        summary = artifact.summary()
        section.data[artifact.name] = summary
        _rates(section, artifact.name, summary["generators"])
        _reasons(section, summary["generators"])
        section.text(_cost(summary))
        for name in summary["generators"]:
            section.listing(f"examples of {name}", list(_examples(artifact, name)))
    return section


def _rates(section: Section, of: str, generators: dict[str, Any]) -> None:
    rows = [
        [name, one["items"], percent(one["accepted_share"]), one["dialogs"], one["questions"], one["programs"],
         one["tokens_read"] + one["tokens_written"]]
        for name, one in generators.items()
    ]  # fmt: skip
    header = ["generator", "items", "accepted, percent (95 %)", "dialogs", "questions", "programs run", "tokens"]
    section.table(header, rows, f"{of}: only rows that their generator's checker passed are kept.")


def _reasons(section: Section, generators: dict[str, Any]) -> None:
    rows = [
        [name, reason, count, f"{100 * count / one['items']:.1f}"]
        for name, one in generators.items()
        for reason, count in sorted(one["reasons"].items(), key=lambda pair: -pair[1])
    ]
    if rows:
        section.table(["generator", "refused for", "items", "percent"], rows)


def _cost(summary: dict[str, Any]) -> str:
    """Who was asked, and what that took."""
    usage = summary["usage"]
    parts = [f"{who} {summary[who]}: {one['tokens_read']:,} tokens read and {one['tokens_written']:,} written"
             for who, one in usage.items() if one["tokens_read"] or one["tokens_written"]]  # fmt: skip
    cost = sum(one["cost"] for one in usage.values())
    return ("; ".join(parts) or "Nothing was asked") + (
        f", for {cost:.2f} in the currency of the recipe's prices." if cost else "."
    )


def _examples(artifact: Artifact, generator: str) -> Iterator[str]:
    accepted = (row for row in json_lines(artifact, "accepted.jsonl") if row["provenance"]["checks"]["generator"] == generator)
    for row in _first(accepted):
        said = "\n\n".join(f"{m['role']}: {m['content'][:SHOWN]}{m['tool_calls'] or ''}" for m in row["messages"])
        yield f"accepted\n\n{said}"
    rejected = (row for row in json_lines(artifact, "rejected.jsonl") if row["generator"] == generator and row["last"])
    for row in _first(rejected):
        yield f"refused: {row['reason']}\n\nasked: {row['last']['question']}\n\nanswered: {row['last']['answer']}"


def _first(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return next(([row] for row in rows), [])
