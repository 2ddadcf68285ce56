"""Of several models the one that does best on the dev tasks, unchanged: where a later stage is to start from the best so far."""

from __future__ import annotations

from typing import Any

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.post import checkpoints
from puna.post.rounds import verdict_of

KIND = "model"
REVISION = 1


class Settings(BaseSettings):
    """Nothing to set: the models carry their verdicts."""


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Hand the best model input on; a tie goes to the earlier one."""
    models = ctx.inputs.all("model")
    if not models:
        raise InputError("there is no model to choose from", where=ctx.name, fix="from: [one, another]")
    best = max(models, key=lambda model: verdict_of(model).value)
    checkpoints.carry(best, ctx)
    return {"kept": best.name, "models": {m.name: verdict_of(m).value for m in models}, "dev": verdict_of(best).summary()}
