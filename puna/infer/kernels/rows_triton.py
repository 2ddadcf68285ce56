"""What surrounds a matrix product on a GPU, in Triton: rows quantised where they are made, and few rows times a matrix.

Row-wise FP8 as `puna.model.fp8_linear` defines it (section 6.2), fused with the norm before gate and up and the SwiGLU before
down. Up to 16 rows are one tile of a product whose inputs are cut into pieces, so that a matrix is read by the whole card; how
it is cut depends on the matrix alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from puna.model.fp8_linear import ACTIVATION_BOUND, E4M3_MAX, SMALLEST_AMAX

FEW = 16  # rows of the small product's tile
COLUMNS, INPUTS = 64, 128  # of a block of it
PROGRAMS = 512  # about how many fill a card: two waves and more of 132 multiprocessors
PLAIN, NORM, SWIGLU = 0, 1, 2


@triton.jit
def _quantize(
    x, other, q, scale, width, eps, bound, SMALLEST: tl.constexpr, MAX: tl.constexpr, KIND: tl.constexpr, WIDTH: tl.constexpr
):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    there = at < width
    kind = x.dtype.element_ty
    value = tl.load(x + row * width + at, mask=there, other=0.0).to(tl.float32)
    if KIND == 1:
        value = value * tl.rsqrt(tl.sum(value * value, 0) / width + eps)
        value = value.to(kind).to(tl.float32) * tl.load(other + at, mask=there, other=0.0).to(tl.float32)
        value = value.to(kind).to(tl.float32)
    if KIND == 2:
        value = (value / (1 + tl.exp(-value))).to(kind).to(tl.float32)
        value = value * tl.load(other + row * width + at, mask=there, other=0.0).to(tl.float32)
        value = value.to(kind).to(tl.float32)
    amax = tl.minimum(tl.maximum(tl.max(tl.abs(value), 0), SMALLEST), bound)
    value = tl.minimum(tl.maximum(value * (MAX / amax), -MAX), MAX)
    tl.store(q + row * width + at, value.to(q.dtype.element_ty), mask=there)
    tl.store(scale + row, amax / MAX)


def quantized(x_MK: Tensor, bound: float = ACTIVATION_BOUND) -> tuple[Tensor, Tensor]:
    """Rows as e4m3fn [M, K], and the float32 scale [M, 1] that undoes it: `quantize_rows`."""
    return _quantized(x_MK, x_MK, PLAIN, 0.0, bound)


def normed_quantized(x_MK: Tensor, weight_K: Tensor, eps: float, bound: float = ACTIVATION_BOUND) -> tuple[Tensor, Tensor]:
    """The RMS norm of rows, quantised."""
    return _quantized(x_MK, weight_K, NORM, eps, bound)


def swiglu_quantized(gate_MK: Tensor, up_MK: Tensor, bound: float = ACTIVATION_BOUND) -> tuple[Tensor, Tensor]:
    """silu(gate) * up, quantised."""
    return _quantized(gate_MK, up_MK.contiguous(), SWIGLU, 0.0, bound)


def _quantized(x_MK: Tensor, other: Tensor, kind: int, eps: float, bound: float) -> tuple[Tensor, Tensor]:
    rows, width = x_MK.shape
    q_MK = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=x_MK.device)
    scale_M1 = torch.empty(rows, 1, dtype=torch.float32, device=x_MK.device)
    wide = triton.next_power_of_2(width)
    _quantize[(rows,)](
        x_MK.contiguous(), other, q_MK, scale_M1, width, eps, bound, SMALLEST=SMALLEST_AMAX, MAX=E4M3_MAX, KIND=kind, WIDTH=wide,
        num_warps=min(32, max(4, wide // 1024)),
    )  # fmt: skip
    return q_MK, scale_M1


@triton.jit
def _few_rows(
    x, w, part, rows, columns, inputs, each,
    FEW: tl.constexpr, COLUMNS: tl.constexpr, INPUTS: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(1)
    m, n = tl.arange(0, FEW), tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    of_x = tl.minimum(m, rows - 1).to(tl.int64)[:, None] * inputs
    of_w = tl.minimum(n, columns - 1).to(tl.int64)[None, :] * inputs
    total = tl.zeros([FEW, COLUMNS], tl.float32)
    for start in range(piece * each, tl.minimum((piece + 1) * each, inputs), INPUTS):
        k = start + tl.arange(0, INPUTS)
        left, right = tl.load(x + of_x + k[None, :]), tl.load(w + of_w + k[:, None])
        total += tl.dot(left.to(KIND), right.to(KIND))  # e4m3 numbers are exact in bfloat16
    out = (piece * rows + m[:, None]).to(tl.int64) * columns + n[None, :]
    tl.store(part + out, total, mask=(m < rows)[:, None] & (n < columns)[None, :])


@triton.jit
def _add_pieces(part, y, of_rows, of_columns, rows, columns, pieces, SCALED: tl.constexpr, COLUMNS: tl.constexpr):
    m, n = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = n < columns
    total = tl.zeros([COLUMNS], tl.float32)
    for piece in range(0, pieces):
        total += tl.load(part + (piece * rows + m).to(tl.int64) * columns + n, mask=there, other=0.0)
    if SCALED:
        total = total * tl.load(of_rows + m) * tl.load(of_columns + n, mask=there, other=0.0)
    tl.store(y + m.to(tl.int64) * columns + n, total.to(y.dtype.element_ty), mask=there)


def fits_few_rows(x_MK: Tensor, weight_NK: Tensor) -> bool:
    """Whether `few_rows` takes this product."""
    return len(x_MK) <= FEW and weight_NK.shape[1] % INPUTS == 0 and weight_NK.dtype in (torch.bfloat16, torch.float8_e4m3fn)


def few_rows(
    x_MK: Tensor, weight_NK: Tensor, x_scale_M1: Tensor | None = None, w_scale_N1: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:  # fmt: skip
    """x W^T for at most 16 rows, [M, N] in `dtype`: both bfloat16, or both e4m3fn with their scales."""
    (rows, inputs), columns = x_MK.shape, len(weight_NK)
    blocks = triton.cdiv(columns, COLUMNS)
    pieces = max(1, min(PROGRAMS // blocks, inputs // INPUTS))
    each = INPUTS * triton.cdiv(inputs // INPUTS, pieces)
    pieces = triton.cdiv(inputs, each)
    part = torch.empty(pieces, rows, columns, dtype=torch.float32, device=x_MK.device)
    _few_rows[(blocks, pieces)](
        x_MK.contiguous(), weight_NK, part, rows, columns, inputs, each, FEW=FEW, COLUMNS=COLUMNS, INPUTS=INPUTS,
        KIND=tl.bfloat16 if x_MK.is_cuda else tl.float32,  # Triton's interpreter cannot multiply bfloat16
    )  # fmt: skip
    y_MN = torch.empty(rows, columns, dtype=dtype, device=x_MK.device)
    scales = (part, part) if x_scale_M1 is None or w_scale_N1 is None else (x_scale_M1, w_scale_N1)
    _add_pieces[(rows, triton.cdiv(columns, 256))](
        part, y_MN, *scales, rows, columns, pieces, SCALED=x_scale_M1 is not None, COLUMNS=256
    )
    return y_MN
