"""Video training (section 7.5): a model that sees pictures gets a video adapter, which alone is trained.

Frames go through the image encoder one by one; an aggregator merges `factor` of them into one, which further cross-attention
layers read. Paper: pre-training from the annealed image model on 16 frames merged into 1, batch 4,096, texts of 190 tokens,
rate 1e-4; then fine-tuning on 64 frames merged into 2. Both are this stage, the second on what the first has left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat, PositiveInt

from puna.core.stage import StageContext
from puna.post import adapters, spread
from puna.vision import fit
from puna.vision.config import MOST_FRAMES, VideoConfig, video_places
from puna.vision.fit import Learner

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "vision_model"
REVISION = 1


class Settings(fit.Settings):
    """The video adapter, and how it learns.

    Attributes:
        factor: frames that are merged into one.
        dim, layers, heads: of the aggregator (paper's size: 1280, 6, 16). gate: where the gates of its cross-attention start.
        cross_layers: video cross-attention layers; None is one for every four of the image's, as in the paper.

    All but `factor` describe an adapter that is made here; a model that has one keeps it.
    """

    factor: PositiveInt = 16
    dim: PositiveInt = 64
    layers: PositiveInt = 2
    heads: PositiveInt = 4
    cross_layers: PositiveInt | None = None
    gate: NonNegativeFloat = 0.0


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train the video adapter of the `vision_model` on the rows with videos; a `model` input replaces the text model."""
    return spread.on_ranks(_train, settings, ctx)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    learner = fit.opened(ctx, ctx.inputs.one("vision_model"))
    learner = fit.swapped(learner, *adapters.opened_text(ctx)) if ctx.inputs.all("model") else learner
    _give_adapter(learner, settings, ctx)
    return {"factor": settings.factor, "frames": settings.frames, **fit.fit(learner, ("video",), settings, ctx, meshes, "videos")}


def _give_adapter(learner: Learner, settings: Settings, ctx: StageContext) -> None:
    """A new video adapter where the model has none; else the factor of the one it has."""
    model = learner.model
    if model.video is not None:
        model.video.config = replace(model.video.config, factor=settings.factor)
        return
    places = model.adapter.config.places
    config = VideoConfig(
        video_places(places, settings.cross_layers), settings.factor, settings.dim, settings.layers, settings.heads,
        frames=max(settings.frames, MOST_FRAMES),
    )  # fmt: skip
    model.add_video(config, seed=ctx.stream_seed("weights"), gate=settings.gate)
