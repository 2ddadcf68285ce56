"""The ranks of a run as the training loop sees them: who am I, and sums over everybody.

One process is a world of size one and pays nothing. With `torch.distributed` initialised (any backend; gloo on CPU), the
gradients, the counts and the decisions (stop, save, skip) are reduced here and nowhere else, so the parallel layouts of
section 3.3.2 of the paper can replace this file without touching the loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process's rank among `size` data-parallel ranks."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """The world of `torch.distributed` when it is initialised, else one rank."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def sum_values(self, values: dict[str, float]) -> dict[str, float]:
        """Sum of each value over the ranks; every rank must pass the same keys."""
        if self.size == 1:
            return dict(values)
        names = sorted(values)
        total = torch.tensor([float(values[name]) for name in names], dtype=torch.float64)
        dist.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks, in one flat message per dtype."""
        if self.size == 1:
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
        """True on every rank when it is true on one."""
        return flag if self.size == 1 else self.sum_values({"flag": float(flag)})["flag"] > 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()
