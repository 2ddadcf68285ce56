"""Whose weights a model carries: post-training stages hand their input on where their own result was worse on the dev tasks.

An average that was refused is its best part, a stage that found nothing to learn from or kept step 0 is its start, and the result
of rounds or of a distillation is the one of their models that they chose. Whoever compares such a model compares what it was
handed, so decisions and the report name that.
"""

from __future__ import annotations

from collections.abc import Mapping

from puna.core.stage import Artifact


def handed_on(model: Artifact) -> str | None:
    """The input whose weights this model is unchanged; None if the stage made weights of its own."""
    summary = model.summary()
    if summary.get("kept", "average") != "average":
        return str(summary["kept"])
    if summary.get("kept_step") == 0 or (summary.get("skipped") and "model" in summary):
        return str(summary["model"])
    made_by = model.record.get("stage")
    if made_by == "post.rounds":
        return str(summary["chosen"])
    if made_by == "post.distil":
        return f"{model.name}.{summary['chosen']}"  # named by its mode
    return None


def origin(model: Artifact, known: Mapping[str, Artifact]) -> str:
    """The model that made these weights, followed through every stage among `known` that handed them on."""
    source = handed_on(model)
    if source is None:
        return model.name
    return origin(known[source], known) if source in known else source
