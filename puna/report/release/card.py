"""The model card: YAML front matter as the Hugging Face hub reads it, and what people want to know, from the facts alone.

Nothing on it is typed by hand, so a card that says something else is not the card of these weights.
"""

from __future__ import annotations

from typing import Any

import yaml

from puna.core.licences import DUTIES, LLAMA_NAME, hub_id
from puna.core.lineage import owed
from puna.core.lineage_graph import described
from puna.report.release.facts import Facts, terms_of_row
from puna.report.release.notices import displayed
from puna.report.sources import percent


def front(facts: Facts) -> dict[str, Any]:
    """The front matter as a map, in the order in which it is written."""
    hub = hub_id(facts.licence)
    found: dict[str, Any] = {"license": hub}
    if hub == "other":
        found |= {"license_name": facts.licence, "license_link": "LICENSE"}
    found |= {"library_name": "transformers", "pipeline_tag": facts.task}
    bases = sorted({str(row["source"]) for row in facts.bases()})
    if bases:
        found |= {"base_model": bases if len(bases) > 1 else bases[0], "base_model_relation": _relation(facts)}
    found |= {"datasets": sorted({str(row["source"]) for row in facts.sources() if not row.get("use")})}
    found |= {"tags": ["puna", *(["synthetic-data"] if facts.teachers() else [])]}
    results = [_result(facts, score) for score in facts.scores if score["result"]["overall"].get("n")]
    if results:
        found["model-index"] = [{"name": facts.name, "results": results}]
    return found


def _relation(facts: Facts) -> str:
    if facts.config["quantisation"]:
        return "quantized"
    return "merge" if facts.model["stage"] == "post.average" else "finetune"


def _result(facts: Facts, score: dict[str, Any]) -> dict[str, Any]:
    dataset = {"name": score["artifact"], "type": "held-out-tasks", "split": score["split"], "revision": score["digest"]}
    value = round(100 * score["result"]["overall"]["accuracy"], 2)
    metric = {"type": "accuracy", "name": "accuracy, percent", "value": value}
    return {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": [metric]}


def card(facts: Facts) -> str:
    """`README.md` of the bundle."""
    head = yaml.safe_dump(front(facts), sort_keys=False, allow_unicode=True, width=1000)
    parts = [f"---\n{head}---", f"# {facts.name}", *displayed(facts), _opening(facts), "## Duties", *_duties(facts)]
    parts += ["## Made from", _sources(facts), "## Evaluation", _evaluation(facts), "## Safety", SAFETY, "## Files", FILES]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(facts: Facts) -> str:
    shape = facts.config
    text = (
        f"A Llama-architecture language model of {shape['parameters']:,} parameters ({shape['layers']} layers, width "
        f"{shape['dim']}, {shape['heads']} heads, {shape['kv_heads']} of keys and values, {shape['vocab_size']:,} tokens, "
        f"context {shape['max_seq_len']:,}), raised with Puna {facts.puna} in run `{facts.run}`, stage `{facts.model['name']}`."
    )
    if "adapters" in shape:
        text += f" Of its parameters, {shape['adapters']:,} are an image encoder and adapters, by which it sees pictures."
    stored = f" Weights are stored in {shape['quantisation'] or shape['dtype'] or 'float32'}."
    return f"{text}{stored} Released by {facts.supplier} under {facts.licence}, profile {facts.profile}."


def _duties(facts: Facts) -> list[str]:
    every = facts.sources()
    found: dict[str, set[str]] = {}
    for row in every:
        for duty in owed(row, every):
            found.setdefault(duty, set()).add(str(row["source"]))
    lines = [f"- **{duty}**: {DUTIES.get(duty, duty)} (from {', '.join(sorted(found[duty]))})" for duty in sorted(found)]
    named = [terms for row in facts.owing(LLAMA_NAME) for terms in terms_of_row(row) if terms.prefix]
    why = sorted({f"- {terms.name}: {terms.source}." for terms in named})
    return ["\n".join(lines + why) or "None of the sources asks for anything."]


def _sources(facts: Facts) -> str:
    return "\n".join(f"- {described(row)}" for row in facts.sources()) or "- no recorded source"


def _evaluation(facts: Facts) -> str:
    lines = [
        f"- {score['artifact']}, split {score['split']}: {percent(score['result']['overall'])} percent right, "
        f"n = {score['result']['overall'].get('n', 0)} (Wilson interval)"
        for score in facts.scores
    ]
    if facts.overlap is None:
        lines.append("- Contamination of training by evaluation items was not counted.")
    else:
        lines.append(f"- Prompts that training shares with the test split: {facts.overlap.get('train/test', 0)}.")
    return "\n".join(lines if facts.scores else ["- This run has no evaluation of this model.", *lines])


SAFETY = (
    "No safety evaluation was made: neither violation nor refusal rates are known (`safety_report.json`). Do not put this model "
    "before people without guards of your own."
)
FILES = (
    "`NOTICE` and `ATTRIBUTION.md` are to be passed on. `sbom.spdx.json` (SPDX 3), `mlbom.cdx.json` (CycloneDX) and `croissant/` "
    "describe the same lineage for machines; `provenance/` holds what they were made from. `puna verify DIR` checks all of it."
)
