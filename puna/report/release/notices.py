"""LICENSE, NOTICE, the list of attributions, and the reports on evaluation and safety, from the facts of a release.

A licence is named by its SPDX identifier; texts that a licence wants passed on are files its user gives. The Llama licences from
3.1 on want "Built with Llama" displayed and one line kept in the notice, each with its own version.
"""

from __future__ import annotations

from typing import Any

from puna.core.licences import NOTHING, Terms
from puna.core.lineage import owed
from puna.core.lineage_graph import described
from puna.report.release.facts import Facts, terms_of_row

NOT_MEASURED = (
    "violation rate", "false refusal rate", "prompt injection and jailbreaks", "multilingual safety", "long-context attacks",
    "tool use", "memorisation of training text", "personal data in answers", "bias and stereotypes", "cyber and chemical uplift",
)  # fmt: skip


def displayed(facts: Facts) -> list[str]:
    """What licences want displayed prominently ("Built with Llama"), each once."""
    return sorted({f"**{terms.built_with}**" for terms in asked(facts) if terms.built_with})


def asked(facts: Facts) -> list[Terms]:
    """Model licences that are owed something by this model."""
    every = facts.sources()
    found = {terms.id: terms for row in every if owed(row, every) for terms in terms_of_row(row)}
    return [found[key] for key in sorted(found)]


def licence(facts: Facts) -> str:
    """`LICENSE`: the identifier, and where the texts lie that go along."""
    lines = [f"SPDX-License-Identifier: {facts.licence}", "", f"{facts.name} is released by {facts.supplier} under this licence."]
    lines += [f"{name}: see licences/{file}" for name, file in sorted(facts.licence_texts.items())]
    return "\n".join(lines) + "\n"


def notice(facts: Facts) -> str:
    """`NOTICE`: the lines that licences want kept, with the version of each."""
    lines = [facts.name, ""]
    for terms in asked(facts):
        lines += [line for line in (terms.built_with, terms.notice) if line]
    return "\n".join(lines).rstrip() + "\n"


def attribution(facts: Facts) -> str:
    """`ATTRIBUTION.md`: every source, those that must be named first, with what it asks for."""
    every = facts.sources()
    rows = sorted(every, key=lambda row: ("attribution" not in owed(row, every), str(row["source"])))
    lines = [f"# Sources of {facts.name}", "", "| source | part | licence | asks for |", "|---|---|---|---|"]
    lines += [
        f"| {_cell(row['source'])} | {_cell(described(row))} | {row.get('licence', 'unknown')} | "
        f"{', '.join(sorted(owed(row, every))) or NOTHING} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def evaluation(facts: Facts) -> dict[str, Any]:
    """`eval_report.json`: every figure with its sample size and interval, and what is known of contamination."""
    return {
        "model": facts.name,
        "model_digest": facts.model["digest"],
        "scores": facts.scores,
        "contamination": {"measured": facts.overlap is not None, "shared_prompts": facts.overlap or {}},
        "intervals": "Wilson, 95 percent",
    }


def safety(facts: Facts) -> dict[str, Any]:
    """`safety_report.json`: what was measured, which is nothing yet, and what was not."""
    return {
        "model": facts.name,
        "model_digest": facts.model["digest"],
        "measured": [],
        "not_measured": list(NOT_MEASURED),
        "statement": "No safety evaluation was made of this model. Nothing is claimed about its safety.",
    }
