"""How fast a run goes and where its time is spent: rates, model FLOPs utilisation, memory, waits, stragglers, goodput.

Nothing of it decides anything and nothing of it repeats, so it goes to `volatile/` and never into metrics or digests. The sums of
seconds travel in the checkpoint: what a killed process did after its last checkpoint is done again, so it was not useful.

Goodput is the seconds of optimiser steps that were kept, data waits left out, over all seconds since training first began,
restarts and pauses included (the paper reports over 90 % of effective training time, section 3.3.4).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from typing import Any

import torch

from puna.core.hardware import matmul_gflops
from puna.core.stage import VOLATILE, StageContext
from puna.model.config import ModelConfig
from puna.plan.flops import training_flops_per_token
from puna.plan.speed import peak_tflops_of
from puna.train.packing import Batch, Batches
from puna.train.profiler import Profiler
from puna.train.world import World

CONVENTION = "6 N (without embedding) + 12 L d S per token, attention counted whole"  # `puna.plan.flops`
CLOCK, GOODPUT = "clock.json", "goodput.json"
GEMM_SIZE, GEMM_SECONDS = 512, 0.03  # of the matrix product that measures a processor
NOTE_SECONDS = 60.0  # a shorter run that never was interrupted says nothing of its goodput
KINDS = ("step", "data", "checkpoint", "evaluation")


@dataclass(frozen=True)
class Measuring:
    """What a run is asked to measure of itself.

    Attributes:
        peak_tflops: of one device, to divide by; None: by the device's name, or measured on a processor.
        profile: (first step, number of steps) to trace, or None.
    """

    peak_tflops: float | None = None
    profile: tuple[int, int] | None = None


NOTHING_MORE = Measuring()


@dataclass
class Meter:
    """The clock of one call of the training loop.

    Attributes:
        config: of the model, for its FLOPs; None leaves the utilisation out.
        spent: seconds by kind over all starts, those of lost steps left out; `step` is of kept steps, without the data wait.
        tokens: read by this process's world since it started.
    """

    ctx: StageContext
    world: World
    name: str
    device: str
    config: ModelConfig | None
    measuring: Measuring
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    tokens: int = 0

    def __post_init__(self) -> None:
        self.started = self.logged = time.monotonic()
        self.began, self.starts = self._clock()
        self.interval = dict.fromkeys((*KINDS, "work", "tokens", "flops"), 0.0)
        self._at = self._own_at = 0.0
        self._flops = 0.0  # of a token of this step
        asked = self.measuring.profile
        self.profiler = Profiler(self.ctx, self.world, self.name, self.device, asked) if asked else None
        self._own = _Own() if self.world.processes > 1 and self.device == "cpu" else None

    def _clock(self) -> tuple[float, int]:
        """When the stage first trained (Unix time), and how often this call has been started."""
        path = self.ctx.scratch / CLOCK
        known: dict[str, Any] = {"began": time.time(), "starts": {}}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(path.read_text())
        starts = known["starts"].get(self.name, 0) + 1
        if self.world.process == 0:
            known["starts"][self.name] = starts
            part = path.with_suffix(".part")
            part.write_text(json.dumps(known))
            part.replace(path)
        return known["began"], starts

    # ---- one step: read, then before_message, then stepped

    def read(self, batches: Batches, step: int) -> list[Batch]:
        """The micro-batches of a step, and how long they took."""
        start = time.monotonic()
        found = batches(step)
        self._at = time.monotonic()
        self._add("data", self._at - start)
        self.interval["work"] += self._at - start
        if self._own is not None:
            self._own_at = self._own()
        if self.config is not None:
            cells = [batch.ids_BT.numel() for batch in found]
            per = [_flops_per_token(self.config, batch.ids_BT.shape[1]) for batch in found]
            self._flops = sum(map(float.__mul__, map(float, cells), per)) / sum(cells)
        return found

    def before_message(self) -> None:
        """The batches are ready, and the first message of the step to the other processes comes."""
        if self._own is None:
            self.interval["work"] += time.monotonic() - self._at

    def stepped(self, tokens: int, kept: bool) -> None:
        """The step is over; `tokens` over all processes, `kept` unless it was left out."""
        if self._own is not None:
            self.interval["work"] += self._own() - self._own_at
        self.tokens += tokens
        self.interval["tokens"] += tokens
        self.interval["flops"] += tokens * self._flops
        seconds = time.monotonic() - self._at
        self.interval["step"] += seconds
        self.spent["step"] += seconds if kept else 0.0

    def traced(self, step: int) -> contextlib.AbstractContextManager[Any]:
        """What a step runs in: nothing, or the profiler if the step is to be traced."""
        return contextlib.nullcontext() if self.profiler is None else self.profiler.step(step)

    @contextlib.contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Count what happens inside as time of `kind`."""
        start = time.monotonic()
        yield
        self._add(kind, time.monotonic() - start)

    def _add(self, kind: str, seconds: float) -> None:
        self.interval[kind] += seconds
        self.spent[kind] += seconds

    # ---- what it says

    def rate(self) -> float:
        """Tokens a second since this process started."""
        return self.tokens / max(time.monotonic() - self.started, 1e-9)

    def log(self, step: int) -> None:
        """Write the timing row of the interval that ends here, from process 0; every process must call this.

        `seconds` are all of the interval; `tokens_per_s` and `mfu` are over its steps, reading included, evaluations and
        checkpoints not. Memory and data wait are the largest of any process.
        """
        now, own = time.monotonic(), self.interval
        everyone = self.world.gather([own["work"], own["data"], _peak_memory_mb(self.device)])
        if self.world.process == 0:
            stepping = max(own["step"] + own["data"], 1e-9)
            work, data, memory = zip(*everyone, strict=True)
            row = {"phase": self.name, "step": step, "seconds": round(now - self.logged, 3),
                   "tokens_per_s": round(own["tokens"] / stepping, 1), **self._utilisation(own["flops"] / stepping),
                   "peak_memory_mb": round(max(memory), 1), "data_wait_s": round(max(data), 4),
                   "checkpoint_s": round(own["checkpoint"], 4), "evaluation_s": round(own["evaluation"], 4)}  # fmt: skip
            self.ctx.timing(**row, **(self._spread(work) if len(work) > 1 else {}))
        self.logged, self.interval = now, dict.fromkeys(own, 0.0)

    def _utilisation(self, flops: float) -> dict[str, Any]:
        """Share of the peak of all devices that `flops` a second are, with its convention."""
        if self.config is None:
            return {}
        peak, words = _peak(self.device, self.measuring.peak_tflops)
        if peak is None:
            return {"mfu_convention": words}
        return {"mfu": float(f"{flops / (peak * 1e12 * self.world.processes):.4g}"), "mfu_convention": words}

    def _spread(self, work: tuple[float, ...]) -> dict[str, Any]:
        """Seconds of each process's own work in the interval: who keeps the others waiting.

        On a processor these are the seconds in which its first thread ran or was ready to, and read data; an accelerator cannot
        be told from its messages, so there they are what the host does before the first message of a step.
        """
        found = {"work_s_min": min(work), "work_s_mean": sum(work) / len(work), "work_s_max": max(work)}
        rounded: dict[str, Any] = {key: round(value, 4) for key, value in found.items()}
        return rounded | {"slowest": work.index(max(work))}

    # ---- across restarts

    def state(self) -> dict[str, float]:
        """Seconds by kind, for the checkpoint."""
        return dict(self.spent)

    def load(self, state: dict[str, float]) -> None:
        """Go on from the seconds of a checkpoint."""
        self.spent.update(state)

    def finish(self) -> None:
        """Write the goodput of the stage so far, and say it where there is something to say."""
        if self.world.process:
            return
        path = self.ctx.out / VOLATILE / GOODPUT
        calls: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            calls = json.loads(path.read_text())["calls"]
        calls[self.name] = {"starts": self.starts, **{f"{kind}_s": round(value, 3) for kind, value in self.spent.items()}}
        elapsed, useful = time.time() - self.began, sum(call["step_s"] for call in calls.values())
        share = round(useful / max(elapsed, 1e-9), 4)
        row = {"began": self.began, "elapsed_s": round(elapsed, 3), "useful_s": round(useful, 3), "goodput": share}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row | {"calls": calls}, indent=1) + "\n")
        if self.starts > 1 or elapsed > NOTE_SECONDS:
            times = f"{self.starts} starts" if self.starts > 1 else "one start"
            self.ctx.note(f"{self.name}: goodput {share:.1%}, {useful:.1f} s of steps kept in {elapsed:.1f} s, {times}")


class _Own:
    """Seconds in which the thread that made this ran or was ready to run: what it did not wait for others."""

    def __init__(self) -> None:
        try:
            self.file: FileIO | None = FileIO("/proc/thread-self/schedstat")
        except OSError:
            self.file = None

    def __call__(self) -> float:
        if self.file is None:
            return time.thread_time()
        ran, ready, _ = os.pread(self.file.fileno(), 64, 0).split()
        return (int(ran) + int(ready)) / 1e9


@functools.cache
def _flops_per_token(config: ModelConfig, length: int) -> float:
    return float(training_flops_per_token(config, length))


@functools.cache
def _peak(device: str, given: float | None) -> tuple[float | None, str]:
    """Peak of one device in TFLOP/s, None where it is not known; and the convention of the utilisation in words."""
    if given is not None:
        return given, f"{CONVENTION}; peak {given:g} TFLOP/s as given"
    if torch.device(device).type == "cpu":
        threads = torch.get_num_threads()
        peak = matmul_gflops(GEMM_SIZE, GEMM_SECONDS, threads) / 1000
        return peak, f"{CONVENTION}; peak {peak:.3g} TFLOP/s of this processor, FP32 on {threads} threads, measured"
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else device
    peak_known = peak_tflops_of(name)
    if peak_known is None:
        return None, f"{CONVENTION}; the peak of {name} is not known: give watch.peak_tflops"
    return peak_known, f"{CONVENTION}; peak {peak_known:g} TFLOP/s BF16 of {name}"


def _peak_memory_mb(device: str) -> float:
    """Most memory of the device's tensors, or of this process on a processor, in 2^20 bytes."""
    if torch.device(device).type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
    return torch.accelerator.max_memory_allocated() / 2**20
