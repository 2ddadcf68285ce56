"""One model's answers to the held-out tasks, kept item by item so that any two models can be compared on the same items.

`evals.scores` expands to one of these per model: they run side by side, and adding a model to a comparison re-runs no other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.rng import derive_seed
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.evals.tasks import run_tasks
from puna.infer.load import load_engine
from puna.tokenizer.dialog import Task, read_rows

KIND = "answers"
REVISION = 2  # models stored in bfloat16 answer in bfloat16
ITEMS_FILE = "items.parquet"

Item = dict[str, Any]  # task_id, model, family, capability, lang, text, passed, finished


class Settings(BaseSettings):
    """Which items, and how answers are drawn. `limit` takes the first items only; `split` is a file of the tasks artifact."""

    split: str = "test"
    limit: PositiveInt | None = None
    max_tokens: PositiveInt = 48
    temperature: NonNegativeFloat = 0.0
    top_p: float = Field(1.0, gt=0, le=1)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `items.parquet` and `model.json` (the model's name)."""
    model = ctx.inputs.one("model")
    items = answer_tasks(model, settings, ctx)
    write_items(items, ctx.out / ITEMS_FILE)
    (ctx.out / "model.json").write_text(json.dumps({"model": model.name}) + "\n")
    return {"model": model.name, "n": len(items), "passed": sum(item["passed"] for item in items)}


def answer_tasks(model: Artifact, settings: Settings, ctx: StageContext) -> list[Item]:
    """The model's answers to the first `limit` tasks of the split, in the file's order."""
    tasks = list(read_rows(ctx.inputs.one("tasks").path / f"{settings.split}.jsonl", Task))[: settings.limit]
    if not tasks:
        ctx.note(f"the {settings.split} split holds no verifiable task: {model.name} has nothing to answer")
        return []
    engine, tokenizer = load_engine(model.path)
    answers = run_tasks(
        engine,
        tokenizer,
        tasks,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=derive_seed(ctx.seed, "evals.one"),  # not the stage's own stream: every model draws the same numbers
        progress=lambda done, total: ctx.progress(done, total, model=model.name),
    )
    return [
        {
            "task_id": task.id,
            "model": model.name,
            "family": task.family,
            "capability": task.capability,
            "lang": task.lang,
            "text": answer.text,
            "passed": answer.passed,
            "finished": answer.finished,
        }
        for task, answer in zip(tasks, answers, strict=True)
    ]


def write_items(items: list[Item], path: Path) -> None:
    """Items as Parquet (zstd), columns as in `Item`; `score` only where answers have one (speech and pictures)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ("task_id", "model", "family", "capability", "lang", "text")
    columns = [(name, pa.string()) for name in texts] + [("passed", pa.bool_()), ("finished", pa.bool_())]
    if any("score" in item for item in items):
        columns.append(("score", pa.float64()))
    pq.write_table(pa.Table.from_pylist(items, schema=pa.schema(columns)), path, compression="zstd")


def read_items(path: Path) -> list[Item]:
    """The rows `write_items` wrote."""
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()
