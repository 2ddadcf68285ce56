"""What models see: answers to held-out questions about pictures and videos, and what they answer when they cannot see (7.6, 7.7).

A model can be right without looking: some answers are common, and some questions give theirs away. So every model is asked again
with the picture of another item that has another answer (`MODEL.shuffled`), without any (`MODEL.blind`), and a video also with
its frames in disorder (`MODEL.frames`); `MODEL.commonest` says what training says most often to such a question. These stand
among the scores as models of their own, on the same items, so a claim against a control is a paired test like any other.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt

from puna.core.errors import InputError
from puna.core.rng import derive_seed, numpy_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.evals.comparison import Comparison, check_names
from puna.evals.controls import others
from puna.evals.one import ITEMS_FILE, Item, write_items
from puna.evals.scores import compare, score_of
from puna.post.reward_measure import mean_interval
from puna.tokenizer.chat import parse
from puna.tokenizer.dialog import Dialog, Task, media_of, read_rows
from puna.vision.ask import MediaFiles, ask, seeing_engine
from puna.vision.gates import gates_of
from puna.vision.media import FRAMES, Loaded
from puna.vision.metrics import METRICS
from puna.vision.tile_store import OWN_FILES

KIND = "scores"
REVISION = 2

SCORES, EXACT = "scores.json", "exact"
TOGETHER = 512  # questions whose media are in memory

Metric = Literal["exact", "anls", "relaxed", "vqa"]
Control = Literal["shuffled", "blind", "frames"]
Media = list[Loaded]
Question = tuple[Task, Path]  # and the folder of its file


class Settings(BaseSettings):
    """Which questions are asked, how answers count, and what is claimed.

    Attributes:
        split, limit: a file of the `pictures` inputs, and how many of its rows of each.
        max_tokens: longest answer; one that is cut is wrong. frames: of a video that does not say how many.
        controls: what the model is asked again without; see the head of this file.
        metrics: by kind of question; `exact` for all others. An item passes with a score of 1.
        compare: tests named beforehand; a `family` is a kind of question, a control a model or `MODEL.shuffled` and the like.
    """

    split: str = "test"
    limit: PositiveInt | None = None
    max_tokens: PositiveInt = 96
    frames: PositiveInt = FRAMES
    controls: tuple[Control, ...] = ("shuffled", "blind", "frames")
    metrics: dict[str, Metric] = {}
    compare: tuple[Comparison, ...] = ()


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `scores.json` and `items.parquet`, which has every answer of every model, with and without sight."""
    models, pictures = ctx.inputs.all("vision_model"), ctx.inputs.all("pictures")
    if not models or not pictures:
        raise InputError("scores of vision need a vision model and pictures", where=ctx.name, fix="name them under `from`")
    questions, common = _questions(pictures, settings), commonest(pictures)
    by_model: dict[str, list[Item]] = {}
    gates = {}
    for model in models:
        found, gates[model.name] = _answers(model, questions, common, settings, ctx)
        by_model |= found
    check_names(settings.compare, list(by_model), ctx.name)
    scores: dict[str, Any] = {
        "split": settings.split,
        "models": {name: _scored(items, settings) for name, items in by_model.items()},
        "gates": gates,
        "comparisons": [compare(claim, by_model[claim.better], by_model[claim.control]) for claim in settings.compare],
    }
    (ctx.out / SCORES).write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    write_items([item for items in by_model.values() for item in items], ctx.out / ITEMS_FILE)
    overall = {name: score["overall"] for name, score in scores["models"].items()}
    return {"accuracy": overall, "comparisons": scores["comparisons"]}


def _questions(pictures: Sequence[Artifact], settings: Settings) -> list[Question]:
    return [
        (task, artifact.path)
        for artifact in pictures
        for task in islice(read_rows(artifact.path / f"{settings.split}.jsonl", Task), settings.limit)
        if task.prompt and media_of(task.prompt)
    ]


def commonest(pictures: Sequence[Artifact]) -> dict[str, str]:
    """The answer that training gives most often, by kind of question; the first in the alphabet among equals."""
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for artifact in pictures:
        for dialog in read_rows(artifact.path / "train.jsonl", Dialog):
            said[dialog.capability][dialog.messages[-1].content] += 1
    return {kind: min(counts, key=lambda answer: (-counts[answer], answer)) for kind, counts in said.items()}


def _answers(
    model: Artifact, questions: Sequence[Question], common: dict[str, str], settings: Settings, ctx: StageContext
) -> tuple[dict[str, list[Item]], dict[str, float]]:
    """Items of a model with sight and without, by name; and its gates."""
    engine, tokenizer, eyes = seeing_engine(model.path)
    known = [question for question in questions if eyes.video or not _of_video(question[0])]
    tasks = [task for task, _ in known]
    files, rng = MediaFiles(eyes, OWN_FILES, settings.frames), numpy_stream(ctx.seed, "vision.scores")
    swapped = others([_asks(task) for task in tasks], [task.reference for task in tasks], rng)
    shows: dict[str, Callable[[int], Media]] = {
        "": lambda i: files(*known[i]),
        ".shuffled": lambda i: files(*known[swapped[i]]),
        ".blind": lambda i: [],
        ".frames": lambda i: [_shaken(loaded, rng) for loaded in files(*known[i])],
    }
    found: dict[str, list[Item]] = {}
    for ending in ("", *(f".{control}" for control in settings.controls)):
        asked = [i for i, task in enumerate(tasks) if ending != ".frames" or _of_video(task)]
        name, items = model.name + ending, list[Item]()
        for first in range(0, len(asked), TOGETHER):
            part = asked[first : first + TOGETHER]
            done = ask(
                engine, tokenizer, [tasks[i] for i in part], [shows[ending](i) for i in part], max_tokens=settings.max_tokens,
                seed=derive_seed(ctx.seed, "vision.scores"),
                progress=partial(_told, ctx, name, first, len(asked)),
            )  # fmt: skip
            texts = [(parse(tokenizer, answers[0].drawn).content, answers[0].finished) for answers in done]
            items += [_item(tasks[i], name, text, ended, settings) for i, (text, ended) in zip(part, texts, strict=True)]
        if items:
            found[name] = items
    said = f"{model.name}.commonest"
    found[said] = [_item(task, said, common.get(task.family, ""), True, settings) for task in tasks]
    return found, gates_of(eyes.model)


def _told(ctx: StageContext, name: str, first: int, most: int, done: int, of: int) -> None:
    """Progress of one part of a model's questions."""
    ctx.progress(first + done, most, model=name)


def _of_video(task: Task) -> bool:
    return any(medium.kind == "video" for medium in media_of(task.prompt))


def _asks(task: Task) -> tuple[str, ...]:
    """What makes the media of two tasks exchangeable: the kind of question, and the kinds of media in order."""
    return task.family, *(medium.kind for medium in media_of(task.prompt))


def _shaken(loaded: Loaded, rng: np.random.Generator) -> Loaded:
    """A video with its frames in another order; a picture as it is."""
    count = len(loaded.images)
    order = rng.permutation(count)
    while count > 1 and (order == np.arange(count)).all():
        order = rng.permutation(count)
    return replace(loaded, images=[loaded.images[i] for i in order], key=loaded.key + order.astype(np.uint8).tobytes())


def _item(task: Task, model: str, text: str, finished: bool, settings: Settings) -> Item:
    """An answer and its score; one that the model did not end is worth nothing."""
    references = [task.reference] if isinstance(task.reference, str) else list(task.reference)
    score = METRICS[settings.metrics.get(task.family, EXACT)](text, references) if finished else 0.0
    return {
        "task_id": task.id,
        "model": model,
        "family": task.family,
        "capability": task.capability,
        "lang": task.lang,
        "text": text,
        "passed": score >= 1.0,
        "finished": finished,
        "score": score,
    }


def _scored(items: list[Item], settings: Settings) -> dict[str, Any]:
    """Pass rates as of `evals.scores`, with the mean score of the kinds whose metric knows more than right and wrong."""
    graded = {kind for kind, metric in settings.metrics.items() if metric != EXACT}
    means = {
        kind: mean_interval([item["score"] for item in items if item["family"] == kind])
        for kind in sorted(graded & {item["family"] for item in items})
    }
    return score_of(items) | ({"mean_score": means} if means else {})
