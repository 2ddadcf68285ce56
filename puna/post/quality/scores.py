"""Everything that is measured of a dialog before anything is decided: the slow half of `post.quality.select` (paper 4.2.3).

One row of `scores.parquet` for each dialog, in the order of `rows.jsonl`, and its vector in `embeddings.npy`. No threshold is
applied here, so a changed one reads these and asks no model again. Parts that were measured before a kill are read back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.core.store import write_json
from puna.data.columns import write_table
from puna.post import checkpoints
from puna.post.choose import Scorer
from puna.post.prompts import prompt_key
from puna.post.quality import embed, judge, rows, topics
from puna.post.quality.contamination import Held, held_out
from puna.post.quality.difficulty import counted_intents, pass_rates
from puna.post.quality.rules import manner
from puna.post.reject import part_of
from puna.post.row_lineage import RecordedRows
from puna.post.synth.teacher import Asked, Teacher, open_teacher
from puna.tokenizer.dialog import Dialog, Row, Task, read_rows, row_line
from puna.verify.check import verify

KIND = "quality_scores"
REVISION = 1

SCORES, ROWS, EMBEDDINGS, ABOUT = "scores.parquet", "rows.jsonl", "embeddings.npy", "about.json"


class Settings(BaseSettings):
    """What is measured, and by which models; models are named as the recipe names the stages that made them.

    Attributes:
        parts: which rows, see `puna.post.quality.rows`.
        files: further dialogs, JSONL in any shape that `post.collect` reads.
        licence: of their rows that name none (docs/lineage.md).
        evaluation: files of evaluation items beside the dev and test tasks.
        judge: who judges and rates difficulty, as `post.synthesise` names its teachers; None for nobody.
        judge_difficulty: whether that model also tags intentions and difficulty.
        embedder: a model whose hidden states make the vectors; empty for hashed words.
        dim: of hashed vectors.
    """

    parts: tuple[rows.Part, ...] = ("samples", "gold")
    files: tuple[str, ...] = ()
    licence: str = "unknown"
    evaluation: tuple[str, ...] = ()
    judge: Asked | None = None
    judge_difficulty: bool = True
    embedder: str = ""
    dim: PositiveInt = Field(default=256, le=4096)


class Measured(Row):
    """What is known of one dialog; None where nothing could be measured.

    `chances` are those of `about.json`'s topics; `held_share` and `held_item` are of the held-out item it holds most of.
    """

    id: str
    lang: str
    capability: str
    emoji: int
    exclamations: int
    apologies: int
    chances: list[float] = []
    held_share: float
    held_item: str
    verified: bool | None = None
    reward: float | None = None
    points: int | None = None
    most_points: int | None = None
    intents: int
    level: int = 0
    pass_rate: float | None = None


@dataclass
class Instruments:
    """What measures: loaded once, used on every batch."""

    topics: topics.TopicModel | None
    held: Held
    tasks: dict[str, Task]
    rates: dict[str, float]
    reward: Scorer | None
    teacher: Teacher | None
    hard: bool
    seed: int


def outside(settings: Settings) -> dict[str, str]:
    """Content digests of the user's files."""
    return rows.file_digests([*settings.files, *settings.evaluation])


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Copy the rows, measure them part by part, embed them."""
    import pyarrow as pa

    count = _copy(settings, ctx)
    tools = _instruments(settings, ctx, count)
    tables = [_schema().empty_table()]
    for number, part in enumerate(rows.batches(read_rows(ctx.out / ROWS, Dialog))):
        found = part_of(ctx, number, partial(measured, tools, part), Measured, "measured")
        tables.append(pa.Table.from_pylist([row.model_dump() for row in found], _schema()))
        ctx.progress(number * rows.BATCH + len(part), count)
    table = pa.concat_tables(tables)
    write_table(ctx.out / SCORES, table)
    _embed(settings, ctx, count)
    classes = tools.topics.linear.classes if tools.topics else []
    write_json(ctx.out / ABOUT, {"topics": classes})
    known = {name: count - table[name].null_count for name in ("verified", "reward", "points", "pass_rate")}
    unread = count - known["points"] if tools.teacher else 0
    if unread:
        ctx.note(f"{unread} of {count} replies of the judge could not be read and say nothing of their rows")
    return {
        "rows": count,
        "topics": {"classes": classes, **(tools.topics.held if tools.topics else {})},
        "verifiable": known["verified"],
        "rewarded": known["reward"],
        "judged": known["points"],
        "unreadable": unread,
        "pass_rates": known["pass_rate"],
    }


def _copy(settings: Settings, ctx: StageContext) -> int:
    """Write every row as it is; returns how many. InputError where nothing is given that could have some."""
    if not settings.files and not any(ctx.inputs.all(rows.PARTS[part][0]) for part in settings.parts):
        given = ", ".join(f"{artifact.name} ({artifact.kind})" for artifact in ctx.inputs.artifacts) or "nothing"
        raise InputError(
            f"there are no rows to choose from: `files` is empty, `parts` is {', '.join(settings.parts)}, the inputs are {given}",
            where=ctx.name, fix="name `files`, or give samples or tasks as inputs",
        )  # fmt: skip
    count = 0
    with (ctx.out / ROWS).open("w", encoding="utf-8", newline="\n") as file:
        for dialog in rows.dialogs(ctx.inputs, settings.parts, settings.files, settings.licence):
            file.write(row_line(dialog))
            count += 1
    recorded = RecordedRows(ctx)
    recorded.file("rows", ctx.out / ROWS)
    recorded.close()
    if not count:
        ctx.note("there is no row to measure")
    return count


def _instruments(settings: Settings, ctx: StageContext, count: int) -> Instruments:
    reward = ctx.inputs.optional("reward")
    return Instruments(
        topics=topics.learn_topics(_labelled(ctx), ctx.stream_seed("topics")),
        held=held_out(ctx.inputs.optional("tasks"), settings.evaluation),
        tasks=rows.known_tasks(ctx.inputs),
        rates=pass_rates(ctx.inputs.all("samples")),
        reward=None if reward is None else _reward(reward),
        teacher=_judge(settings.judge, ctx, count),
        hard=settings.judge_difficulty,
        seed=ctx.stream_seed("judge"),
    )


def _judge(asked: Asked | None, ctx: StageContext, count: int) -> Teacher | None:
    """Who judges; what rows are chosen by improves the model that learns from them, so a judge from elsewhere is a source."""
    if asked is None:
        return None
    teacher = open_teacher(asked, ctx, "judge")
    if asked.use == "url":
        ctx.add_source(teacher.name, teacher.licence, rows=count, use="outputs", role="judge")
    return teacher


def _reward(artifact: Artifact) -> Scorer | None:
    from puna.post.reward import load_reward

    return load_reward(artifact.path)


def _labelled(ctx: StageContext) -> Iterator[Dialog]:
    """Labelled dialogs: the `topics.jsonl` of any input, else the gold dialogs by capability."""
    files = [artifact.path / rows.TOPICS for artifact in ctx.inputs.artifacts if (artifact.path / rows.TOPICS).is_file()]
    if not files:
        files = [artifact.path / "train.jsonl" for artifact in ctx.inputs.all("tasks")]
    for path in files:
        yield from read_rows(path, Dialog)


def measured(tools: Instruments, dialogs: Sequence[Dialog]) -> Iterator[Measured]:
    """Measure some dialogs together."""
    keys = [prompt_key(dialog.messages) for dialog in dialogs]
    shares = tools.held.shares(dialogs)
    chances = tools.topics.chances(dialogs).astype(np.float64).round(6).tolist() if tools.topics else [[]] * len(dialogs)
    rewards = _rewards(tools.reward, dialogs)
    verdicts = judge.judge(tools.teacher, dialogs, tools.seed) if tools.teacher else [judge.Verdict(0, 0)] * len(dialogs)
    hard = [judge.Hardness(0, 0)] * len(dialogs)
    if tools.teacher and tools.hard:
        hard = judge.judge_difficulty(tools.teacher, dialogs, tools.seed)
    for i, dialog in enumerate(dialogs):
        task, (share, item), verdict = tools.tasks.get(keys[i]), shares[i], verdicts[i]
        yield Measured(
            id=dialog.id,
            lang=dialog.lang,
            capability=dialog.capability,
            **manner(dialog)._asdict(),
            chances=chances[i],
            held_share=round(share, 6),
            held_item=item,
            verified=None if task is None or not _answers(dialog) else verify(task, dialog.messages[-1].message()),
            reward=rewards[i],
            points=verdict.points if verdict.most else None,
            most_points=verdict.most or None,
            intents=hard[i].intents or counted_intents(dialog),
            level=hard[i].level,
            pass_rate=_rate(tools.rates, dialog, task),
        )


def _answers(dialog: Dialog) -> bool:
    return bool(dialog.messages) and dialog.messages[-1].role == "assistant"


def _rewards(reward: Scorer | None, dialogs: Sequence[Dialog]) -> list[float | None]:
    """Rewards of the dialogs that end in an answer the model can read, None for the others."""
    found: list[float | None] = [None] * len(dialogs)
    there = [i for i, dialog in enumerate(dialogs) if _answers(dialog)] if reward else []
    for i, value in zip(there, reward.score([dialogs[i].messages for i in there]) if reward and there else [], strict=True):
        found[i] = float(f"{value:.6g}") if np.isfinite(value) else None
    return found


def _rate(rates: dict[str, float], dialog: Dialog, task: Task | None) -> float | None:
    names = [*dialog.provenance.parents, *([task.id] if task else [])]
    return next((rates[name] for name in names if name in rates), None)


def _schema() -> Any:
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int32(), pa.float64()
    kinds = {
        "id": text, "lang": text, "capability": text, "emoji": whole, "exclamations": whole, "apologies": whole,
        "chances": pa.list_(real), "held_share": real, "held_item": text, "verified": pa.bool_(), "reward": real,
        "points": whole, "most_points": whole, "intents": whole, "level": whole, "pass_rate": real,
    }  # fmt: skip
    return pa.schema(list(kinds.items()))


def _embed(settings: Settings, ctx: StageContext, count: int) -> None:
    """Write the vectors; a model's are made once, hashed ones need a look through all rows before."""
    if settings.embedder:
        embedder: embed.Embedder = embed.ModelEmbedder(*checkpoints.load(ctx.inputs.named(settings.embedder)))
    else:
        embedder = embed.HashedEmbedder(settings.dim, ctx.stream_seed("directions"))
        for part in rows.batches(read_rows(ctx.out / ROWS, Dialog)):
            embedder.learn(part)
    embed.write_embeddings(ctx.out / EMBEDDINGS, embedder, rows.batches(read_rows(ctx.out / ROWS, Dialog)), count)


def about(artifact: Artifact) -> dict[str, Any]:
    """`about.json` of an artifact of this stage."""
    return json.loads((artifact.path / ABOUT).read_text())
