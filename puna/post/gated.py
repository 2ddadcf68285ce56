"""Training that may not leave a worse model: the weights kept are those of the best look at the dev tasks, step 0 included.

Preferences and rewards are means to answers, and their own figures rise while answers get worse (`puna.post.gate`). So DPO and
GRPO look at the dev tasks on the way, and hand the policy on unchanged where no step was better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.post import spread
from puna.post.gate import Verdict, comparison
from puna.train.loop import Batches, Objective, TrainResult, train
from puna.train.optim import OptimSettings
from puna.train.schedule import LearningRate, Schedule


class Settings(spread.Settings):
    """Learning rate and looks at the dev tasks.

    Attributes:
        warmup: as in `puna.train.schedule.LearningRate`, which then falls to a tenth.
        evaluate_every: steps between looks (0: before and after alone).
        dev: dev tasks looked at; max_tokens: longest answer.
    """

    lr: NonNegativeFloat = 2e-4
    warmup: NonNegativeFloat = 8
    evaluate_every: NonNegativeInt = 10
    dev: PositiveInt = 500
    max_tokens: int = Field(64, ge=1)
    log_every: PositiveInt = 5
    checkpoint_seconds: NonNegativeFloat = execution(20.0)


def optimise(
    model: Any, objective: Objective, batches: Batches, steps: int, judge: Callable[[Any], Verdict], settings: Settings,
    ctx: StageContext,
) -> TrainResult:  # fmt: skip
    """Train for `steps`; the model then holds the weights of the best look."""

    def evaluate(current: Any, step: int) -> dict[str, Any]:
        verdict = judge(current)
        return {"dev": round(verdict.value, 6), "dev_measure": verdict.measure, "dev_n": verdict.n}

    return train(
        model,
        objective,
        batches,
        Schedule(steps=steps, lr=LearningRate(shape="linear", warmup=settings.warmup, final=0.1)),
        OptimSettings(name="adamw", lr=settings.lr, weight_decay=0.0),
        ctx,
        evaluate=evaluate,
        evaluate_every=settings.evaluate_every,
        keep_best="dev",
        log_every=settings.log_every,
        checkpoint_seconds=settings.checkpoint_seconds,
        device=settings.device,
    )


def outcome(result: TrainResult, verdict: Verdict, figures: tuple[str, ...], ctx: StageContext) -> dict[str, Any]:
    """What was kept. `figures` of training belong to `figures_step`: the step kept, else the last one measured."""
    looks = [(row["step"], row["dev"]) for row in result.rows if "dev" in row]
    measured = [row for row in result.rows if figures[0] in row]
    shown = next((row for row in measured if row["step"] == result.best_step), measured[-1])
    if result.best_step == 0:
        ctx.note(f"no step was better than the policy on the dev tasks ({verdict.text()}): kept step 0")
    before = Verdict(verdict.measure, looks[0][1], verdict.n)
    return {
        "steps": result.steps,
        "kept_step": result.best_step,
        "looks": looks,
        "loss": result.loss,
        "dev": verdict.summary(),
        "dev_before": looks[0][1],
        "gain": comparison(verdict, before)["difference"],
        "figures_step": shown["step"],
        **{key: shown[key] for key in figures},
    }
