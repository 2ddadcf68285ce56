"""The one training loop: pre-training, long context, annealing, SFT, reward, DPO and distillation are objectives on it.

A step first adds up what the whole optimiser step counts (all micro-batches, all ranks), then runs the micro-batches with that
one divisor; eight rows at once, one row eight times, or two ranks give the same gradient. Batches, learning rate and mix are pure
functions of the step, so the state is {step, weights, optimiser, metrics so far} and a resumed run repeats the uninterrupted one
to the bit. Sums stay on the device; the host waits once per step, for its loss and gradient norm, because a step that is not
finite must be left out before it touches the weights (section 3.3.4 reports loss spikes without interventions; we keep a guard).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from puna.core.errors import RunError
from puna.core.stage import StageContext
from puna.train import state
from puna.train.meter import NOTHING_MORE, Measuring, Meter
from puna.train.objectives import Objective
from puna.train.optim import Optimizer, OptimSettings, build
from puna.train.packing import Batch, Batches
from puna.train.parallel.layout import Precision
from puna.train.place import Place, Whole
from puna.train.result import Rows, TrainResult
from puna.train.schedule import Schedule
from puna.train.spikes import Spikes
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.sharded import ShardedWriter

__all__ = ["Batch", "Batches", "Objective", "TrainResult", "train"]

PROGRESS_SECONDS = 0.5  # how often the console hears of the loop
Evaluate = Callable[[Any, int], Rows]


def train(
    model: nn.Module | Place,
    objective: Objective,
    batches: Batches,
    schedule: Schedule,
    optim: OptimSettings,
    ctx: StageContext,
    *,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    keep_best: str | None = None,
    average_every: int = 0,
    average_from: int = 0,
    log_every: int = 10,
    checkpoint_seconds: float = 30.0,
    max_skips: int = 3,
    name: str = "train",
    optimizer: Optimizer | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
    measuring: Measuring = NOTHING_MORE,
) -> TrainResult:
    """Train `model` in place for `schedule.steps` steps, resuming from `ctx.scratch/name` if it holds a checkpoint.

    Args:
        model: whole in this process, or laid out over several.
        batches: pure function of the step; the micro-batches of this rank (at least one).
        evaluate: called with (model, step) every `evaluate_every` steps and after the last; what it returns becomes metric rows.
            It must be deterministic and must not write metrics itself, so that a resumed run repeats them.
        keep_best: a key of `evaluate`'s rows; the weights at its largest value (step 0 included) are restored at the end.
        average_every: from step `average_from` on, add the weights to a running mean every so many steps (Polyak average).
        log_every: steps per metrics row.
        checkpoint_seconds: wall time between checkpoints; one is also written on a stop and at the end.
        max_skips: consecutive steps left out (not finite, or spikes if `optim` says so) after which the run fails.
        name: of this call within the stage; its checkpoints and rows carry it.
        optimizer: one to go on with (from an earlier call); None starts afresh.
        precision: of the products of a model that is whole in this process.
        measuring: what is measured of its speed, and steps to trace.

    Raises:
        Preempted: a stop was asked for; the state is saved.
        RunError: the loss stayed non-finite, or a step has nothing to learn.
    """
    world = World.current()
    place: Place = Whole(model, world, device, precision) if isinstance(model, nn.Module) else model
    place.train()
    optimizer = optimizer or build(place.named(), optim, place.dtype)
    spikes = Spikes(optim.spike_deviations, optim.spike_window)
    config = None if hasattr(model, "attach") else getattr(model, "config", None)  # FLOPs of adapters are not known
    meter = Meter(ctx, world, name, device, config, measuring)
    loop = _Loop(
        model, place, objective, schedule, optim, ctx, optimizer, world, name, log_every, max_skips, keep_best, device, spikes,
        meter,
    )  # fmt: skip
    resumed = loop.resume()
    if not resumed and evaluate and keep_best:
        loop.evaluated(evaluate, 0)
    saved_at = time.monotonic()
    while loop.step < schedule.steps:
        loop.stop_or_go()
        ctx.alive(loop.step, "reading")
        with meter.traced(loop.step):
            loop.run_step(meter.read(batches, loop.step))
        if loop.step % log_every == 0 or loop.step == schedule.steps:
            loop.log()
        if average_every and loop.step > average_from and loop.step % average_every == 0:
            loop.add_to_average()
        if evaluate and (loop.step == schedule.steps or (evaluate_every and loop.step % evaluate_every == 0)):
            loop.evaluated(evaluate, loop.step)
        if loop.world.any(time.monotonic() - saved_at > checkpoint_seconds) or loop.step == schedule.steps:
            loop.save(wait=loop.step == schedule.steps)
            saved_at = time.monotonic()
    meter.finish()
    return loop.result()


@dataclass
class _Loop:
    """State of one run of the loop. What is not among the fields after `meter` is a pure function of the step."""

    model: Any  # what `evaluate` reads with
    place: Place
    objective: Objective
    schedule: Schedule
    optim: OptimSettings
    ctx: StageContext
    optimizer: Optimizer
    world: World
    name: str
    log_every: int
    max_skips: int
    keep_best: str | None
    device: str
    spikes: Spikes
    meter: Meter
    step: int = 0
    tokens: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    averaged: int = 0
    best: tuple[int, float] | None = None
    counts: dict[str, float] = field(default_factory=dict)  # of the current log interval, over all ranks
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the current log interval, this rank's, on the device
    shadows: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # "average" and "best" weights
    shown: float = 0.0
    writer: ShardedWriter | None = None

    # ---- one optimiser step -------------------------------------------------------------------------------------------

    def run_step(self, micro_batches: list[Batch]) -> None:
        """Count, backward with the global divisor, reduce, clip, update; or leave the step out if it is not finite."""
        local = [self.place.local(batch) for batch in micro_batches]
        self.ctx.alive(self.step, "counting with the others")
        counts = self._step_counts(local)
        scales = {term: weight / counts[term] for term, weight in self.objective.weights.items() if counts.get(term, 0.0) > 0}
        self.ctx.alive(self.step, "in its passes")
        sums, loss = self.place.backward(self.objective, [batch.to(self.device) for batch in local], scales)
        norm = self.place.gradient_norm()
        self.ctx.alive(self.step, "comparing with the others")
        total = self.world.sum_values({"loss": float(loss)})["loss"]  # the one wait for the device
        wrong = self.spikes.reason(total, float(norm))
        if wrong:
            self._skip(wrong)
        else:
            self._update(norm)
            self._accumulate(sums, counts, norm)
        for parameter in self.optimizer.named.values():
            parameter.grad = None
        self.step += 1
        self.tokens += int(counts["tokens"])
        self.meter.stepped(int(counts["tokens"]), kept=not wrong)
        self._show()

    def _step_counts(self, micro_batches: list[Batch]) -> dict[str, float]:
        total = {"tokens": float(sum(batch.tokens() for batch in micro_batches))}
        for batch in micro_batches:
            for term, count in self.objective.counts(batch).items():
                total[term] = total.get(term, 0.0) + count
        self.meter.before_message()
        total = self.world.sum_values(total)
        if not any(total.get(term, 0.0) > 0 for term in self.objective.weights):
            raise RunError(f"step {self.step} has not one token to learn from", where=f"{self.ctx.name}, {self.name}",
                           fix="check the loss masks of the data this stage reads")  # fmt: skip
        return total

    def _update(self, norm: Tensor) -> None:
        if self.optim.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self.optimizer.named.values(), self.optim.clip, norm, foreach=True)
        self.optimizer.step(self.optim.lr * self.schedule.lr_factor(self.step))

    def _accumulate(self, sums: dict[str, Tensor], counts: dict[str, float], norm: Tensor) -> None:
        sums["grad_norm"], counts = norm.detach().double() / self.world.owners, {**counts, "grad_norm": 1.0}
        for key, value in sums.items():
            self.sums[key] = self.sums[key] + value if key in self.sums else value
        for key, count in counts.items():
            self.counts[key] = self.counts.get(key, 0.0) + count

    def _skip(self, wrong: str) -> None:
        self.skipped.append(self.step)
        self.ctx.note(f"{self.name}: step {self.step} left out, {wrong}")
        run = self.skipped[-self.max_skips :]
        if len(run) == self.max_skips and run[-1] - run[0] == self.max_skips - 1:
            raise RunError(f"{self.max_skips} steps in a row were left out, of the last {wrong}",
                           where=f"{self.ctx.name}, step {self.step}",
                           fix="lower optim.lr, raise the warm-up, or look at the data of this step")  # fmt: skip

    # ---- what is shown and recorded -----------------------------------------------------------------------------------

    def log(self) -> None:
        """Close the log interval: one row of means, deterministic, and one timing row."""
        means = self._interval_means()
        weights = self.objective.weights
        loss = sum(weight * means[term] for term, weight in weights.items() if term in means)
        row = {"step": self.schedule.first + self.step, "loss": loss if means else None, "tokens": self.tokens,
               "lr": self.optim.lr * self.schedule.lr_factor(self.step - 1)}  # fmt: skip
        row |= {key: value for key, value in means.items() if key not in weights or len(weights) > 1}
        if self.skipped:
            row["skipped"] = len(self.skipped)
        self._record(row)
        self.meter.log(self.schedule.first + self.step)
        if self.writer is not None:
            self.writer.finish_if_written()

    def _interval_means(self) -> dict[str, float]:
        values = {key: float(value) for key, value in sorted(self.sums.items())}
        values = self.world.sum_found(values)
        means = {key: value / self.counts.get(key, 1.0) for key, value in values.items() if self.counts.get(key, 1.0)}
        self.sums, self.counts = {}, {}
        return {key: _rounded(value) for key, value in means.items()}

    def evaluated(self, evaluate: Evaluate, step: int) -> None:
        """Run `evaluate`, record its rows, and keep the weights if they are the best so far."""
        self.place.train(False)
        with torch.no_grad(), self.meter.during("evaluation"):
            found = evaluate(self.model, step)
        self.place.train()
        for row in [found] if isinstance(found, dict) else found or []:
            self._record({"step": self.schedule.first + step, **row})
            value = row.get(self.keep_best) if self.keep_best else None
            if value is not None and (self.best is None or value > self.best[1]):
                self.best = (step, value)
                self.shadows["best"] = {name: p.detach().clone() for name, p in self.place.named().items()}

    def add_to_average(self) -> None:
        """Running mean of the weights, in float32 whatever they train in."""
        parameters = {name: p.detach().float() for name, p in self.place.named().items()}
        self.averaged += 1
        if self.averaged == 1:
            self.shadows["average"] = {name: value.clone() for name, value in parameters.items()}
        else:
            mean = self.shadows["average"]
            torch._foreach_lerp_(list(mean.values()), [parameters[name] for name in mean], 1 / self.averaged)

    def _record(self, row: dict[str, Any]) -> None:
        if self.name != "train":
            row = {"phase": self.name, **row}
        self.rows.append(row)
        if self.world.process == 0:
            self.ctx.metric(**row)

    def _show(self) -> None:
        now = time.monotonic()
        if self.world.process or (now - self.shown < PROGRESS_SECONDS and self.step < self.schedule.steps):
            return
        self.shown = now
        last = next(({"loss": row["loss"]} for row in reversed(self.rows) if row.get("loss") is not None), {})
        done, total = self.schedule.first + self.step, self.schedule.of or self.schedule.steps
        self.ctx.progress(done, total, **last, tokens_per_s=round(self.meter.rate()), phase=self.name)

    # ---- state --------------------------------------------------------------------------------------------------------

    def stop_or_go(self) -> None:
        """Save and raise Preempted if any rank was asked to stop."""
        if self.world.any(self.ctx.stopping()):
            self.save(wait=True)
            self.ctx.checkpoint_or_stop(lambda: None)

    def save(self, wait: bool = False) -> None:
        """Write the state to `ctx.scratch/name`; the sums of all ranks are folded into one first.

        A model that is laid out over processes is written in the background; `wait` for it.
        """
        self.ctx.alive(self.step, "saving")
        with self.meter.during("checkpoint"):
            self._save(wait)

    def _save(self, wait: bool) -> None:
        sums = self.world.sum_found({key: float(value) for key, value in self.sums.items()})
        self._own_sums(sums)
        record = {name: getattr(self, name) for name in ("tokens", "rows", "skipped", "averaged", "best", "counts")}
        record |= {"spikes": [self.spikes.losses, self.spikes.norms], "seconds": self.meter.state()}
        record |= {"sums": sums, "shadows": sorted(self.shadows), "contract": self._contract()}
        tensors = self._tensors()
        if isinstance(self.place, Whole):
            if self.world.process == 0:
                state.write_state(self.ctx.scratch / self.name, self.step, tensors, record)
            self.world.barrier()
            return
        self._writer().start(self.step, tensors, copy.deepcopy(record))  # training goes on while it is written
        if wait:
            self._writer().finish()

    def _writer(self) -> ShardedWriter:
        from puna.train.parallel.sharded import ShardedWriter

        if self.writer is None:
            self.writer = ShardedWriter(self.ctx.scratch / self.name, self.world, self.ctx.alive)
        return self.writer

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{name}": value for name, value in self._weights().items()}
        tensors |= {f"optimizer/{name}": value for name, value in self.optimizer.state_tensors().items()}
        return tensors | {f"{shadow}/{name}": value for shadow, part in self.shadows.items() for name, value in part.items()}

    def _own_sums(self, sums: dict[str, float]) -> None:
        """From here on the first of the processes that count holds what all have summed so far."""
        keep = 1.0 if self.world.speaker else 0.0
        self.sums = {key: torch.tensor(value * keep, dtype=torch.float64, device=self.device) for key, value in sums.items()}

    def resume(self) -> bool:
        """Load the newest whole checkpoint of this run, replay its metric rows, and say whether there was one."""
        found = state.newest(self.ctx.scratch / self.name, self.ctx.note, self.world)
        if found is None:
            return False
        path, record = found
        if record["contract"] != self._contract():
            self.ctx.note(f"{self.name}: the checkpoint in scratch is of other settings and is not used")
            return False
        self._load(path, record["shadows"])
        self._own_sums(record["sums"])
        self.step, self.tokens, self.counts = record["step"], record["tokens"], record["counts"]
        self.skipped, self.averaged = record["skipped"], record["averaged"]
        self.spikes.losses, self.spikes.norms = record["spikes"]
        self.best = tuple(record["best"]) if record["best"] else None
        self.meter.load(record.get("seconds", {}))
        for row in record["rows"]:
            self.rows.append(row)
            if self.world.process == 0:
                self.ctx.metric(**row)
        return True

    def _load(self, path: Path, shadows: list[str]) -> None:
        """Weights, optimiser and shadows from a checkpoint, of this process's shares where the model is laid out."""
        places = None
        if not isinstance(self.place, Whole):
            self.optimizer.prepare()
            self.shadows = {name: {key: torch.zeros_like(value) for key, value in self._weights().items()} for name in shadows}
            places = self._tensors()
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in state.read_tensors(path, places).items():
            kind, _, name = key.partition("/")
            parts.setdefault(kind, {})[name] = value
        if places is None:
            with torch.no_grad():
                for name, value in self._weights().items():
                    value.copy_(parts["model"][name])
            self.shadows = {name: {k: v.to(self.device) for k, v in parts[name].items()} for name in shadows}
            self.optimizer.load_state_tensors(parts.get("optimizer", {}))

    def _weights(self) -> dict[str, Tensor]:
        """Parameters (a tied one once), this process's shares of them, and persistent buffers, by name."""
        named = {name: p.detach() for name, p in self.place.named().items()}
        if isinstance(self.place, Whole):
            kept = self.place.model.state_dict(keep_vars=True)
            named |= {name: b for name, b in self.place.model.named_buffers() if name in kept}
        return named

    def _contract(self) -> str:
        """Digest of what must not change between a checkpoint and its resumption; not the layout."""
        shapes = {name: list(shape) for name, shape in sorted(self.place.shapes().items())}
        text = json.dumps([self.schedule.identity(), self.optim.identity(), self.objective.weights, self.log_every, shapes])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def result(self) -> TrainResult:
        """The result, with the best weights back in the model if they were asked for."""
        if self.keep_best and "best" in self.shadows:
            with torch.no_grad():
                for name, parameter in self.place.named().items():
                    parameter.copy_(self.shadows["best"][name])
        losses = [row["loss"] for row in self.rows if row.get("loss") is not None]
        first, last = (losses[0], losses[-1]) if losses else (math.nan, math.nan)
        self.place.train(False)
        best: tuple[Any, Any] = self.best or (None, None)
        average = self.shadows.get("average")
        return TrainResult(self.step, self.tokens, first, last, self.skipped, self.rows, best[0], best[1], average,
                           self.optimizer, self.place.precision)  # fmt: skip


def _rounded(value: float) -> float:
    """Eight significant digits: what float32 can mean."""
    return float(f"{value:.8g}")
