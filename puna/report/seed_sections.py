"""The report on several base models of one recipe: what each reached, and what holds over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from puna.core.stage import Artifact
from puna.evals.seeds import seed_prefixes
from puna.report.claims import over_adapters, sentence
from puna.report.page import Section
from puna.report.sources import made_by, percent, read_json


def seeds_section(artifacts: Sequence[Artifact], claims: Sequence[dict[str, Any]]) -> Section | None:
    """Accuracy of every model by base model, and the claims over all of them."""
    known = {artifact.name: artifact for artifact in artifacts}
    found = [seeds for seeds in made_by(artifacts, "evals.seeds") if not over_adapters(seeds, known)]
    if not found:
        return None
    section = Section("Several base models", "5.1")
    for seeds in found:
        names = read_json(seeds, "seeds.json")["scores"]
        prefixes = seed_prefixes(names, seeds.name)
        models = [read_json(known[name], "scores.json").get("models", {}) if name in known else {} for name in names]
        rows = [
            [
                model,
                *(percent(of.get(prefix + model, {}).get("overall", {})) for of, prefix in zip(models, prefixes, strict=True)),
            ]
            for model in models[0]
        ]
        section.table(["model", *names], rows, "Percent right on the same held-out items, each with the interval of its items.")
        section.text(
            "The differences below are over items and base models, both taken as drawn at random: their intervals say what to "
            "expect of another base model and other items."
        )
        for claim in claims:
            if claim["stage"] == seeds.name:
                section.text(sentence(claim))
        section.data[seeds.name] = read_json(seeds, "seeds.json")
    return section
