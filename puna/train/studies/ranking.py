"""From the small models of a mix study to an order of the mixes at the size that matters (paper 3.1.2).

A law per mix predicts the bigger model's held-out loss; redrawing the held-out rows (and, with several seeds, the chance of
training) and fitting again says how sure the order is. Differences between mixes hold together with 95 %, so that with many
candidates chance does not pass for a winner; pairs whose interval includes zero are listed as not told apart. The intervals do
not cover that the law itself may be wrong: the backtest (largest size predicted from the smaller ones) and the target runs do.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from puna.core.recipe import STAGE_NAME
from puna.core.rng import numpy_stream
from puna.core.stage import Artifact, StageContext
from puna.plan.flops import training_flops_per_token
from puna.train.pretrain import ModelShape
from puna.train.schedule import Batching
from puna.train.studies.law import EXPONENTS, Kind, Law, fit, points_needed
from puna.train.studies.rows import (
    Noise,
    Rows,
    goal_weights,
    interval,
    losses,
    read_rows,
    redrawn_losses,
    rounded,
    simultaneous,
    training_noise,
)
from puna.train.studies.trial import TRIAL_FILE, Training

KIND = "ranking"
REVISION = 1


class Size(ModelShape):
    """A model of the ladder and for how many steps it is trained."""

    steps: PositiveInt


class Settings(Training):
    """Which mixes are compared, on which ladder, for which bigger model.

    Attributes:
        mixes: candidates by name: weight per group or source, or nothing for the corpus's own mix.
        control: the mix the others must beat; by default the first.
        sizes: the ladder of small models.
        target: the model the study is about, larger than the ladder's.
        seeds: how often each small model is trained; from two on, intervals include the chance of training.
        law: see `puna.train.studies.law`.
        goal: weight of each group in the loss the mixes are judged by; by default all groups count the same.
        draws: bootstrap draws.
    """

    mixes: dict[str, dict[str, NonNegativeFloat] | None]
    control: str | None = None
    sizes: tuple[Size, ...]
    target: Size
    seeds: int = Field(1, ge=1)
    law: Kind = "saturating"
    goal: dict[str, NonNegativeFloat] | None = None
    draws: int = Field(1000, ge=100)

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if len(self.mixes) < 2:
            raise ValueError("a study compares at least two mixes")
        bad = [name for name in self.mixes if not STAGE_NAME.fullmatch(name)]
        if bad:
            raise ValueError(f"'{bad[0]}' cannot name a mix: use letters, digits, - and _")
        if self.control is not None and self.control not in self.mixes:
            raise ValueError(f"control must be one of {', '.join(self.mixes)}")
        if len(self.sizes) < points_needed(self.law):
            raise ValueError(f"a {self.law} law needs at least {points_needed(self.law)} sizes")
        return self

    @property
    def against(self) -> str:
        """Name of the control."""
        return self.control or next(iter(self.mixes))


@dataclass(frozen=True)
class Ladder:
    """The small models of a study as arrays.

    Attributes:
        names: of the mixes, in the recipe's order; `weights` of each as trained.
        flops: of each size, [sizes].
        cells: held-out loss, [mixes, sizes, seeds]; `redrawn`: with rows (and seeds) drawn again, [draws, mixes, sizes].
        goal, rows: weights of the loss, and held-out rows by group.
        noise: what other seeds would change.
        vocab_size: of the tokenizer.
    """

    names: list[str]
    weights: dict[str, dict[str, float]]
    flops: np.ndarray
    cells: np.ndarray
    redrawn: np.ndarray
    goal: dict[str, float]
    rows: dict[str, int]
    noise: Noise
    vocab_size: int


def arm(study: str, mix: str, size: int, replicate: int) -> str:
    """Name of the sub-stage that trains one arm; sizes and replicates count from 1."""
    return f"{study}.{mix}.s{size}-r{replicate}"


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Rank the mixes and write `ranking.json`; `check` names the best and what it is checked against."""
    ladder = read_ladder(settings, ctx.inputs.artifacts, ctx.name.rpartition(".")[0], ctx.stream_seed("draws"))
    found = ranking(settings, ladder, target_flops(settings, ladder.vocab_size))
    (ctx.out / "ranking.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return {key: found[key] for key in ("order", "check", "not_told_apart")}


def read_ladder(settings: Settings, artifacts: Sequence[Artifact], study: str, seed: int) -> Ladder:
    """The arms of `study` among the artifacts as arrays, held-out rows and training noise drawn again from `seed`."""
    by_name = {artifact.name: artifact for artifact in artifacts}
    names, seeds = list(settings.mixes), range(1, settings.seeds + 1)
    order = [arm(study, *key) for key in itertools.product(names, range(1, len(settings.sizes) + 1), seeds)]
    runs: list[Rows] = [read_rows(by_name[name].path) for name in order]
    facts = {name: json.loads((by_name[name].path / TRIAL_FILE).read_text()) for name in order}
    goal = goal_weights(settings.goal, sorted(runs[0]), "goal")
    shape = (len(names), len(settings.sizes), settings.seeds)
    cells = losses(runs, goal).reshape(shape)
    noise = training_noise(cells.transpose(1, 0, 2))
    redrawn = redrawn_losses(runs, goal, seed, settings.draws).reshape(settings.draws, *shape).mean(axis=-1)
    redrawn += noise.draws(settings.draws, shape[1], shape[0], numpy_stream(seed, "seeds")).transpose(0, 2, 1)
    return Ladder(
        names=names,
        weights={name: facts[arm(study, name, 1, 1)]["weights"] for name in names},
        flops=np.array([facts[arm(study, names[0], i + 1, 1)]["flops"] for i in range(shape[1])]),
        cells=cells, redrawn=redrawn, goal=goal, rows={group: len(rows) for group, rows in runs[0].items()},
        noise=noise, vocab_size=facts[order[0]]["vocab_size"],
    )  # fmt: skip


def target_flops(settings: Settings, vocab_size: int) -> float:
    """Training FLOPs of the target, by the same convention as the ladder's."""
    shape = settings.target.config(vocab_size, settings.seq_len)
    tokens = (
        settings.target.steps * Batching(batch_tokens=settings.batch_tokens, seq_len=settings.seq_len).rows * settings.seq_len
    )
    return training_flops_per_token(shape, settings.seq_len) * tokens


def predictions(settings: Settings, ladder: Ladder, flops: float) -> tuple[Law, np.ndarray, np.ndarray]:
    """The laws of the mixes, the loss they predict at `flops` [mixes], and the same from every redrawn table [draws, mixes]."""
    fitted = fit(ladder.flops, ladder.cells.mean(axis=-1), settings.law)
    return fitted, fitted.predict(flops), fit(ladder.flops, ladder.redrawn, settings.law).predict(flops)


def ranking(settings: Settings, ladder: Ladder, flops: float) -> dict[str, Any]:
    """Order, laws, predictions with intervals, differences to the control, and the pairs not told apart; JSON values."""
    fitted, points, draws = predictions(settings, ladder, flops)
    order = [ladder.names[i] for i in np.argsort(points, kind="stable")]
    best = (draws == draws.min(axis=1, keepdims=True)).mean(axis=0)
    mixes = {}
    for i, name in enumerate(ladder.names):
        low, high = interval(draws[:, i])
        mixes[name] = {
            "weights": ladder.weights[name], "predicted": rounded(points[i]), "low": rounded(low), "high": rounded(high),
            "best_in": rounded(best[i]), "ladder": [rounded(loss) for loss in ladder.cells[i].mean(axis=-1)],
            "floor": rounded(fitted.floor[i]), "scale": rounded(fitted.scale[i]), "exponent": rounded(fitted.exponent[i]),
        }  # fmt: skip
    control = settings.against
    other = control if order[0] != control else order[1]
    pairs = differences(ladder.names, points, draws, list(itertools.combinations(ladder.names, 2)))
    return {
        "order": order, "check": [order[0], other], "control": control, "mixes": mixes,
        "weights": ladder.weights, "law": settings.law, "unit_flops": fitted.unit, "ladder_flops": ladder.flops.tolist(),
        "target_flops": flops, "goal": ladder.goal, "held_rows": ladder.rows, "draws": settings.draws, "seeds": settings.seeds,
        "seed_noise": rounded(ladder.noise.own) if ladder.noise.own_degrees else None,
        "seed_degrees": ladder.noise.own_degrees,
        "exponent_at_edge": bool(settings.law == "saturating" and fitted.exponent[0] in (EXPONENTS[0], EXPONENTS[-1])),
        "against_control": differences(ladder.names, points, draws, [(n, control) for n in ladder.names if n != control]),
        "not_told_apart": [[pair["mix"], pair["control"]] for pair in pairs if pair["low"] <= 0 <= pair["high"]],
        "backtest": backtest(settings, ladder),
    }  # fmt: skip


def differences(names: list[str], points: np.ndarray, draws: np.ndarray, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Predicted loss of the first minus that of the second of each pair, with intervals that hold together, and a verdict."""
    first, second = ([names.index(pair[side]) for pair in pairs] for side in (0, 1))
    change = points[first] - points[second]
    low, high = simultaneous(change, draws[:, first] - draws[:, second])
    return [
        {"mix": pair[0], "control": pair[1], "difference": rounded(change[i]), "low": rounded(low[i]), "high": rounded(high[i]),
         "verdict": verdict(low[i], high[i])}
        for i, pair in enumerate(pairs)
    ]  # fmt: skip


def verdict(low: float, high: float) -> str:
    """What an interval of a difference in loss says: better, worse, or not told apart."""
    return "better" if high < 0 else "worse" if low > 0 else "not told apart"


def backtest(settings: Settings, ladder: Ladder) -> dict[str, Any] | None:
    """The largest size of the ladder predicted from the smaller ones, where those are enough: how far the law can be trusted."""
    if len(ladder.flops) <= points_needed(settings.law):
        return None
    at = np.argsort(ladder.flops)
    seen = fit(ladder.flops[at[:-1]], ladder.cells.mean(axis=-1)[:, at[:-1]], settings.law)
    predicted, actual = seen.predict(ladder.flops[at[-1]]), ladder.cells.mean(axis=-1)[:, at[-1]]
    return {
        "flops": float(ladder.flops[at[-1]]), "largest_error": rounded(np.abs(predicted - actual).max()),
        "mean_error": rounded((predicted - actual).mean()),
        "mixes": {n: [rounded(p), rounded(a)] for n, p, a in zip(ladder.names, predicted, actual, strict=True)},
    }  # fmt: skip
