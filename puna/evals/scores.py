"""Accuracy of every model on the same held-out tasks, by capability, family and language, and paired comparisons.

Every accuracy carries its n and a Wilson interval; every claim "A is better than B" is a paired test on the same items
(difference, 95 % interval, exact McNemar p), named in the recipe beforehand under `compare` (paper sections 5.1.1 and 5.2).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from puna.core.errors import InputError
from puna.core.graph import Source
from puna.core.stage import StageContext
from puna.evals import one
from puna.evals.comparison import Comparison, check_names
from puna.evals.one import ITEMS_FILE, Item, answer_tasks, read_items, write_items
from puna.evals.stats import rate

KIND = "scores"
REVISION = 2

GROUPINGS = ("capability", "family", "lang")


class Settings(one.Settings):
    """How answers are drawn (see `evals.one`) and which pairs of models are compared."""

    compare: tuple[Comparison, ...] = ()


def expand(name: str, settings: Settings, sources: Sequence[Source]) -> dict[str, dict[str, Any]]:
    """One `evals.one` per model among the sources, then this stage over their answers."""
    models = [source for source in sources if source.kind == "model"]
    tasks = [source for source in sources if source.kind == "tasks"]
    if not models or len(tasks) != 1:
        raise InputError(
            f"stage '{name}' needs one stage that makes tasks and at least one that makes a model",
            where=f"from of {name}",
            fix=f"it has {', '.join(f'{source} ({source.kind})' for source in sources) or 'no sources'}",
        )
    check_names(settings.compare, models, name)
    drawing = settings.model_dump(mode="json", include=set(one.Settings.model_fields))
    stages = {f"{name}.{model}": {"uses": "evals.one", "from": [str(model), str(tasks[0])], **drawing} for model in models}
    return {**stages, name: {"uses": "evals.scores", "from": list(stages), **settings.model_dump(mode="json")}}


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `scores.json` and `items.parquet` (every answer of every model)."""
    by_model = _collect(settings, ctx)
    check_names(settings.compare, list(by_model), ctx.name)
    scores: dict[str, Any] = {
        "split": settings.split,
        "models": {model: score_of(items) for model, items in by_model.items()},
        "comparisons": [compare(c, by_model[c.better], by_model[c.control]) for c in settings.compare],
    }
    (ctx.out / "scores.json").write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    write_items([item for items in by_model.values() for item in items], ctx.out / ITEMS_FILE)
    overall = {model: score["overall"] for model, score in scores["models"].items()}
    return {"accuracy": overall, "comparisons": scores["comparisons"]}


def _collect(settings: Settings, ctx: StageContext) -> dict[str, list[Item]]:
    """Items by model: read from finished parts, answered here for models given directly."""
    by_model = {}
    for part in ctx.inputs.all("answers"):
        by_model[json.loads((part.path / "model.json").read_text())["model"]] = read_items(part.path / ITEMS_FILE)
    for model in ctx.inputs.all("model"):
        by_model[model.name] = answer_tasks(model, settings, ctx)
    if not by_model:
        raise InputError("there is no model to score", where=ctx.name, fix="name at least one under `from`")
    return by_model


def score_of(items: list[Item]) -> dict[str, Any]:
    """Pass rates overall and by grouping, groups in alphabetical order; `unfinished` answers count as failures."""
    score: dict[str, Any] = {"overall": _rate(items), "unfinished": sum(not item["finished"] for item in items)}
    for grouping in GROUPINGS:
        groups: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            groups[item[grouping]].append(item)
        score[grouping] = {name: _rate(groups[name]) for name in sorted(groups)}
    return score


def _rate(items: list[Item]) -> dict[str, Any]:
    return rate(sum(item["passed"] for item in items), len(items))


def compare(comparison: Comparison, better: list[Item], control: list[Item]) -> dict[str, Any]:
    """The paired test of a comparison; InputError where the two did not answer the same items."""
    better, control = comparison.items(better), comparison.items(control)
    if [item["task_id"] for item in better] != [item["task_id"] for item in control]:
        raise InputError(
            f"'{comparison.better}' and '{comparison.control}' answered different items",
            where=comparison.name,
            fix="score both in one stage",
        )
    return comparison.test([item["passed"] for item in better], [item["passed"] for item in control])
