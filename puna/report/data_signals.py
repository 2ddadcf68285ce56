"""The report on quality signals: how each is distributed, where its limits stand, and which documents lie next to them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from puna.core.stage import Artifact
from puna.report import charts
from puna.report.page import Section, figure, table
from puna.report.sources import read_json

OPENED = 2  # histograms that are open when the page opens: of the limits that dropped most
SIDES = {"least": "at least", "most": "at most", "below": "below"}


def signal_histograms(section: Section, artifact: Artifact) -> None:
    """One folded histogram for every signal that has a limit, those that dropped most first."""
    everything = read_json(artifact, "histograms.json").get("signals", {})
    signals = {name: found for name, found in everything.items() if found["thresholds"]}
    if not signals:
        return
    section.heading("Signals and their limits")
    section.text("Documents by value and by what became of them; below each, the two next to every limit on either side.")
    dropped = {name: _total(found, "failed") for name, found in signals.items()}
    for place, name in enumerate(sorted(signals, key=lambda name: (-dropped[name], name))):
        found = signals[name]
        shown = name.replace("_", " ")
        caption = f"{shown}: documents by value and fate; dashed lines are limits."
        blocks = [figure(*charts.histograms(found["edges"], _rows(found), _lines(found), shown), caption), _examples(found)]
        note = f"{dropped[name]:,} dropped; {_limits(found['thresholds'])}"
        section.folded(shown, blocks, note=note, opened=place < OPENED and dropped[name] > 0)
    section.data[f"{artifact.name}.signals"] = {
        name: {"dropped": dropped[name], "thresholds": found["thresholds"]} for name, found in signals.items()
    }


def classifiers(section: Section, made: Sequence[Artifact]) -> None:
    """What every classifier is worth on held-out labels, and what each threshold would keep."""
    for artifact in made:
        held = read_json(artifact, "report.json").get("held_out", {})
        if not held.get("n"):
            continue
        section.heading(f"Classifier {artifact.name}")
        section.text(f"{held['n']:,} held-out labels: {_rate(held['accuracy'])} percent met.")
        rows = [
            [kind, f"{row['threshold']:g}", *(_rate(row[name]) for name in ("kept", "precision", "recall"))]
            for kind, thresholds in held["thresholds"].items()
            for row in thresholds
        ]
        head = ["class", "threshold", "kept, percent (95 %)", "precision (95 %)", "recall (95 %)"]
        section.folded("what each threshold keeps", [table(head, rows)])
        section.data[artifact.name] = {"held_out": held}


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return "–"
    low, high = (100 * bound for bound in rate["interval"])
    return f"{100 * rate['value']:.1f} ({low:.1f} to {high:.1f})"


def _total(found: Mapping[str, Any], fate: str) -> int:
    return sum(sum(fates[fate]) for fates in found["groups"].values())


def _rows(found: Mapping[str, Any]) -> dict[str, dict[str, Sequence[int]]]:
    names = (("kept", "kept"), ("dropped", "dropped for another reason"), ("failed", "dropped by this limit"))
    return {group: {shown: fates[fate] for fate, shown in names} for group, fates in sorted(found["groups"].items())}


def _lines(found: Mapping[str, Any]) -> dict[str, list[float]]:
    limits: dict[str, list[float]] = {}
    for row in found["thresholds"]:
        if row["value"] not in limits.setdefault(row["group"], []):
            limits[row["group"]].append(row["value"])
    return limits


def _limits(thresholds: Sequence[Mapping[str, Any]]) -> str:
    """Limits in words; groups with the same one are named together."""
    groups: dict[str, list[str]] = {}
    for row in thresholds:
        who = row["group"] if row["langs"] is None else f"{row['group']} in {', '.join(row['langs'])}"
        groups.setdefault(f"{SIDES[row['side']]} {row['value']:,g}", []).append(who)
    everyone = {row["group"] for row in thresholds}
    parts = [limit if everyone <= set(who) else f"{limit} ({', '.join(dict.fromkeys(who))})" for limit, who in groups.items()]
    return "; ".join(parts)


def _examples(found: Mapping[str, Any]) -> str:
    rows = sorted(found["examples"], key=lambda row: (row["limit"], row["rule"], row["fate"] != "kept"))
    head = "".join(
        f"<th scope='col'{' class=n' * (name == 'value')}>{name}</th>" for name in ("fate", "value", "limit", "document")
    )
    body = "".join(f"<tr>{_example(row)}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>" if rows else ""


def _example(row: Mapping[str, Any]) -> str:
    fate, colour = ("kept", "good") if row["fate"] == "kept" else ("dropped", "bad")
    document = f"{html.escape(row['url'] or row['id'])}<br><span class='dim'>{html.escape(row['opening'])}</span>"
    return (
        f"<td class='{colour}'>{fate}</td><td class='n'>{row['value']:,.4g}</td>"
        f"<td>{SIDES[row['side']]} {row['limit']:,g}</td><td class='text'>{document}</td>"
    )
