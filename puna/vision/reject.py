"""Rejection sampling on pictures (section 7.6.6): answers of the model that sees, verified, several kept to a question.

The paper fills in reasoning that its questions lack: samples under several system prompts, checked by rules or a judge; questions
that are answered rightly too seldom are dropped, as their right answers are luck; a reward model keeps the best of the rest, and
several right answers to a question stay. Passing and failing answers make preference pairs (section 7.6.3).

The result is a `pictures` artifact, with copies of the media that its rows show, so that whatever learns from pictures reads it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.core.settings import Share, execution
from puna.core.stage import Artifact, StageContext
from puna.infer.engine import Engine
from puna.infer.load import check_device
from puna.post import checkpoints, reject
from puna.post.choose import Drawn, Kept, drawn_from, select
from puna.post.examples import encode_answer
from puna.post.gate import MAX_RUNNING
from puna.post.row_lineage import RecordedRows, terms_of_outputs
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, MessageRow, Sample, Task, media_of, read_rows, write_rows
from puna.vision.ask import MediaFiles, ask
from puna.vision.eyes import Eyes
from puna.vision.fetch import MediaRules, find_file, scheme_of
from puna.vision.hf import image_shape_of, load_vision
from puna.vision.preferences import Shows, laid
from puna.vision.reward import RewardModel, load_vision_reward, scores_of
from puna.vision.tile_store import OWN_FILES, TileStore

KIND = "pictures"
REVISION = 1


class Settings(reject.Settings):
    """As of `post.reject`, whose `capabilities` are here kinds of questions.

    Attributes:
        least_correct: questions with a smaller share of right answers are dropped, right answers and all.
        frames: frames of a video that does not say how many. cache_mb: tiles kept while a reward model chooses.
    """

    precision: Literal["fp32"] = "fp32"
    least_correct: Share = 0.0
    frames: PositiveInt = 16
    cache_mb: NonNegativeInt = execution(512)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Sample from the `vision_model` on the questions of the `pictures`, verify, select, write."""
    check_device(settings.device, "device")
    policy, pictures = ctx.inputs.one("vision_model"), ctx.inputs.one("pictures")
    every = [task for task in tasks_of(pictures) if reject.is_wanted(task, settings)]
    start, end = settings.prompts.bounds(len(every))
    model, tokenizer = load_vision(policy.path, device=settings.device).eval(), Tokenizer.load(policy.path)
    asked = reject.with_room(
        [(task, reject.steering(task, settings, ctx)) for task in every[start:end]], model.text, tokenizer, ctx
    )
    if not asked:
        raise InputError("there is no question to sample on", where=f"{ctx.name}: {pictures.name}",
                         fix="leave `capabilities` and `prompts` out, or give other pictures")  # fmt: skip
    eyes = Eyes(model, image_shape_of(model, policy.path))
    engine = Engine(model.text, stop_ids=tokenizer.stop_ids, max_running=MAX_RUNNING, eyes=eyes)
    samples = list(_samples(engine, eyes, tokenizer, asked, pictures.path, policy.digest, settings, ctx))
    drawn = [
        drawn_from(tokenizer, task, samples[i * settings.k : (i + 1) * settings.k], system)
        for i, (task, system) in enumerate(asked)
    ]
    sure = [one for one in drawn if not 0 < share_correct(one) < settings.least_correct]
    scorer = _scorer(tokenizer, pictures, settings, ctx)
    kept = select(sure, scorer, policy.digest, settings, ctx, terms_of_outputs(policy))
    _write(ctx, samples, kept, policy, pictures, settings)
    return {
        **reject.rates(drawn, settings.k),
        "questions": len(asked),
        "samples": len(samples),
        "finished": sum(sample.finished for sample in samples),
        "too_seldom_right": len(drawn) - len(sure),
        "accepted": len(kept.accepted),
        "pairs": len(kept.preferences),
        "other_language": kept.other_language,
        "steered": sum(one.system is not None for one in drawn),
        "round": settings.round,
    }


def tasks_of(pictures: Artifact) -> Iterator[Task]:
    """The questions that may be sampled on: `prompts.jsonl` where there is one, else those of the train rows.

    A train row's own answer is then what an answer must be, but for case and white space.
    """
    if (pictures.path / "prompts.jsonl").exists():
        yield from read_rows(pictures.path / "prompts.jsonl", Task)
        return
    for row in read_rows(pictures.path / "train.jsonl", Dialog):
        yield Task(
            id=row.id, prompt=row.messages[:-1], verifier="exact", reference=row.messages[-1].content, family=row.capability,
            capability=row.capability, lang=row.lang, provenance=row.provenance,
        )  # fmt: skip


def share_correct(one: Drawn) -> float:
    """The share of right answers among those drawn to a question."""
    return sum(sample.scores.get("verifier", 0.0) > 0 for sample in one.samples) / len(one.samples)


def _samples(
    engine: Engine, eyes: Eyes, tokenizer: Tokenizer, asked: Sequence[reject.Asked], root: Path, policy: str, settings: Settings,
    ctx: StageContext,
) -> Iterator[Sample]:  # fmt: skip
    """k samples per question, part by part; a part finished before a kill is read from scratch."""
    for number, first in enumerate(range(0, len(asked), reject.PROMPTS_PER_PART)):
        part = asked[first : first + reject.PROMPTS_PER_PART]
        yield from reject.part_of(ctx, number, partial(_draw, engine, eyes, tokenizer, part, root, policy, settings, ctx))
        ctx.progress(first + len(part), len(asked), samples=(first + len(part)) * settings.k)


def _draw(
    engine: Engine, eyes: Eyes, tokenizer: Tokenizer, asked: Sequence[reject.Asked], root: Path, policy: str, settings: Settings,
    ctx: StageContext,
) -> Iterator[Sample]:  # fmt: skip
    files = MediaFiles(eyes, _rules(eyes), settings.frames)
    steered = [task if system is None else _told(task, system) for task, system in asked]
    seed = ctx.stream_seed("samples")
    media = [files(task, root) for task in steered]
    completions = ask(engine, tokenizer, steered, media, n=settings.k, seed=seed, **settings.drawing())
    seeds = [derive_seed(seed, task.id) for task, _ in asked]
    yield from reject.samples_of(tokenizer, [task for task, _ in asked], seeds, completions, policy, settings)


def _rules(eyes: Eyes) -> MediaRules:
    video = eyes.model.video
    return replace(OWN_FILES, max_frames=1 if video is None else video.config.frames)


def _told(task: Task, system: str) -> Task:
    return task.model_copy(update={"prompt": [MessageRow(role="system", content=system), *task.prompt]})


class VisionScorer:
    """What chooses among passing answers: a reward model that looks at the pictures of the folder `root`."""

    def __init__(self, model: RewardModel, tokenizer: Tokenizer, tiles: TileStore, root: Path):
        self.model, self.tokenizer, self.tiles, self.root = model, tokenizer, tiles, root

    def score(self, dialogs: Sequence[Sequence[MessageRow]]) -> list[float]:
        """A reward per dialog, each of which ends with the assistant's answer."""
        rows = [
            Shows("", "", [encode_answer(self.tokenizer, list(d[:-1]), [d[-1]])[0]], media_of(d[:-1]), self.root) for d in dialogs
        ]
        return scores_of(self.model, rows, laid(self.tokenizer, self.tiles))


def _scorer(tokenizer: Tokenizer, pictures: Artifact, settings: Settings, ctx: StageContext) -> VisionScorer | None:
    reward = ctx.inputs.optional("vision_reward")
    if reward is None:
        return None
    model = load_vision_reward(reward.path)
    if model is None:
        ctx.note(f"{reward.name} was not trained for want of pairs: passing answers are chosen at random")
        return None
    shape = image_shape_of(model.trunk, reward.path)
    tiles = TileStore(shape, OWN_FILES, frames=settings.frames, limit=settings.cache_mb << 20)
    return VisionScorer(model.to(settings.device), tokenizer, tiles, pictures.path)


def _write(
    ctx: StageContext, samples: list[Sample], kept: Kept, policy: Artifact, pictures: Artifact, settings: Settings
) -> None:
    """The files of a `pictures` artifact, and of what was drawn."""
    write_rows(ctx.out / "samples.jsonl", samples)
    write_rows(ctx.out / "train.jsonl", kept.accepted)
    write_rows(ctx.out / "preferences.jsonl", kept.preferences)
    if settings.raw:
        write_rows(ctx.out / "raw.jsonl", kept.raw)
    for held in ("dev", "test"):
        write_rows(ctx.out / f"{held}.jsonl", [])
    shown = [medium for dialog in kept.accepted for medium in media_of(dialog.messages)]
    copy_media([*shown, *(medium for row in kept.preferences for medium in media_of(row.context))], pictures.path, ctx.out)
    recorded = RecordedRows(ctx)
    recorded.rows("train", kept.accepted)
    recorded.rows("preferences", kept.preferences)
    recorded.close(declare=False)
    origin = {"policy": policy.digest, "ancestors": sorted(checkpoints.ancestors(policy))}
    (ctx.out / checkpoints.POLICY).write_text(json.dumps(origin, indent=1) + "\n")


def copy_media(media: Iterable[Medium], source: Path, target: Path) -> None:
    """Copy the files and folders under `source` that media name to the same places under `target`."""
    for url in sorted({medium.url for medium in media if not scheme_of(medium.url)}):
        path = find_file(url, source)
        place = target / path.relative_to(source.resolve())
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, place, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, place)
