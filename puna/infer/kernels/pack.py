"""Weights in the order the kernels read them (layout in `dot.h`), all of one model in one run of huge pages.

The packed weights are a copy: a model that is packed takes its size twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from puna.infer.memory import huge_zeros

BLOCK, RUN = 8, 64  # weight rows side by side, columns of one row that lie together; as in dot.h
CHUNK = 512  # columns of all token rows that lie together; as in dot.h
ALIGNED = 4096  # bytes; where each matrix starts
FP8_SHIFT = 2.0**20  # the kernels sum FP8 products as 2^-20 of their value


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


def pack(library: CDLL, weights: Sequence[Tensor], scales: Sequence[Tensor], arena: Arena, *, in_turns: bool = False) -> Packed:
    """Copy the rows of one or more matrices into the arena as one matrix.

    Args:
        library: of `build.library`.
        weights: bfloat16 or e4m3fn [N, K], all of one type and K.
        scales: float32 [N, 1] of each for e4m3fn, else none.
        in_turns: 8 rows of each of two matrices in turn; else one after the other.
    """
    fp8, columns = bool(scales), up(weights[0].shape[1], RUN)
    rows = up(sum(up(w.shape[0], BLOCK) if in_turns else w.shape[0] for w in weights), BLOCK)
    place, first = arena.take(rows * columns * (1 if fp8 else 2)), 0
    all_scales = torch.zeros(rows) if fp8 else None
    for index, weight in enumerate(weights):
        weight = weight.detach().contiguous()
        library.puna_pack(
            c_void_p(weight.data_ptr()), c_int64(weight.shape[0]), c_int64(weight.shape[1]), int(fp8), c_int64(columns),
            c_int64(index if in_turns else first), int(in_turns), c_void_p(place.data_ptr()), max(1, torch.get_num_threads()),
        )  # fmt: skip
        if all_scales is not None:
            scale = scales[index].detach().float().flatten() * FP8_SHIFT
            if in_turns:
                blocks = torch.zeros(up(len(scale), BLOCK))
                blocks[: len(scale)] = scale
                all_scales.view(-1, 2, BLOCK)[: len(blocks) // BLOCK, index] = blocks.view(-1, BLOCK)
            else:
                all_scales[first : first + len(scale)] = scale
        first += weight.shape[0]
    return Packed(place, all_scales, rows, columns)
