"""The report on section 3.4 of the paper: loss curves, annealing, long context with its needle map, perplexity per source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from puna.core.stage import Artifact
from puna.report import charts
from puna.report.page import Section
from puna.report.sources import curve, made_by, metrics, number, read_json

BASE_TRAINING = ("train.pretrain", "train.long_context", "train.anneal")
SHOWN_SAMPLES = 12


def training_section(artifacts: Sequence[Artifact]) -> Section | None:
    """Pre-training, context extension and annealing of every model."""
    models = made_by(artifacts, *BASE_TRAINING)
    if not models:
        return None
    section = Section("Pre-training", "3.4")
    axis = "steps since the model's first"
    section.figure(
        *charts.lines(one_after_the_other(models, "loss"), axis, "loss (nats per token)"),
        "Training loss; a stage goes on where the one it starts from ended.",
    )
    section.figure(
        *charts.lines(one_after_the_other(models, "held_loss"), axis, "held-out loss (nats per token)"),
        "Loss on held-out documents.",
    )
    summaries = {m.name: m.summary() for m in models}
    section.data = summaries
    keys = ("parameters", "steps", "tokens", "loss")
    rows = [[name, *(number(s.get(key)) for key in keys), number(_held(s))] for name, s in summaries.items()]
    section.table(["model", "parameters", "steps", "tokens", "last loss", "held-out loss"], rows)
    for model in made_by(artifacts, "train.anneal"):
        summary = model.summary()
        section.text(f"{model.name}: {_average_text(summary)}")
    samples = [
        f"{m.name}, step {row['step']}: {row.get('prompt', '')}{row['sample']}"
        for m in models
        for row in metrics(m)
        if "sample" in row
    ]
    if samples:
        section.listing("what the models wrote while they trained", samples[-SHOWN_SAMPLES:])
    return section


def one_after_the_other(models: Sequence[Artifact], key: str) -> dict[str, tuple[list[float], list[float]]]:
    """Curves of one metric by stage, each moved by the steps of the stages it starts from; stages without it are left out."""
    ends: dict[str, float] = {}
    curves = {}
    for model in models:
        before = max((ends.get(entry["digest"], 0.0) for entry in model.record.get("inputs", [])), default=0.0)
        rows = metrics(model)
        ends[model.digest] = before + max((row.get("step", 0) for row in rows), default=0)
        steps, values = curve(rows, key)
        if steps:
            curves[model.name] = ([before + step for step in steps], values)
    return curves


def _held(summary: dict[str, Any]) -> float | None:
    return summary.get("held_loss", summary.get("short_loss_after"))


def _average_text(summary: dict[str, Any]) -> str:
    losses = summary.get("held_loss_of")
    if not losses or losses.get("average") is None or losses.get("last") is None:
        return "the weights after the last step were written."
    gain = losses["last"] - losses["average"]
    verdict = (
        "the Polyak average was better and was written"
        if summary.get("written") == "average"
        else "averaging did not help; the last weights were written"
    )
    return (
        f"held-out loss {losses['last']:.4f} after the last step, {losses['average']:.4f} for the average of its checkpoints "
        f"({gain:+.4f}): {verdict}."
    )


def context_section(artifacts: Sequence[Artifact]) -> Section | None:
    """Needle maps before and after context extension, and perplexity per source."""
    needles, perplexities = made_by(artifacts, "evals.needle"), made_by(artifacts, "evals.perplexity")
    if not needles and not perplexities:
        return None
    section = Section("Long context", "3.4.2")
    for artifact in needles:
        found = read_json(artifact, "needle.json")
        section.data[artifact.name] = found
        explained = (
            f"Needle in a haystack: share of planted values named right; picking one of the listed values finds "
            f"{100 * found['chance']:.0f} %. A model can stay below that, for its first choice is taken from the whole "
            "vocabulary: one that has not learnt to look anything up names none of the listed values. "
            "Depth 0 is the beginning of the text."
        )
        if artifact is needles[0]:
            section.text(explained)
        for name, model in found["models"].items():
            section.figure(*_map(found, model), f"Needle map of {name}, trained to {model['max_seq_len']} tokens.")
    for artifact in perplexities:
        _perplexity(section, artifact)
    return section


def _map(found: dict[str, Any], model: dict[str, Any]) -> charts.Chart:
    lengths, depths = [str(n) for n in found["lengths"]], [str(d) for d in found["depths"]]
    values = [[cells[row]["accuracy"] for cells in model["cells"]] for row in range(len(depths))]
    return charts.heat_map(depths, lengths, values)


def _perplexity(section: Section, artifact: Artifact) -> None:
    found = read_json(artifact, "perplexity.json")
    section.data[artifact.name] = found
    groups = sorted({group for by_group in found["models"].values() for group in by_group})
    rows = [
        [name, *(number(by_group[g]["bits_per_byte"], 3) if g in by_group else "–" for g in groups)]
        for name, by_group in found["models"].items()
    ]
    if groups:
        section.table(["model", *groups], rows, "Bits per byte on held-out documents of each group.")
