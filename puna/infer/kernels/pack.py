"""Weights in the order the kernels read them (layout in `dot.h`), all of one model in one run of huge pages.

The packed weights are a copy: a model that is packed takes its size twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL, c_int64, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor

from puna.infer.memory import huge_zeros

BLOCK, RUN = 8, 64  # weight rows side by side, columns of one row that lie together; as in dot.h
CHUNK, PIECE_8 = 512, 1024  # columns of all token rows that lie together; as in dot.h and int8.h
Compute = Literal["exact", "int8"]
ALIGNED = 4096  # bytes; where each matrix starts
FP8_SHIFT = 2.0**20  # the kernels sum FP8 products as 2^-20 of their value


class Kind(IntEnum):
    """What packed numbers are, as `dot.h` has it."""

    BF16, FP8, INT8 = 0, 1, 2

    @property
    def bytes(self) -> int:
        """Of a number."""
        return 2 if self is Kind.BF16 else 1


@dataclass
class Packed:
    """A matrix [rows, columns], both padded with zeros to multiples of 8 and of 64.

    Attributes:
        weight: uint8, the bytes as the kernels read them.
        scale: float32 [rows], times 2^20 for FP8, None for BF16.
    """

    weight: Tensor
    scale: Tensor | None
    rows: int
    columns: int
    kind: Kind


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


def kind_of(weight: Tensor) -> Kind:
    """The kind of a matrix in bfloat16, e4m3fn or int8."""
    return {torch.bfloat16: Kind.BF16, torch.float8_e4m3fn: Kind.FP8, torch.int8: Kind.INT8}[weight.dtype]


def packed_bytes(rows: int, columns: int, kind: Kind) -> int:
    """What one matrix takes of an arena, alignment included."""
    return up(up(rows, BLOCK) * up(columns, RUN) * kind.bytes, ALIGNED)


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [N, K] as int8 and a float32 scale [N, 1] for each row, the largest number of which becomes 127."""
    scale = weight.abs().amax(1, keepdim=True).float() / 127
    return (weight.float() / scale.clamp_min(torch.finfo(torch.float32).tiny)).round_().to(torch.int8), scale


def pack(library: CDLL, weights: Sequence[Tensor], scales: Sequence[Tensor], arena: Arena, *, in_turns: bool = False) -> Packed:
    """Copy the rows of one or more matrices into the arena as one matrix.

    Args:
        library: of `build.library`.
        weights: bfloat16, e4m3fn or int8 [N, K], all of one type and K.
        scales: float32 [N, 1] of each but for bfloat16.
        in_turns: 8 rows of each of two matrices in turn; else one after the other.
    """
    kind, columns = kind_of(weights[0]), up(weights[0].shape[1], RUN)
    rows = up(sum(up(w.shape[0], BLOCK) if in_turns else w.shape[0] for w in weights), BLOCK)
    place, first = arena.take(rows * columns * kind.bytes), 0
    all_scales = torch.zeros(rows) if scales else None
    for index, weight in enumerate(weights):
        weight = weight.detach().contiguous()
        library.puna_pack(
            c_void_p(weight.data_ptr()), c_int64(weight.shape[0]), c_int64(weight.shape[1]), int(kind), c_int64(columns),
            c_int64(index if in_turns else first), int(in_turns), c_void_p(place.data_ptr()), max(1, torch.get_num_threads()),
        )  # fmt: skip
        if all_scales is not None:
            scale = scales[index].detach().float().flatten() * (FP8_SHIFT if kind is Kind.FP8 else 1)
            if in_turns:
                blocks = torch.zeros(up(len(scale), BLOCK))
                blocks[: len(scale)] = scale
                all_scales.view(-1, 2, BLOCK)[: len(blocks) // BLOCK, index] = blocks.view(-1, BLOCK)
            else:
                all_scales[first : first + len(scale)] = scale
        first += weight.shape[0]
    return Packed(place, all_scales, rows, columns, kind)
