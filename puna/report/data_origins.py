"""The report on where documents come from and what curating them took: sources, languages, domains, copies, redaction, time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from puna.core.stage import Artifact
from puna.report import charts
from puna.report.page import Section, table
from puna.report.sources import made_by, number, read_json

SHOWN_ROWS = 20  # languages or sources in a table before the rest is folded
SHOWN_DOMAINS = 15
SHOWN_CLUSTERS = 10
SHOWN_UNREADABLE = 20


def by_origin(section: Section, funnel: Mapping[str, Any], artifact: Artifact) -> None:
    """What became of the pages of each source and language, step by step."""
    for title, key in (("source", "by_source"), ("language", "by_language")):
        counts = {name: _by_step(fates) for name, fates in funnel.get(key, {}).items()}
        if not counts:
            continue
        section.heading(f"By {title}")
        names = sorted(counts, key=lambda name: (-sum(counts[name].values()), name))
        steps = list(dict.fromkeys(["kept", *(s["step"] for s in funnel["steps"])]))
        used = [step for step in steps if any(counts[name].get(step) for name in names)]
        if len(names) > 1:
            parts = {step.replace("_", " "): [counts[name].get(step, 0) for name in names[:SHOWN_ROWS]] for step in used}
            section.figure(*charts.stacked_bars(names[:SHOWN_ROWS], parts, "pages"), f"Fate of the pages by {title}.")
        head = [title, "pages", *(step.replace("_", " ") for step in used), "kept, percent"]
        rows = [_origin_row(name, counts[name], used) for name in names]
        section.table(head, rows[:SHOWN_ROWS])
        if len(rows) > SHOWN_ROWS:
            section.folded(f"{len(rows) - SHOWN_ROWS} more", [table(head, rows[SHOWN_ROWS:])])
        section.data[f"{artifact.name}.{key}"] = counts


def _by_step(fates: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for reason, count in fates.items():
        step = reason.partition(":")[0]
        found[step] = found.get(step, 0) + count
    return found


def _origin_row(name: str, counts: Mapping[str, int], steps: Sequence[str]) -> list[Any]:
    pages = sum(counts.values())
    return [name, pages, *(counts.get(step, 0) for step in steps), f"{100 * counts.get('kept', 0) / max(pages, 1):.1f}"]


def unreadable(section: Section, pages: Artifact) -> None:
    """How many rows no reader could read, and the first of them: file, offset or line, reason."""
    path = pages.path / "bad_rows.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    section.data[f"{pages.name}.bad_rows"] = len(lines)
    if not lines:
        return
    section.heading("What could not be read")
    section.text(f"{len(lines):,} rows or files of the sources could not be read.")
    shown = [json.loads(line) for line in lines[:SHOWN_UNREADABLE]]
    rows = [[row["source"], row["file"], row["position"], row["reason"]] for row in shown]
    left = len(lines) - len(rows)
    caption = f"{left:,} more are in bad_rows.jsonl of {pages.name}." if left else ""
    section.table(["source", "file", "place", "reason"], rows, caption)


def domains(section: Section, artifact: Artifact) -> None:
    """The hosts that most kept, and most dropped, pages come from."""
    found = read_json(artifact, "domains.json")
    if not found:
        return
    section.heading("Domains")
    section.text(f"{found['hosts']:,} hosts gave pages.")
    head = ["domain", "pages", "kept", "dropped"]
    for title, key in (("most kept", "in"), ("most dropped", "out")):
        rows = [[row["domain"], row["pages"], row["kept"], row["pages"] - row["kept"]] for row in found[key][:SHOWN_DOMAINS]]
        if rows:
            section.folded(title, [table(head, rows)], opened=key == "in")
    section.data[f"{artifact.name}.domains"] = found


def clusters(section: Section, duplicates: Artifact, facts: Artifact | None) -> None:
    """How many copies there were of how many documents, and the largest clusters with their addresses."""
    found = duplicates.summary().get("clusters", {})
    if not found:
        return
    section.heading("Duplicates")
    rows = [
        [kind.replace("_", " "), entry["clusters"], entry["dropped"], max(map(int, entry["by_size"]), default=0)]
        for kind, entry in found.items()
    ]
    section.table(["kind", "clusters", "copies dropped", "largest cluster"], rows)
    sizes = sorted({int(size) for entry in found.values() for size in entry["by_size"]})
    if len(sizes) > 1:
        counts = {kind.replace("_", " "): [entry["by_size"].get(str(s), 0) for s in sizes] for kind, entry in found.items()}
        section.figure(*charts.grouped_bars([str(s) for s in sizes], counts, "clusters"), "Clusters by their documents.")
    if facts is not None:
        section.folded(f"the {SHOWN_CLUSTERS} largest of each kind", [_largest(duplicates, facts)])
    section.data[duplicates.name] = found


def _largest(duplicates: Artifact, facts: Artifact) -> str:
    from puna.data.columns import read_shard_table
    from puna.data.explain import addresses

    listed = read_shard_table(duplicates.path / "clusters.parquet")
    kinds = dict.fromkeys(row["kind"] for row in listed)
    largest = [row for kind in kinds for row in [row for row in listed if row["kind"] == kind][:SHOWN_CLUSTERS]]
    urls = addresses(facts.path, [row["head"] for row in largest])
    rows = [[row["kind"].replace("_", " "), row["size"], url or row["head"]] for row, url in zip(largest, urls, strict=True)]
    return table(["kind", "documents", "the one that stayed"], rows)


def personal_data(section: Section, funnel: Mapping[str, Any]) -> None:
    """How much personal data of each kind was redacted in kept documents, and how many frequent lines went."""
    redacted = {kind: count for kind, count in funnel.get("redacted", {}).items() if count}
    section.heading("Lines and personal data")
    section.text(f"{funnel.get('lines_removed', 0):,} frequent lines were removed from kept documents.")
    if redacted:
        section.table(["personal data redacted", "places"], [[kind.replace("_", " "), count] for kind, count in redacted.items()])


def cost(section: Section, stages: Sequence[Artifact], pages: int) -> None:
    """Seconds and throughput of every part; times are of this run alone and no part of the report's digest."""
    size = sum(_content_bytes(artifact) for artifact in made_by(stages, "data.collect"))
    rows = []
    for artifact in stages:
        wall, cpu = artifact.record.get("wall_s"), artifact.record.get("cpu_s")
        if wall:
            speed = [number(pages / wall, 0), number(size / 1e6 / wall, 2) if size else "–"]
            rows.append([artifact.name, number(wall, 1), number(cpu, 1), artifact.record.get("peak_rss_mb", "–"), *speed])
    if rows:
        section.heading("Cost")
        head = ["stage", "seconds", "CPU seconds", "peak MB", "pages per second", "MB of pages per second"]
        section.table(head, rows, "Times of this run, start and loading included; MB are those of the pages as collected.")


def _content_bytes(pages: Artifact) -> int:
    """Bytes of the pages as they were collected, from the footers of their shards."""
    import pyarrow.parquet as pq

    total = 0
    for path in sorted((pages.path / "shards").glob("*.parquet")):
        footer = pq.read_metadata(path)
        column = footer.schema.names.index("content")
        total += sum(footer.row_group(i).column(column).total_uncompressed_size for i in range(footer.num_row_groups))
    return total
