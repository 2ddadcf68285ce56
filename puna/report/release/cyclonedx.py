"""`mlbom.cdx.json`: the same lineage as a CycloneDX 1.6 bill of materials for machine learning (ECMA-424)."""

from __future__ import annotations

import uuid
from typing import Any

from puna.core.lineage import Row
from puna.core.lineage_graph import described
from puna.report.release.facts import Facts
from puna.report.release.notices import NOT_MEASURED
from puna.report.release.spdx import spdx_time


def document(facts: Facts, weights: dict[str, str]) -> dict[str, Any]:
    """The whole document. `weights`: SHA-256 of the files of weights by name."""
    data = [_data(number, row) for number, row in enumerate(_rows(facts, models=False))]
    models = [_model(number, row) for number, row in enumerate(_rows(facts, models=True))]
    files = [
        {"bom-ref": f"file-{name}", "type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
        for name, digest in sorted(weights.items())
    ]
    component = {
        "bom-ref": "model", "type": "machine-learning-model", "name": facts.name, "version": facts.model["digest"][:32],
        "supplier": {"name": facts.supplier}, "licenses": _licence(facts.licence),
        "modelCard": _model_card(facts, [entry["bom-ref"] for entry in data]),
    }  # fmt: skip
    if models:
        component["pedigree"] = {"ancestors": [{**m, "bom-ref": f"ancestor-{m['bom-ref']}"} for m in models]}
    parts = [*data, *models, *files]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, facts.model['digest'] + facts.name)}",
        "version": 1,
        "metadata": {
            "timestamp": spdx_time(facts.created),
            "tools": {"components": [{"type": "application", "name": "puna", "version": facts.puna}]},
            "component": component,
        },
        "components": parts,
        "dependencies": [{"ref": "model", "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _rows(facts: Facts, *, models: bool) -> list[Row]:
    return [row for row in facts.sources() if bool(row.get("use")) is models]


def _data(number: int, row: Row) -> dict[str, Any]:
    contents = [{"type": "dataset", "name": str(row["source"]), "classification": "training", "description": described(row)}]
    return {"bom-ref": f"data-{number}", "type": "data", "name": str(row["source"]), "data": contents,
            "licenses": _licence(str(row.get("licence", "unknown")))}  # fmt: skip


def _model(number: int, row: Row) -> dict[str, Any]:
    return {"bom-ref": f"source-model-{number}", "type": "machine-learning-model", "name": str(row["source"]),
            "description": described(row), "licenses": _licence(str(row.get("licence", "unknown")))}  # fmt: skip


def _licence(licence: str) -> list[dict[str, Any]]:
    if licence.lower() in ("unknown", "noassertion", ""):
        return [{"license": {"name": "unknown"}}]
    return [{"expression": licence}]


def _model_card(facts: Facts, data: list[str]) -> dict[str, Any]:
    metrics = []
    for score in facts.scores:
        overall = score["result"]["overall"]
        if overall.get("n"):
            interval = {"lowerBound": str(overall["low"]), "upperBound": str(overall["high"])}
            name = f"{score['artifact']} {score['split']}"
            measured = {"type": "accuracy", "value": str(overall["accuracy"]), "slice": name}
            metrics.append({**measured, "confidenceInterval": interval})
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "self-supervised"}, "task": facts.task, "architectureFamily": "transformer",
            "modelArchitecture": "Llama", "datasets": [{"ref": ref} for ref in data],
            "inputs": [{"format": kind} for kind in ("image", "text") if kind in facts.task], "outputs": [{"format": "text"}],
        },
        "considerations": {
            "technicalLimitations": [f"not measured: {what}" for what in NOT_MEASURED],
        },
    }  # fmt: skip
    return {**card, "quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else card
