"""How the report opens: which run this is, and its headline numbers as tiles."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from puna.core.console import clock
from puna.core.stage import Artifact
from puna.report.page import table
from puna.report.sources import made_by, read_json

FINAL = ("post.rounds", "post.distil", "infer.quantize")  # stages whose model is a result of the run
Tile = tuple[str, str, str]  # value, what it is, its interval or n


def opening(artifacts: Sequence[Artifact], run: Mapping[str, str], seed: int) -> list[str]:
    """HTML blocks: the run's facts, a tile for each headline number, needles by length."""
    facts = "".join(f"<dt>{html.escape(what)}</dt><dd>{html.escape(value)}</dd>" for what, value in _facts(artifacts, run, seed))
    tiles = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(what)}</span><span>{html.escape(detail)}</span></div>"
        for value, what, detail in [*_curation(artifacts), *_accuracies(artifacts)]
    )
    return [f"<dl>{facts}</dl>", f"<div class='tiles'>{tiles}</div>" if tiles else "", *_needles(artifacts)]


def _facts(artifacts: Sequence[Artifact], run: Mapping[str, str], seed: int) -> list[tuple[str, str]]:
    facts = [(name.capitalize(), run[name]) for name in ("recipe",) if run.get(name)] + [("Seed", str(seed))]
    timed = [a.record for a in artifacts if a.record.get("finished_at") and a.record.get("wall_s") is not None]
    if timed:
        ends = [datetime.fromisoformat(record["finished_at"]) for record in timed]
        first = min(end - timedelta(seconds=record["wall_s"]) for end, record in zip(ends, timed, strict=True))
        last = max(ends)
        until = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
        work = clock(sum(record["wall_s"] for record in timed))
        facts += [("Made", f"{first:%Y-%m-%d %H:%M} to {until} UTC"), ("Duration", f"{work} of work in {len(timed)} stages")]
    return facts


def _curation(artifacts: Sequence[Artifact]) -> list[Tile]:
    tiles = []
    for artifact in made_by(artifacts, "data.curate"):
        steps = read_json(artifact, "funnel.json").get("steps", [])
        if steps and steps[0]["documents"]:
            kept, of = steps[-1]["documents"], steps[0]["documents"]
            tiles.append((f"{100 * kept / of:.1f} %", "of the pages kept by curation", f"{kept:,} of {of:,}"))
        faults = read_json(artifact, "planted.json")
        for measure in ("recall", "precision") if faults else ():
            worst = min(faults, key=lambda fault: faults[fault][measure])
            what = f"lowest {measure} on {len(faults)} planted faults"
            tiles.append((f"{faults[worst][measure]:.3f}", what, f"{worst.replace('_', ' ')}, n = {faults[worst]['planted']}"))
    return tiles


def _accuracies(artifacts: Sequence[Artifact]) -> list[Tile]:
    finals = {a.name for a in made_by(artifacts, *FINAL)}
    tiles = []
    for artifact in made_by(artifacts, "evals.scores"):
        for name, score in read_json(artifact, "scores.json").get("models", {}).items():
            overall: dict[str, Any] = score["overall"]
            if name in finals and overall["n"]:
                interval = f"{100 * overall['low']:.1f} to {100 * overall['high']:.1f}, n = {overall['n']:,}"
                tiles.append((f"{100 * overall['accuracy']:.1f} %", f"held-out accuracy of {name}", interval))
    return tiles


def _needles(artifacts: Sequence[Artifact]) -> list[str]:
    tables = []
    for artifact in made_by(artifacts, "evals.needle"):
        found = read_json(artifact, "needle.json")
        rows = [
            [name, *(f"{100 * rate['accuracy']:.0f}" if rate["n"] else "–" for rate in model["by_length"].values())]
            for name, model in found.get("models", {}).items()
        ]
        if rows:
            head = ["needle found by", *(f"{length} tokens" for length in found["lengths"])]
            tables.append(table(head, rows, "Percent of planted values named right, by length of the text."))
    return tables
