"""What models hear: transcripts, translations and answers of held-out speech, and what they say when they cannot hear (8.4).

A model can be right without listening: sentences have words that are common. So every model is asked again with the sound of
another item of its kind and language that has another answer (`MODEL.shuffled`) and without any (`MODEL.blind`). With `spoken` it
also writes down what our own speech out makes of each transcript by rules (`MODEL.spoken`). These stand among the scores as
models of their own, on the same items, so a claim against a control is a paired test. An item passes where its normalised text
is the reference's; WER, CER and BLEU are told with bootstrap intervals.

How fast it goes is written apart from what it finds, to `volatile/timing.jsonl`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveInt

from puna.core.errors import InputError
from puna.core.rng import numpy_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.evals.comparison import Comparison, check_names
from puna.evals.controls import others
from puna.evals.one import ITEMS_FILE, write_items
from puna.evals.scores import compare, score_of
from puna.infer.engine import Engine, Request
from puna.speech.clip import Clip, clip_of, load_clip
from puna.speech.ears import Ears
from puna.speech.hear import hearing_engine, spoken_to
from puna.speech.metrics import errors
from puna.speech.normal import units
from puna.speech.out.backends import LANGUAGES as SPOKEN
from puna.speech.out.speaker import Speaker
from puna.speech.rates import Spoken, bleu_scores, error_difference, error_rates
from puna.speech.resample import resample
from puna.speech.sound import SoundRules
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import parse
from puna.tokenizer.dialog import Task, media_of, read_rows, without_media
from puna.vision.tile_store import OWN_FILES

KIND = "scores"
REVISION = 2

SCORES = "scores.json"
TOGETHER = 256  # questions whose sounds are in memory
TIMED = 8  # questions asked one at a time, for latency
OWN_SOUNDS = SoundRules(max_bytes=1 << 30, max_seconds=3600.0)  # their owner has put them there

Control = Literal["shuffled", "blind", "spoken"]
Question = tuple[Task, Path]  # and the folder of its file


class Settings(BaseSettings):
    """Which questions are asked, and what is claimed.

    Attributes:
        split, limit: a file of the `sounds` inputs, and how many of its rows of each.
        max_tokens: longest answer; one that is cut does not pass.
        controls: what the model is asked again without; see the head of this file.
        compare: tests named beforehand; a `family` is a kind of task, a control a model or `MODEL.shuffled` and the like.
    """

    split: str = "test"
    limit: PositiveInt | None = None
    max_tokens: PositiveInt = 96
    controls: tuple[Control, ...] = ("shuffled", "blind")
    compare: tuple[Comparison, ...] = ()


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `scores.json` and `items.parquet`, which has every answer of every model, with and without sound."""
    models, sounds = ctx.inputs.all("speech_model"), ctx.inputs.all("sounds")
    if not models or not sounds:
        raise InputError("scores of speech need a model that listens and sounds", where=ctx.name, fix="name them under `from`")
    questions = questions_of(sounds, settings.split, settings.limit)
    if not questions:
        raise InputError(f"the split '{settings.split}' has no task with a sound", where=ctx.name, fix="name another `split`")
    by_model: dict[str, list[Spoken]] = {}
    for model in models:
        by_model |= _answers(model, questions, settings, ctx)
    check_names(settings.compare, list(by_model), ctx.name)
    scores: dict[str, Any] = {
        "split": settings.split,
        "models": {name: _scored(items, ctx.seed) for name, items in by_model.items()},
        "comparisons": [_compared(claim, by_model, ctx.seed) for claim in settings.compare],
    }
    (ctx.out / SCORES).write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    write_items([item for items in by_model.values() for item in items], ctx.out / ITEMS_FILE)
    return {
        "accuracy": {name: score["overall"] for name, score in scores["models"].items()},
        "errors": {name: _overall(score["errors"]) for name, score in scores["models"].items()},
        "comparisons": scores["comparisons"],
    }


def questions_of(sounds: Sequence[Artifact], split: str, limit: int | None) -> list[Question]:
    """The tasks of a split that hold one sound, each with the folder of its file."""
    return [
        (task, artifact.path)
        for artifact in sounds
        for task in islice(read_rows(artifact.path / f"{split}.jsonl", Task), limit)
        if [medium.kind for medium in media_of(task.prompt)] == ["audio"]
    ]


def _answers(model: Artifact, questions: Sequence[Question], settings: Settings, ctx: StageContext) -> dict[str, list[Spoken]]:
    """Items of a model with sound and without, by name."""
    engine, tokenizer, ears = hearing_engine(model.path)
    tasks = [task for task, _ in questions]
    kinds = [(task.family, task.lang) for task in tasks]
    swapped = others(kinds, [task.reference for task in tasks], numpy_stream(ctx.seed, "speech.scores"))
    _time(engine, tokenizer, ears, questions[:TIMED], model.name, settings, ctx)
    speaker = Speaker.open(None) if "spoken" in settings.controls else None
    sounds: dict[str, Callable[[int], Clip | None]] = {
        "": lambda i: clip_of_question(questions[i], ears),
        "shuffled": lambda i: clip_of_question(questions[swapped[i]], ears),
        "blind": lambda i: None,
        "spoken": lambda i: clip_of_speaker(speaker, tasks[i], ears),
    }
    found = {}
    for control in ("", *settings.controls):
        name, items = f"{model.name}.{control}".rstrip("."), list[Spoken]()
        asked = [
            i for i, task in enumerate(tasks) if control != "spoken" or (task.family == "transcribe" and task.lang in SPOKEN)
        ]
        for first in range(0, len(asked), TOGETHER):
            part = asked[first : first + TOGETHER]
            began = time.perf_counter()
            clips = [sounds[control](i) for i in part]
            requests = [
                request_of(tokenizer, ears, tasks[i], clip, settings.max_tokens) for i, clip in zip(part, clips, strict=True)
            ]
            answers = engine.generate(requests, partial(_told, ctx, name, first, len(asked)))
            seconds = sum(_seconds(clip, ears) for clip in clips if clip is not None)
            _note_rate(ctx, name, len(part), seconds, time.perf_counter() - began)
            for i, (answer, *_) in zip(part, answers, strict=True):
                items.append(_item(tasks[i], name, parse(tokenizer, answer.drawn).content, answer.finished))
        if items:
            found[name] = items
    return found


def clip_of_question(question: Question, ears: Ears) -> Clip:
    """The sound of a task; InputError where it cannot be read."""
    task, root = question
    return load_clip(media_of(task.prompt)[0], root, OWN_FILES, ears.model.sound, OWN_SOUNDS)


def clip_of_speaker(speaker: Speaker | None, task: Task, ears: Ears) -> Clip:
    """The transcript of a task as our own speech out speaks it."""
    assert speaker is not None
    wave_N = torch.from_numpy(np.concatenate(list(speaker.say(_references(task)[0], lang=task.lang))))
    return clip_of(resample(wave_N, speaker.rate, ears.model.sound.mel.rate), ears.model.sound)


def request_of(tokenizer: Tokenizer, ears: Ears, task: Task, clip: Clip | None, max_tokens: int) -> Request:
    """A task with this sound in place of its own, or with none."""
    prompt = task.prompt if clip is not None else without_media(task.prompt)
    return spoken_to(tokenizer, ears, prompt, [] if clip is None else [clip], max_tokens=max_tokens)


def _time(
    engine: Engine, tokenizer: Tokenizer, ears: Ears, questions: Sequence[Question], name: str, settings: Settings,
    ctx: StageContext,
) -> None:  # fmt: skip
    """Note what one speaker waits for: from the end of the sound, its decoding included, to the first token, and to the last."""
    for question in questions:
        began = time.perf_counter()
        clip = clip_of_question(question, ears)
        engine.add(request_of(tokenizer, ears, question[0], clip, settings.max_tokens))
        first = None
        while engine.busy:
            written = engine.step()
            first = time.perf_counter() if first is None and written else first
        assert first is not None
        ctx.timing(model=name, alone=True, sound_s=round(_seconds(clip, ears), 3), first_token_s=round(first - began, 4),
                   all_s=round(time.perf_counter() - began, 4))  # fmt: skip
    engine.forget()


def _note_rate(ctx: StageContext, name: str, asked: int, sound: float, took: float) -> None:
    """Note the real-time factor: seconds of sound heard and answered in a second."""
    ctx.timing(model=name, alone=False, asked=asked, sound_s=round(sound, 3), all_s=round(took, 3),
               real_time_factor=round(sound / took, 2))  # fmt: skip


def _seconds(clip: Clip, ears: Ears) -> float:
    mel = ears.model.sound.mel
    return len(clip.frames_FM) * mel.hop / mel.rate


def _told(ctx: StageContext, name: str, first: int, most: int, done: int, of: int) -> None:
    """Progress of one part of a model's questions."""
    ctx.progress(first + done, most, model=name)


def _item(task: Task, model: str, text: str, finished: bool) -> Spoken:
    """An answer; it passes where it was ended, and says what a reference says. Its score is 1 less its error rate."""
    references, said = _references(task), units(text, task.lang)
    edits = errors(units(references[0], task.lang), said)
    return {
        "task_id": task.id,
        "model": model,
        "family": task.family,
        "capability": task.capability,
        "lang": task.lang,
        "text": text,
        "reference": references[0],
        "sentence": str(task.provenance.checks.get("shows", references[0])),
        "passed": finished and any(said == units(reference, task.lang) for reference in references),
        "finished": finished,
        "score": 1.0 - edits.rate,
    }


def _references(task: Task) -> list[str]:
    return [task.reference] if isinstance(task.reference, str) else list(task.reference)


def _scored(items: list[Spoken], seed: int) -> dict[str, Any]:
    """Pass rates as of `evals.scores`, with `errors` and `bleu` (`puna.speech.rates`)."""
    return score_of(items) | {"errors": error_rates(items, seed), "bleu": bleu_scores(items, seed)}


def _compared(claim: Comparison, by_model: dict[str, list[Spoken]], seed: int) -> dict[str, Any]:
    """The paired test of a claim, and how much lower the error rate is."""
    better, control = by_model[claim.better], by_model[claim.control]
    tested = compare(claim, better, control)
    return tested | {"errors": error_difference(claim.items(better), claim.items(control), seed)}


def _overall(errors: dict[str, Any]) -> dict[str, float]:
    """Rates over all languages, by kind and unit."""
    return {
        f"{family} {unit}": rate["rate"] for family, found in errors.items() for unit, rate in found.items() if unit != "lang"
    }
