"""Averaging of fine-tuned adapters (section 7.6.2): of a sweep, the K best are averaged, and K is chosen by trying.

The runs differ in data, rates and decay, and share one text model. Their encoders and adapters are averaged in float64; the best
average, of one model or more, on the dev questions is kept. The paper found averages to be better than the best single run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import execution
from puna.core.stage import Artifact, StageContext
from puna.infer.load import check_device
from puna.post.average import mean_weight
from puna.post.checkpoints import weights_digest
from puna.post.gate import Verdict, comparison
from puna.vision import fit
from puna.vision.dev import Question, judged, questions
from puna.vision.fit import Learner
from puna.vision.hf import load_vision
from puna.vision.model import VisionLlama
from puna.vision.rows import Sees
from puna.vision.tile_store import TileStore

KIND = "vision_model"
REVISION = 1


class Settings(BaseSettings):
    """`most` models to average (None: all); `dev` questions decide, about `sees`; videos give `frames` frames."""

    most: PositiveInt | None = None
    sees: Sees = "images"
    dev: PositiveInt = 500
    frames: PositiveInt = 16
    device: str = execution("cpu")
    cache_mb: NonNegativeInt = execution(512)


@dataclass
class Run:
    """One model of the sweep: its weights without the text model's, and its verdict."""

    artifact: Artifact
    weights: dict[str, Tensor]
    verdict: Verdict


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Average the best of the `vision_model` inputs."""
    check_device(settings.device, "device")
    parts = ctx.inputs.all("vision_model")
    if not parts:
        raise InputError("there is no model to average", where=ctx.name, fix="name at least one vision_model under `from`")
    learner = fit.opened(ctx, parts[0])
    learner.parents = parts
    tiles = fit.tiles_for(learner, settings.frames, settings.cache_mb)
    pictures, limit = ctx.inputs.all("pictures"), learner.model.config.max_seq_len
    asked = questions(pictures, learner.tokenizer, limit, settings.sees, settings.dev)
    if not asked:
        raise InputError("there is no dev question to choose by", where=ctx.name, fix="name a `pictures` stage under `from`")
    learner.model.to(settings.device)
    runs = [_read(part, learner, asked, tiles) for part in parts]
    order = sorted(runs, key=lambda one: -one.verdict.value)  # stable: of equals the earlier
    tried = [
        order[0].verdict,
        *(_of(order[:k], learner, asked, tiles) for k in range(2, 1 + min(settings.most or len(order), len(order)))),
    ]
    best = max(range(len(tried)), key=lambda i: (tried[i].value, -i))
    _fill(learner, order[: best + 1])
    return {
        "models": {one.artifact.name: one.verdict.summary() for one in runs},
        "order": [one.artifact.name for one in order],
        "averages": {str(k): verdict.summary() for k, verdict in enumerate(tried, start=1)},
        "kept": best + 1,
        "against_best": comparison(tried[best], tried[0]),
        **fit.finish(learner, tried[best], ctx),
    }


def _read(part: Artifact, learner: Learner, asked: Sequence[Question], tiles: TileStore) -> Run:
    """One model, judged; InputError where it cannot be averaged with the first."""
    model = load_vision(part.path)
    digest = weights_digest(model.text)
    if digest != learner.frozen.digest or built(model) != built(learner.model):
        raise InputError("models of other shapes or around another text model cannot be averaged",
                         where=f"{learner.parents[0].name} and {part.name}",
                         fix="average runs that start from one model and one text model")  # fmt: skip
    weights = {name: weight.detach() for name, weight in model.named_parameters() if not name.startswith("text.")}
    found = Run(part, weights, Verdict("none", 0.0, 0))
    found.verdict = _of([found], learner, asked, tiles)
    return found


def built(model: VisionLlama) -> tuple[Any, ...]:
    """How the parts around the text model are made: equal shapes alone may stand at other places, or for other frames."""
    return model.encoder.config, model.adapter.config, None if model.video is None else model.video.config


def _of(runs: Sequence[Run], learner: Learner, asked: Sequence[Question], tiles: TileStore) -> Verdict:
    """The verdict on the average of some runs."""
    _fill(learner, runs)
    return judged(learner.model, asked, learner.tokenizer, tiles)


@torch.no_grad()
def _fill(learner: Learner, runs: Sequence[Run]) -> None:
    """Give the model the mean of the weights of some runs."""
    named = dict(learner.model.named_parameters())
    for name in runs[0].weights:
        named[name].copy_(mean_weight([one.weights[name] for one in runs]))
