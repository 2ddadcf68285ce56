"""The report on quality selection (section 4.2.3 of the paper): funnel, limits and what lies next to them, reward and judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puna.core.stage import Artifact
from puna.post.quality.select import SELECTION
from puna.report import charts
from puna.report.page import Section, figure, table
from puna.report.sources import made_by, read_json

OPENED = 2  # histograms that are open when the page opens: of the predicates that fail most rows
SIDES = {"least": "at least", "most": "at most"}
FATES = (("kept", "kept"), ("dropped", "left out for another reason"), ("failed", "left out, and fails this"))


def quality_section(artifacts: Sequence[Artifact]) -> Section | None:
    """What every selection kept and why, with examples on both sides of each limit."""
    made = made_by(artifacts, "post.quality.select")
    if not made:
        return None
    section = Section("Quality selection", "4.2.3")
    section.text(
        "Every row keeps its predicates; which rows are learnt from is one expression over them. A predicate that says nothing "
        "of a row is left out of it."
    )
    for artifact in made:
        found = read_json(artifact, SELECTION)
        section.heading(artifact.name)
        section.text(f"Kept is what satisfies: {found['keep']}.")
        steps = found["funnel"]
        names, counts = [row["step"] for row in steps], [row["left"] for row in steps]
        section.figure(*charts.funnel(names, counts), f"{artifact.name}: rows that are left after each part of the expression.")
        _planted(section, found["planted"])
        _predicates(section, found["predicates"])
        _disagreement(section, found["disagreement"])
        _likeness(section, found["semantic"])
        section.data[artifact.name] = {key: value for key, value in found.items() if key != "predicates"}
    return section


def _planted(section: Section, planted: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        [name.replace("_", " "), _rate(row, "recall"), row["planted"], _rate(row, "precision"), row["found"]]
        for name, row in planted.items()
    ]
    if rows:
        caption = (
            "Against what was planted. `kept` is about good rows: how many of them are kept, and how many kept rows are good."
        )
        section.table(["planted", "recall, percent (95 %)", "of", "precision, percent (95 %)", "found"], rows, caption)


def _rate(row: Mapping[str, Any], key: str) -> str:
    low, high = (100 * bound for bound in row[f"{key}_interval"])
    return f"{100 * row[key]:.1f} ({low:.1f} to {high:.1f})"


def _predicates(section: Section, predicates: Mapping[str, Mapping[str, Any]]) -> None:
    """A folded histogram for each predicate, those that fail most rows first, and the rows next to its limit."""
    order = sorted(predicates, key=lambda name: (-predicates[name]["failed"], name))
    for place, name in enumerate(order):
        found = predicates[name]
        counts = found["histogram"]
        series = {name: {shown: counts[fate] for fate, shown in FATES}}
        caption = f"{name}: rows by value and by what became of them; the dashed line is the limit."
        if found["limits"] > 1:
            caption += f" {found['limits']} limits hold for different rows; the commonest is drawn."
        chart = figure(*charts.histograms(counts["edges"], series, {name: [found["limit"]]}, name), caption)
        note = f"{found['failed']:,} fail, {found['passed']:,} pass, {found['unknown']:,} unknown"
        section.folded(name, [chart, _examples(found)], note=note, opened=place < OPENED and found["failed"] > 0)


def _examples(found: Mapping[str, Any]) -> str:
    rows = []
    for row in sorted(found["examples"], key=lambda row: (row["passes"], row["value"])):
        fate = f"{'passes' if row['passes'] else 'fails'}, {'kept' if row['kept'] else 'left out'}"
        limit = f"{SIDES[found['side']]} {row['limit']:,g}"
        rows.append([fate, f"{row['value']:.4g}", limit, row["detail"], row["opening"]])
    return table(["fate", "value", "limit", "about", "begins"], rows) if rows else ""


def _disagreement(section: Section, found: Mapping[str, int]) -> None:
    total = sum(found.values())
    if total:
        rows = [
            ["reward high", found["both_high"], found["reward_only"]],
            ["reward not high", found["judge_only"], found["neither"]],
        ]
        caption = f"{total:,} rows that reward model and judge both say something of; either is enough to be kept."
        section.table(["", "judge high", "judge not high"], rows, caption)


def _likeness(section: Section, found: Mapping[str, int]) -> None:
    section.text(
        f"{found['compared']:,} rows were compared within {found['clusters']:,} clusters; of a sample of {found['sampled']:,} "
        f"kept rows {found['missed']:,} are still like another kept row, which clusters parted from it."
    )
