"""Weights in the order the kernels read them (layout in `dot.h`), all of one model in one run of huge pages.

The packed weights are a copy: a model that is packed takes its size twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from puna.infer.memory import huge_zeros

BLOCK, RUN = 8, 64  # weight rows side by side, columns of one row that lie together; as in dot.h
CHUNK = 512  # columns of all token rows that lie together; as in dot.h
ALIGNED = 4096  # bytes; where each matrix starts
FP8_SHIFT = 2.0**20  # the kernels sum FP8 products as 2^-20 of their value
SMALLEST_NORMAL = 8  # e4m3 code of 2^-6; the codes below it are subnormal


@dataclass
class Packed:
    """A matrix [rows, columns], both padded with zeros to multiples of 8 and of 64.

    Attributes:
        weight: uint8, the bytes as the kernels read them.
        scale: float32 [rows] times 2^20 for FP8, None for BF16.
    """

    weight: Tensor
    scale: Tensor | None
    rows: int
    columns: int


class Arena:
    """`size` bytes of zeros in huge pages where the system has them, handed out from the front."""

    def __init__(self, size: int):
        self._left = huge_zeros(size)

    def take(self, size: int) -> Tensor:
        """The next `size` bytes, uint8, at a multiple of 4096."""
        taken, self._left = self._left[:size], self._left[up(size, ALIGNED) :]
        return taken


def up(size: int, multiple: int) -> int:
    """`size`, or the next multiple."""
    return -(-size // multiple) * multiple


def packed_bytes(rows: int, columns: int, *, fp8: bool) -> int:
    """What one matrix takes of an arena, alignment included."""
    return up(up(rows, BLOCK) * up(columns, RUN) * (1 if fp8 else 2), ALIGNED)


def pack(weight: Tensor, scale: Tensor | None, arena: Arena) -> Packed:
    """Copy a matrix into the arena.

    Args:
        weight: bfloat16 or e4m3fn [N, K].
        scale: float32 [N, 1] for e4m3fn, else None.

    Subnormal FP8 numbers, below 2^-14 of the largest number in their row, become zero: the processor's product of two bfloat16
    takes them as zero, and so all levels compute with the same weights.
    """
    fp8 = scale is not None
    rows, columns = up(weight.shape[0], BLOCK), up(weight.shape[1], RUN)
    bits = weight.detach().contiguous().view(torch.uint8 if fp8 else torch.int16)
    full = bits.new_zeros(rows, columns)
    full[: weight.shape[0], : weight.shape[1]] = bits
    runs = full.view(rows // BLOCK, BLOCK, columns // RUN, RUN).transpose(1, 2)
    if fp8:
        runs = runs.masked_fill((runs & 0x7F) < SMALLEST_NORMAL, 0)
        runs = runs.unflatten(-1, (2, RUN // 2)).transpose(-1, -2).flatten(-2)
    place = arena.take(rows * columns * (1 if fp8 else 2))
    place.view(bits.dtype).view(runs.shape).copy_(runs)
    scales = None
    if scale is not None:
        scales = torch.zeros(rows)
        scales[: weight.shape[0]] = scale.detach().float().flatten() * FP8_SHIFT
    return Packed(place, scales, rows, columns)


def interleaved(first: Tensor, second: Tensor) -> Tensor:
    """Rows of two matrices [N, ...] in turns of 8, padded with zeros to a multiple of 8 each."""
    blocks = []
    for tensor in (first.detach(), second.detach()):
        bits = tensor.contiguous().view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
        full = bits.new_zeros(up(bits.shape[0], BLOCK), *bits.shape[1:])
        full[: bits.shape[0]] = bits
        blocks.append(full.unflatten(0, (-1, BLOCK)))
    both = torch.stack(blocks, 1).flatten(0, 2)
    return both.view(torch.float8_e4m3fn) if first.dtype == torch.float8_e4m3fn else both
