"""Row-wise FP8 (e4m3fn) as numbers and as a layer: what an `fbgemm_fp8` checkpoint stores and what it means (section 6.2).

Per row, m = max |x|, clamped to [1e-12, bound]; the row is multiplied by 448 / m, saturated to +-448 and cast; m / 448 is kept to
undo it (FBGEMM `quantize_fp8_row`). Weights have no bound. Activations are quantised per token as they come, with the bound of
1200 that keeps a few huge values from pushing the rest of the row under the smallest FP8 number.

This file holds only what loading a checkpoint needs; which layers to quantise, and how much it costs, is in `puna.infer`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

E4M3_MAX = 448.0  # largest finite e4m3fn number
FP8_MULTIPLE = 16  # both sides of a matrix, for the FP8 units
SMALLEST_AMAX = 1e-12  # FBGEMM's guard against a row of zeros
ACTIVATION_BOUND = 1200.0  # `activation_scale_ub` of the released checkpoints: bounds the absolute maximum of a row


def quantize_rows(x: Tensor, bound: float | None = None, amax: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantise each row (last dimension) on its own.

    Args:
        x: floating point, [..., K].
        bound: upper limit on a row's absolute maximum; larger values saturate.
        amax: float32 [..., 1], the rows' absolute maxima where x is only a part of longer rows; None takes those of x.

    Returns:
        e4m3fn [..., K] and the float32 scale [..., 1] that undoes it (x is about q * scale).
    """
    x = x.float()
    amax = (row_maxima(x) if amax is None else amax).clamp(SMALLEST_AMAX, bound)
    quantized = (x * (E4M3_MAX / amax)).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return quantized, amax / E4M3_MAX


def row_maxima(x: Tensor) -> Tensor:
    """Absolute maximum of each row, float32 [..., 1]."""
    return x.float().abs().amax(-1, keepdim=True)


def dequantize_rows(quantized: Tensor, scale: Tensor) -> Tensor:
    """The float32 numbers that `quantize_rows` stands for."""
    return widen(quantized) * scale.float()


def widen(quantized: Tensor) -> Tensor:
    """e4m3fn as float32, exactly, five times as fast as torch's cast on CPU.

    Shifted by 7, the bits of an e4m3 number are a float16 of 2^-8 its value: same sign and mantissa, exponent bias 15 and not 7.
    The two NaN codes, which no quantiser writes, come out as +-480.
    """
    bits = quantized.contiguous().view(torch.int8).to(torch.int16)  # sign-extended: bit 14 must be cleared again
    return bits.bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16).float().mul_(256.0)


def scaled_product(quantized_MK: Tensor, scale_M1: Tensor, weight_NK: Tensor, weight_scale_N1: Tensor) -> Tensor:
    """x W^T of two row-wise quantised matrices by torch's scaled product, bfloat16 [M, N]; K and N are multiples of 16."""
    rows = nn.functional.ScalingType.RowWise
    return nn.functional.scaled_mm(
        quantized_MK, weight_NK.T, scale_M1, rows, weight_scale_N1.T, rows, output_dtype=torch.bfloat16, use_fast_accum=True
    )


class Fp8Linear(nn.Module):
    """y = W x with W stored in FP8 and x quantised per token: the arithmetic of FBGEMM's `f8f8bf16_rowwise`.

    Products of two e4m3 numbers are exact in float32, where they are summed; the two scales come last. The weight is widened at
    every call, so memory stays that of FP8. Inference only: the rounding has no gradient.

    Attributes:
        weight: e4m3fn [N, K].
        weight_scale: float32 [N, 1].
    """

    def __init__(self, weight: Tensor, weight_scale: Tensor, *, activation_bound: float = ACTIVATION_BOUND):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(weight_scale, requires_grad=False)
        self.activation_bound = activation_bound

    @classmethod
    def from_weight(cls, weight: Tensor, *, activation_bound: float = ACTIVATION_BOUND) -> Fp8Linear:
        """Quantise a float weight [N, K] by rows, without a bound."""
        if weight.is_meta:  # torch would import seconds of code to compute the shapes
            made = (
                torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device="meta"),
                torch.empty(len(weight), 1, device="meta"),
            )
            return cls(*made, activation_bound=activation_bound)
        return cls(*quantize_rows(weight.detach()), activation_bound=activation_bound)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        quantized, scale = quantize_rows(x, self.activation_bound)
        return self.product(quantized, scale, x.dtype)

    def product(self, quantized: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """W x of e4m3fn [..., K] and the scales [..., 1] of its rows, [..., N] in `dtype`; on a GPU by its FP8 units."""
        if quantized.is_cuda and dtype == torch.bfloat16 and not any(size % FP8_MULTIPLE for size in self.weight.shape):
            flat = scaled_product(quantized.flatten(0, -2), scale.reshape(-1, 1), self.weight, self.weight_scale)
            return flat.view(*quantized.shape[:-1], -1)
        return self.scaled(self.products(quantized), scale).to(dtype)

    def products(self, quantized: Tensor) -> Tensor:
        """Sums of products before any scale, float32 [..., N], of e4m3fn [..., K]."""
        return nn.functional.linear(widen(quantized), widen(self.weight))

    def scaled(self, y: Tensor, scale: Tensor) -> Tensor:
        """`products`, in place, times the scales of the tokens and of the weight's rows."""
        return y.mul_(scale).mul_(self.weight_scale.T)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fp8Linear:
        """Follow the model to another device and never to another dtype (`model.to(torch.bfloat16)` would widen the weight)."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}, e4m3fn by rows, activations bounded at {self.activation_bound}"
