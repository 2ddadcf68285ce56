"""The report on sections 3.1 and 3.2 of the paper: what was collected, what was kept and why, the tokenizer and the mix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from puna.core.stage import Artifact
from puna.report import charts, data_origins, data_signals
from puna.report.page import Section
from puna.report.sources import made_by, number, read_json

SHOWN_EXAMPLES = 3  # dropped documents shown per reason


def data_section(artifacts: Sequence[Artifact]) -> Section | None:
    """Curation: the funnel, what was dropped with examples, signals and their limits, copies, domains, cost, planted faults."""
    curated = made_by(artifacts, "data.curate")
    if not curated:
        return None
    section = Section("Data", "3.1")
    for artifact in curated:
        _curation(section, artifact, artifacts)
    return section


def _curation(section: Section, artifact: Artifact, artifacts: Sequence[Artifact]) -> None:
    funnel = read_json(artifact, "funnel.json")
    steps = funnel.get("steps", [])
    section.data[artifact.name] = {key: funnel.get(key, {}) for key in ("steps", "dropped", "redacted", "lines_removed")}
    if steps:
        first, last = steps[0], steps[-1]
        section.text(
            f"{first['documents']:,} pages were collected and {last['documents']:,} kept ({last['characters']:,} characters)."
        )
        names, counts, idle = funnel_steps(steps)
        caption = f"Steps that dropped no document: {', '.join(idle)}." if idle else ""
        section.figure(*charts.funnel(names, counts), f"Documents left after each step. {caption}".strip())
    _planted(section, artifact)
    data_origins.by_origin(section, funnel, artifact)
    parts = _parts(artifact, artifacts)
    for pages in made_by(parts, "data.collect"):
        data_origins.unreadable(section, pages)
    section.heading("What was dropped")
    for reason, rows in sorted(funnel.get("examples", {}).items(), key=lambda item: -funnel["dropped"].get(item[0], 0)):
        shown = [f"{row['url']}\n{row['opening']}" for row in rows[:SHOWN_EXAMPLES]]
        section.listing(f"{reason.replace('_', ' ')} ({funnel['dropped'].get(reason, 0):,})", shown)
    data_signals.signal_histograms(section, artifact)
    data_signals.classifiers(section, made_by(artifacts, "data.classify"))
    facts = next((part for part in parts if part.kind == "facts"), None)
    for duplicates in (part for part in parts if part.kind == "duplicates"):
        data_origins.clusters(section, duplicates, facts)
    data_origins.domains(section, artifact)
    data_origins.personal_data(section, funnel)
    data_origins.cost(section, [*parts, artifact], steps[0]["documents"] if steps else 0)


def funnel_steps(steps: Sequence[dict[str, Any]]) -> tuple[list[str], list[int], list[str]]:
    """Labels and documents of the steps that dropped any, the first included, and the names of those that did not."""
    names, counts, idle = [steps[0]["step"].replace("_", " ")], [steps[0]["documents"]], []
    for step in steps[1:]:
        name = step["step"].replace("_", " ")
        if step["documents"] == counts[-1]:
            idle.append(name)
        else:
            names.append(f"left after {name}")
            counts.append(step["documents"])
    return names, counts, idle


def _parts(artifact: Artifact, artifacts: Sequence[Artifact]) -> list[Artifact]:
    """The artifacts that one curation was made of, in the run's order."""
    digests = {row["digest"] for row in artifact.record.get("inputs", [])}
    return [part for part in artifacts if part.digest in digests]


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
