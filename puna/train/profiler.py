"""Traces of some steps on request: what every operation cost, as a picture and as a table.

`watch.profile_steps: [100, 3]` leaves in `volatile/profile/` one Chrome trace per process (`rank-0.json`; chrome://tracing or
ui.perfetto.dev open it) and `ops.txt`, the most expensive operations of process 0. A call of the loop with a name of its own has
a folder of its own. Steps are those of the call; the profiled ones are slower, and their numbers the same.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from puna.core.stage import VOLATILE, StageContext
from puna.train.world import World

FOLDER, TABLE = "profile", "ops.txt"
ROWS = 40


class Profiler:
    """Traces the steps from `first` on, `count` of them, of one call of the loop.

    Every process writes to scratch, which all of them share; process 0 moves what is there to the artifact.
    """

    def __init__(self, ctx: StageContext, world: World, name: str, device: str, steps: tuple[int, int]):
        self.ctx, self.world, self.name, self.device = ctx, world, name, device
        self.first, self.count = steps
        self.running: Any = None

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Trace what happens inside if `step` is one of the steps; a run resumed among them traces the rest."""
        self._start(step)
        yield
        self._stop(step)

    def _start(self, step: int) -> None:
        if self.running is None and self.first <= step < self.first + self.count:
            from torch.profiler import ProfilerActivity, profile

            kinds = [ProfilerActivity.CPU, *([] if self.device == "cpu" else [ProfilerActivity.CUDA])]
            self.running = profile(activities=kinds, record_shapes=True)
            self.running.__enter__()

    def _stop(self, step: int) -> None:
        """Stop and write if `step` was the last of the steps."""
        if self.running is None or step + 1 < self.first + self.count:
            return
        found, self.running = self.running, None
        found.__exit__(None, None, None)
        scratch = self.ctx.scratch / FOLDER / self.name
        scratch.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(scratch / f"rank-{self.world.process}.json"))
        if self.world.process == 0:
            order = "self_cpu_time_total" if self.device == "cpu" else "self_device_time_total"
            head = f"{self.name}: steps {self.first} to {step}, process 0 of {self.world.processes}, by {order}\n"
            table = found.key_averages(group_by_input_shape=True).table(sort_by=order, row_limit=ROWS)
            (scratch / TABLE).write_text(head + table)
        self.world.barrier()
        if self.world.process == 0:
            place = self.ctx.out / VOLATILE / FOLDER / ("" if self.name == "train" else self.name)
            shutil.copytree(scratch, place, dirs_exist_ok=True)
            shutil.rmtree(scratch)
            self.ctx.note(f"{self.name}: profile of steps {self.first} to {step} in {VOLATILE}/{FOLDER}/")
