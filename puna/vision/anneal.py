"""Annealing at a higher resolution (section 7.3): larger tiles, the optimiser anew with a warm-up, a rate that falls to
nothing.

The tables of positions grow with the tiles (`puna.vision.resize`). Paper: about 500M pictures, of them 350M resampled pairs and
150M with grounding, screenshots, questions, synthetic captions and structured images; rate 2e-5 after a warm-up, cosine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat, PositiveInt

from puna.core.stage import StageContext
from puna.post import spread
from puna.vision import fit
from puna.vision.resize import resized

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "vision_model"
REVISION = 1


class Settings(fit.Settings):
    """`tile`: pixels of a side of a tile from here on; None keeps it."""

    tile: PositiveInt | None = None
    final: NonNegativeFloat = 0.0


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train encoder and adapter of the `vision_model` on, at another tile size."""
    return spread.on_ranks(_train, settings, ctx)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    learner = fit.opened(ctx, ctx.inputs.one("vision_model"))
    encoder = learner.model.encoder
    learner.model.encoder = resized(encoder, settings.tile or encoder.config.tile)
    found = fit.fit(learner, ("encoder", "adapter"), settings, ctx, meshes)
    return {"tile": learner.model.encoder.config.tile, "tile_before": encoder.config.tile, **found}
