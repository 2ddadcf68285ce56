"""The processes of a run as the training loop sees them: which rows are mine, and sums over everybody.

One process is a world of size one and pays nothing. With `torch.distributed` initialised (any backend; gloo on CPU), the counts
and the decisions (stop, save, skip) are reduced here and nowhere else. Where a model is laid out over several processes
(`puna.train.parallel`), those that hold parts of one copy see the same rows: one of them, the owner, speaks for all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class World:
    """This process among the others.

    Attributes:
        rank, size: which rows it reads: the rank-th of `size` parts of every optimiser step.
        process, processes: its number among all; process 0 writes what is written once.
        owner: whether what it sums counts, one process for each part of the rows.
        owners: how many processes are. speaker: whether it is the first of them.
        patience: how long it waits for the others; None is torch's own time.
    """

    rank: int = 0
    size: int = 1
    process: int = 0
    processes: int = 1
    owner: bool = True
    owners: int = 1
    speaker: bool = True
    patience: timedelta | None = None

    @classmethod
    def current(cls) -> World:
        """The world that was settled on; else all processes of `torch.distributed`, each with rows of its own; else one."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        if _SETTLED:
            return _SETTLED[-1]
        rank, size = dist.get_rank(), dist.get_world_size()
        return cls(rank, size, rank, size, owners=size, speaker=rank == 0)

    def settle(self) -> None:
        """Make this the current world of the process, for as long as its process group lives."""
        _SETTLED[:] = [self]

    def sum_values(self, values: dict[str, float]) -> dict[str, float]:
        """Sum of each value over the owners; every process must pass the same keys."""
        if self.processes == 1:
            return dict(values)
        names = sorted(values)
        total = torch.tensor([float(values[name]) if self.owner else 0.0 for name in names], dtype=torch.float64)
        dist.all_reduce(total, group=_talk())
        return dict(zip(names, total.tolist(), strict=True))

    def sum_found(self, values: dict[str, float]) -> dict[str, float]:
        """Like `sum_values`, for values that not every process has found (the loss of a pipeline is known at its end)."""
        if self.processes == 1:
            return dict(values)
        found: list[dict[str, float]] = self.gather_json(dict(values) if self.owner else {})
        return {name: sum(part.get(name, 0.0) for part in found) for name in sorted({name for part in found for name in part})}

    def gather(self, values: list[float]) -> list[list[float]]:
        """The values of every process, in the order of processes."""
        if self.processes == 1:
            return [values]
        found = [torch.empty(len(values), dtype=torch.float64) for _ in range(self.processes)]
        dist.all_gather(found, torch.tensor(values, dtype=torch.float64), group=_talk())
        return [part.tolist() for part in found]

    def gather_json(self, value: Any) -> list[Any]:
        """A JSON value of every process, whatever its size, in the order of processes; floats come back to the bit."""
        if self.processes == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [int(size) for (size,) in self.gather([float(len(data))])]
        found = [torch.zeros(max(sizes), dtype=torch.uint8) for _ in sizes]
        dist.all_gather(found, torch.nn.functional.pad(data, (0, max(sizes) - len(data))), group=_talk())
        return [json.loads(part[:size].numpy().tobytes()) for part, size in zip(found, sizes, strict=True)]

    def shared(self, items: Sequence[Item], find: Callable[[Sequence[Item]], list[Any]]) -> list[Any]:
        """What `find` makes of every item, as JSON: each process hands it some of the items, all at once, and all get all."""
        parts = self.gather_json(find(items[self.process :: self.processes]))
        return [parts[i % self.processes][i // self.processes] for i in range(len(items))]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks, in one flat message per dtype."""
        if self.processes == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_dtype.values():
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat)
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """True on every process when it is true on one."""
        if self.processes == 1:
            return flag
        found = torch.tensor(float(flag))
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=_talk())
        return bool(found > 0)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.processes > 1:
            dist.barrier(group=_talk())


_SETTLED: list[World] = []  # at most one
_GROUPS: dict[object, object] = {}  # process group of the CPU for each default group


def _talk() -> dist.ProcessGroup | None:
    """The group in which numbers of the CPU are reduced: the default one where it can, a gloo group beside NCCL."""
    if "gloo" in dist.get_backend():
        return None
    default = dist.group.WORLD
    if default not in _GROUPS:
        _GROUPS[default] = dist.new_group(backend="gloo", timeout=World.current().patience)
    return _GROUPS[default]  # type: ignore[return-value]
