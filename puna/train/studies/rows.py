"""Held-out losses row by row, and what chance could have done to them: the common ground of all studies.

Two models are compared on the same held-out rows, since rows differ far more from each other than models do. Two things vary:
which rows happened to be held out (rows are drawn again with replacement, the same ones for every model), and the chance of
training (first weights and order of the data), which shows only when a study trains with several seeds. Its size, pooled over
all arms, is then added to the draws; without it an interval covers the choice of rows alone, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puna.core.errors import InputError
from puna.core.rng import derive_seed, numpy_stream
from puna.core.stage import StageContext
from puna.train.objectives import token_logps
from puna.train.packing import IGNORED, Batch

ROWS_FILE = "held_rows.json"
ROWS_AT_ONCE = 8
Rows = dict[str, np.ndarray]  # group -> float64 [rows, 2]: summed loss in nats, tokens learnt


@dataclass
class StudyContext(StageContext):
    """A context whose random streams are those of a study and not of the stage: all arms start and read alike."""

    streams: str = field(default="", kw_only=True)

    def stream_seed(self, *names: str | int) -> int:
        """Seed of a stream shared by every arm of the study."""
        return derive_seed(self.seed, self.streams, *names)


def in_study(ctx: StageContext, streams: str) -> StudyContext:
    """The same context with the random streams called `streams`."""
    return StudyContext(**vars(ctx), streams=streams)


@torch.no_grad()
def row_losses(model: Any, batches: Mapping[str, Batch]) -> Rows:
    """Summed loss and learnt tokens of every held-out row, by group."""
    found: Rows = {}
    for group, batch in batches.items():
        parts = [batch.rows(row, row + ROWS_AT_ONCE) for row in range(0, len(batch.ids_BT), ROWS_AT_ONCE)]
        losses = torch.cat([-token_logps(model, part).double().sum(dim=1) for part in parts])
        counts = (batch.targets_BT != IGNORED).sum(dim=1).double()
        found[group] = torch.stack([losses, counts], dim=1).numpy()
    return found


def write_rows(rows: Rows, path: Path) -> None:
    """Write losses (eight digits, all that float32 can mean) and token counts by group."""
    table = {
        group: {"loss": [float(f"{loss:.8g}") for loss in values[:, 0]], "tokens": values[:, 1].astype(int).tolist()}
        for group, values in rows.items()
    }
    (path / ROWS_FILE).write_text(json.dumps(table, sort_keys=True) + "\n")


def read_rows(path: Path) -> Rows:
    """The rows written by `write_rows`."""
    table = json.loads((path / ROWS_FILE).read_text())
    return {group: np.array([part["loss"], part["tokens"]], np.float64).T for group, part in table.items()}


def goal_weights(goal: Mapping[str, float] | None, groups: Sequence[str], where: str) -> dict[str, float]:
    """Weight of each group in the loss arms are judged by, summing to 1; None gives all the same.

    Raises InputError for a group of which nothing is held out.
    """
    wanted = dict.fromkeys(groups, 1.0) if goal is None else {group: weight for group, weight in goal.items() if weight > 0}
    absent = sorted(set(wanted) - set(groups))
    if absent or not wanted:
        raise InputError(f"nothing is held out of {', '.join(absent) or 'any group'}, so it cannot be judged by", where=where,
                         fix=f"goal: over {', '.join(groups)}")  # fmt: skip
    return {group: weight / sum(wanted.values()) for group, weight in wanted.items()}


def losses(runs: Sequence[Rows], goal: Mapping[str, float]) -> np.ndarray:
    """Loss of each run in nats per token, averaged over groups by `goal`. Returns float64 [runs]."""
    return np.array([sum(w * run[g][:, 0].sum() / run[g][:, 1].sum() for g, w in goal.items()) for run in runs])


def redrawn_losses(runs: Sequence[Rows], goal: Mapping[str, float], seed: int, draws: int) -> np.ndarray:
    """The same with held-out rows drawn again with replacement, the same rows for every run. Returns float64 [draws, runs].

    Raises InputError when the runs were measured on different rows.
    """
    total = np.zeros((draws, len(runs)))
    for group, weight in goal.items():
        tokens = runs[0][group][:, 1]
        if any(not np.array_equal(run[group][:, 1], tokens) for run in runs):
            raise InputError("these models were measured on different held-out rows", where=group, fix="measure all in one study")
        n = len(tokens)
        times = numpy_stream(seed, "rows", group).multinomial(n, np.full(n, 1 / n), size=draws)
        total += weight * (times @ np.stack([run[group][:, 0] for run in runs], axis=1)) / (times @ tokens)[:, None]
    return total


@dataclass(frozen=True)
class Noise:
    """What another seed would change, as standard deviations of one run's loss: its own part, and the part all arms share.

    Arms of one seed begin alike and read alike, so much of the chance is common and cancels between them. `own_degrees` and
    `shared_degrees` say from how much this is estimated; 0 where there was one seed, and nothing is known.
    """

    own: float
    own_degrees: int
    shared: float
    shared_degrees: int
    seeds: int

    def draws(self, number: int, blocks: int, arms: int, rng: np.random.Generator) -> np.ndarray:
        """What chance adds to means over the seeds: Student's t, as the noise is an estimate. Returns [number, blocks, arms]."""
        total = np.zeros((number, blocks, arms))
        if self.own_degrees:
            total += self.own / np.sqrt(self.seeds) * rng.standard_t(self.own_degrees, total.shape)
            total += self.shared / np.sqrt(self.seeds) * rng.standard_t(self.shared_degrees, (number, blocks, 1))
        return total


def training_noise(cells: np.ndarray) -> Noise:
    """The noise of training, pooled over all runs of a study (two-way analysis of variance within each block).

    Args:
        cells: losses, [blocks, arms, seeds]; a block is a model size. At least two arms.
    """
    blocks, arms, seeds = cells.shape
    if seeds < 2:
        return Noise(0.0, 0, 0.0, 0, seeds)
    of_seed = cells.mean(axis=1, keepdims=True)
    rest = cells - cells.mean(axis=2, keepdims=True) - of_seed + cells.mean(axis=(1, 2), keepdims=True)
    degrees = blocks * (arms - 1) * (seeds - 1)
    own = float((rest**2).sum()) / degrees
    shared = max(0.0, float(of_seed.var(axis=2, ddof=1).mean()) - own / arms)
    return Noise(float(np.sqrt(own)), degrees, float(np.sqrt(shared)), blocks * (seeds - 1), seeds)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of one quantity. Args: draws [draws]."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def simultaneous(points: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of several differences that hold together with 95 %: as many standard errors as the worst of them needs.

    Args: points [k], draws [draws, k]. Returns: low [k], high [k].
    """
    below, middle, above = np.quantile(draws, [0.16, 0.5, 0.84], axis=0)  # not the deviation: few seeds make heavy tails
    errors = np.maximum((above - below) / 2, 1e-12)
    worst = (np.abs(draws - middle) / errors).max(axis=1)
    half = float(np.quantile(worst, 0.95)) * errors
    return points - half, points + half


def rounded(value: float) -> float:
    """Six significant digits for records."""
    return float(f"{value:.6g}")
