"""A run as one HTML file, laid out like the paper: data, training, context, rounds, student, FP8, scores.

It reads what the stages left and computes nothing but words from intervals. `report.json` holds every number shown and is part of
the artifact's digest; the page itself shows times as well and lies under `volatile/`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from puna.core.settings import Settings as BaseSettings
from puna.core.stage import VOLATILE, Artifact, StageContext
from puna.report import (
    data_sections,
    post_sections,
    quality_sections,
    seed_sections,
    sight_sections,
    sound_sections,
    synth_sections,
    training_sections,
)
from puna.report.claims import collect_claims, sentence
from puna.report.opening import FINAL, opening
from puna.report.page import Section, page
from puna.report.sources import made_by, percent, read_json

KIND = "report"
REVISION = 3
FEW_ITEMS = 1000  # below this many held-out items a paired test cannot show a few points


class Settings(BaseSettings):
    """`title` of the page, which stands under the run's name."""

    title: str = "A herd raised by Puna"


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `report.json` and `volatile/report.html` from every artifact among the inputs."""
    artifacts = ctx.inputs.artifacts
    claims = collect_claims(artifacts)
    sections = [s for s in _sections(artifacts, claims) if s is not None]
    report: dict[str, Any] = {
        "title": settings.title,
        "headlines": headlines(artifacts),
        "claims": claims,
        "limits": limits(artifacts),
        "sections": {section.title: section.data for section in sections},
    }
    (ctx.out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    (ctx.out / VOLATILE).mkdir(exist_ok=True)
    whole = [_verdicts(report), *sections, _making(artifacts)]
    name = ctx.run.get("name")
    title, subtitle = (name, settings.title) if name else (settings.title, "")
    text = page(title, subtitle, opening(artifacts, ctx.run, ctx.seed), whole)
    (ctx.out / VOLATILE / "report.html").write_text(text, encoding="utf-8")
    return {"sections": [s.title for s in sections], "claims": {c["name"]: c["verdict"] for c in claims}}


def headlines(artifacts: Sequence[Artifact]) -> list[dict[str, str]]:
    """The few numbers a reader wants first."""
    rows = []
    for artifact in made_by(artifacts, "data.curate"):
        steps = read_json(artifact, "funnel.json").get("steps", [])
        if steps:
            rows.append({"what": "pages kept by curation", "value": f"{steps[-1]['documents']:,} of {steps[0]['documents']:,}"})
    for artifact in made_by(artifacts, "data.curate"):
        for fault, score in sorted(read_json(artifact, "planted.json").items()):
            value = f"recall {score['recall']:.3f}, precision {score['precision']:.3f} (n = {score['planted']})"
            rows.append({"what": f"planted {fault.replace('_', ' ')}", "value": value})
    finals = {a.name for a in made_by(artifacts, *FINAL)}
    for artifact in made_by(artifacts, "evals.scores"):
        for name, score in read_json(artifact, "scores.json").get("models", {}).items():
            if name in finals:
                rows.append(
                    {
                        "what": f"held-out accuracy of {name}, percent",
                        "value": f"{percent(score['overall'])}, n = {score['overall']['n']}",
                    }
                )
    for artifact in made_by(artifacts, "evals.needle"):
        for name, model in read_json(artifact, "needle.json").get("models", {}).items():
            found = ", ".join(
                f"{length}: {100 * rate['accuracy']:.0f}" for length, rate in model["by_length"].items() if rate["n"]
            )
            rows.append({"what": f"needle found by {name}, percent at length", "value": found})
    return rows


def limits(artifacts: Sequence[Artifact]) -> list[str]:
    """What this run could not learn or could not measure, in words."""
    found = []
    for artifact in made_by(artifacts, "data.shards"):
        tokens = sum(v for v in _tokens_by_group(artifact).values())
        parameters = max((a.summary().get("parameters", 0) for a in made_by(artifacts, "train.pretrain")), default=0)
        if parameters and tokens < 20 * parameters:
            found.append(
                f"{artifact.name} holds {tokens:,} training tokens, {tokens / parameters:.1f} per parameter of the largest "
                "model; about 20 would be compute-optimal, so the models repeat data or stay short of what they could learn."
            )
    for artifact in made_by(artifacts, "evals.scores"):
        sizes = [m["overall"]["n"] for m in read_json(artifact, "scores.json").get("models", {}).values()]
        if not sizes or not max(sizes):
            found.append("No held-out task has a verifier: nothing is claimed about accuracy.")
        elif max(sizes) < FEW_ITEMS:
            found.append(f"Only {max(sizes)} held-out tasks: differences of a few points cannot be shown.")
        best = max(
            (m["overall"]["high"] for m in read_json(artifact, "scores.json").get("models", {}).values() if m["overall"]["n"]),
            default=None,
        )
        if best is not None and best < 0.05:
            found.append(
                "No model answers one task in twenty: the post-training stages ran, and had next to nothing to learn from."
            )
    for artifact in artifacts:
        skipped = artifact.summary().get("skipped")
        if skipped and isinstance(skipped, str):
            found.append(f"{artifact.name} was skipped: {skipped}.")
    return found


def _tokens_by_group(artifact: Artifact) -> dict[str, int]:
    groups = read_json(artifact, "mix.json").get("groups", {})
    return {name: int(group["train_tokens"]) for name, group in groups.items()}


def _sections(artifacts: Sequence[Artifact], claims: Sequence[dict[str, Any]]) -> list[Section | None]:
    return [
        data_sections.data_section(artifacts),
        data_sections.token_section(artifacts),
        training_sections.training_section(artifacts),
        training_sections.context_section(artifacts),
        seed_sections.seeds_section(artifacts, claims),
        post_sections.rounds_section(artifacts, claims),
        post_sections.distil_section(artifacts, claims),
        synth_sections.synth_section(artifacts),
        quality_sections.quality_section(artifacts),
        post_sections.fp8_section(artifacts, claims),
        post_sections.scores_section(artifacts),
        sight_sections.sight_section(artifacts, claims),
        sound_sections.sound_section(artifacts, claims),
        sound_sections.voice_section(artifacts),
    ]


def _verdicts(report: dict[str, Any]) -> Section:
    """What helped, what did not, and what this run could not show."""
    section = Section("What helped and what did not", "5.1")
    section.text(
        "Every line is a paired test on the same held-out items, named in the recipe before the run, or what a gate did where it "
        "refused a result; reward models are tested on held-out prompts. Where several base models are named, intervals are over "
        "items and models together. The tests are not corrected for their number: one in twenty may show a difference by chance."
    )
    for claim in report["claims"]:
        colour = {"helped": "good", "hurt": "bad"}.get(claim["verdict"], "quiet")
        section.blocks.append(f"<p class='{colour}'>{html.escape(sentence(claim))}</p>")
    for text in report["limits"]:
        section.text(text)
    return section


def _making(artifacts: Sequence[Artifact]) -> Section:
    """Stages, times, licences: how this run was made."""
    section = Section("How it was made", "3.3")
    rows = [
        [a.name, a.record.get("stage", ""), a.record.get("wall_s", ""), a.record.get("peak_rss_mb", ""), a.digest[:12]]
        for a in artifacts
    ]
    section.table(["stage", "made by", "seconds", "peak MB", "digest"], rows)
    sources: dict[tuple[str, str], int] = {}
    for artifact in artifacts:
        for entry in artifact.record.get("lineage", []):
            key = (str(entry["source"]), str(entry["licence"]))
            sources[key] = max(sources.get(key, 0), int(entry.get("rows", 0)))
    section.table(
        ["source", "licence", "rows at most"], [[source, licence, rows] for (source, licence), rows in sorted(sources.items())]
    )
    return section
