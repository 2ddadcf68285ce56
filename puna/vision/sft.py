"""Supervised fine-tuning on pictures (section 7.6.2): the instruction-tuned text model takes the place of the base.

The adapter learnt with the base model and goes on with the chat model in its place; encoder and adapter are trained on
questions and dialogs. The paper sweeps over data and rates and averages the best (`vision.average`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puna.core.stage import StageContext
from puna.post import adapters, spread
from puna.vision import fit

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "vision_model"
REVISION = 1


class Settings(fit.Settings):
    """As of every adapter stage."""


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Put the `model` input into the `vision_model` in place of its text model, and train encoder and adapter."""
    return spread.on_ranks(_train, settings, ctx)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    learner = fit.swapped(fit.opened(ctx, ctx.inputs.one("vision_model")), *adapters.opened_text(ctx))
    return fit.fit(learner, ("encoder", "adapter"), settings, ctx, meshes)
