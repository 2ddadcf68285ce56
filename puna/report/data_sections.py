"""The report on sections 3.1 and 3.2 of the paper: what was collected, what was kept and why, the tokenizer and the mix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from puna.core.stage import Artifact
from puna.report import charts
from puna.report.page import Section
from puna.report.sources import made_by, number, read_json

SHOWN_EXAMPLES = 3  # dropped documents shown per reason


def data_section(artifacts: Sequence[Artifact]) -> Section | None:
    """Curation: the funnel, what was dropped with examples, planted faults found."""
    curated = made_by(artifacts, "data.curate")
    if not curated:
        return None
    section = Section("Data", "3.1")
    for artifact in curated:
        funnel = read_json(artifact, "funnel.json")
        steps = funnel.get("steps", [])
        section.data[artifact.name] = {"steps": steps, "dropped": funnel.get("dropped", {})}
        if steps:
            first, last = steps[0], steps[-1]
            section.text(
                f"{first['documents']:,} pages were collected and {last['documents']:,} kept ({last['characters']:,} characters)."
            )
            section.figure(
                *charts.funnel([s["step"] for s in steps], [s["documents"] for s in steps]), "Documents left after each step."
            )
        _sources(section, funnel)
        _planted(section, artifact)
        for reason, rows in sorted(funnel.get("examples", {}).items()):
            shown = [f"{row['url']}\n{row['opening']}" for row in rows[:SHOWN_EXAMPLES]]
            section.listing(f"dropped: {reason} ({funnel['dropped'].get(reason, 0)})", shown)
    return section


def _sources(section: Section, funnel: dict[str, Any]) -> None:
    for title, key in (("source", "sources"), ("language", "languages")):
        rows = [[name, count["pages"], count["kept"]] for name, count in funnel.get(key, {}).items()]
        if rows:
            section.table([title, "pages", "kept"], rows)


def _planted(section: Section, artifact: Artifact) -> None:
    planted = read_json(artifact, "planted.json")
    section.data[f"{artifact.name}.planted"] = planted
    rows = [
        [fault.replace("_", " "), score["planted"], _share(score, "recall"), score["found"], _share(score, "precision")]
        for fault, score in sorted(planted.items())
    ]
    if rows:
        section.table(
            ["planted fault", "planted", "recall (95 %)", "removed", "precision (95 %)"], rows,
            "The generated pages carry faults whose truth is known, so curation can be measured.",
        )  # fmt: skip


def _share(score: dict[str, Any], name: str) -> str:
    low, high = score[f"{name}_interval"]
    return f"{score[name]:.3f} ({low:.3f} to {high:.3f})"


def token_section(artifacts: Sequence[Artifact]) -> Section | None:
    """Tokenizer and mix."""
    tokenizers, shards = made_by(artifacts, "tokenizer.train"), made_by(artifacts, "data.shards")
    if not tokenizers and not shards:
        return None
    section = Section("Tokenizer and mix", "3.1.2, 3.2")
    for artifact in tokenizers:
        summary = artifact.summary()
        section.data[artifact.name] = summary
        section.text(
            f"{summary['vocab_size']:,} tokens: {summary['base_size']:,} from byte-pair encoding with the Llama 3 split pattern, "
            f"256 special slots; trained on {summary['documents']:,} documents."
        )
        rows = [[group, number(value, 2)] for group, value in summary.get("compression", {}).items() if isinstance(value, float)]
        if rows:
            section.table(["group", "characters per token"], rows)
    for artifact in shards:
        record = read_json(artifact, "mix.json")
        section.data[artifact.name] = record
        mix, anneal = record.get("mix", {}), record.get("anneal_mix", {})
        labels = sorted(mix)
        section.figure(
            *charts.grouped_bars(
                labels,
                {"pre-training": [mix[k] for k in labels], "annealing": [anneal.get(k, 0) for k in labels]},
                "share of tokens",
            ),
            "Weights of the two mixes.",
        )
    return section
