"""The passes of training that torch leaves slow on a CPU, each with a backward pass of its own; products in fp32 or bf16.

What is left beside the matrix products is bound by memory and by the number of operations: torch's backward passes of RMSNorm and
SwiGLU make several tensors where one would do; its attention computes what the mask hides, and its backward pass in bf16 takes
five times that in fp32. The functions here compute the same up to rounding. `trains` says where they hold; elsewhere (GPUs,
parameters cut over processes, compiled code, inference) the plain operations of `llama` run. Under `torch.autocast` products take
and give bf16; weights, attention's scores, softmax, norms and the residual stream stay fp32. Figures: docs/log.md.

Shape legend as in `llama`; G = H / K query heads read one key head. N = B K, the key heads of all rows.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
QUERIES = 64  # queries of a block of attention
APART, WORTH = 256, 0.8  # row by row: least length, and most of the work that may be left; many small products cost more
KEPT = 1 << 25  # shares of attention that a layer may keep for its backward pass; they grow with the square of the length
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
PLAIN = (Tensor, nn.Parameter)
DTYPES = (torch.float32, torch.bfloat16)


def trains(x: Tensor, *weights: Tensor) -> bool:
    """Whether a gradient is wanted, and everything is a plain tensor of a CPU."""
    return (
        torch.is_grad_enabled() and x.device.type == "cpu" and not torch.compiler.is_compiling()
        and all(type(t) in PLAIN and t.dtype in DTYPES for t in (x, *weights))
    )  # fmt: skip


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Ask the C library to keep what is freed: else the large tensors of every step are pages that the kernel fills anew, which
    took a sixth of the time of a small model. Does nothing where there is no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def product_dtype(x: Tensor) -> torch.dtype:
    """What products of x are computed in: autocast's choice, or its own."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def product(x_BTD: Tensor, weight_FD: Tensor) -> Tensor:
    """x @ weight.T of one dtype, by oneDNN where there is one; no gradient."""
    if _by_onednn(x_BTD.dtype):
        return torch.ops.mkldnn._linear_pointwise(x_BTD, weight_FD, None, "none", [], "")
    return F.linear(x_BTD, weight_FD)


@lru_cache(maxsize=4)
def _by_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies this type here: bf16 it refuses on older processors."""
    if not ONEDNN or dtype == torch.float32:
        return ONEDNN
    try:
        one = torch.ones(1, 1, dtype=dtype)
        return torch.ops.mkldnn._linear_pointwise(one, one, None, "none", [], "") is not None
    except RuntimeError:
        return False


if ONEDNN:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _product_flops(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        """For torch's counter, which does not know this operation; of shapes."""
        return 2 * math.prod(x) * weight[0]


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """[F,D] of y = x @ weight.T."""
    return gradient.reshape(-1, gradient.shape[-1]).t() @ x.reshape(-1, x.shape[-1])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_FD: Tensor, dtype: torch.dtype) -> Tensor:
        x, weight = x_BTD.to(dtype), weight_FD.to(dtype)
        ctx.save_for_backward(x, weight)
        ctx.dtypes = x_BTD.dtype, weight_FD.dtype
        return product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, _ = ctx.needs_input_grad
        gradient = gradient.contiguous()
        return (product(gradient, weight.t()).to(ctx.dtypes[0]) if wants_x else None,
                weight_gradient(gradient, x).to(ctx.dtypes[1]) if wants_weight else None, None)  # fmt: skip


class _RmsNorm(torch.autograd.Function):
    """In fp32. Both products of the backward pass that sum anything are matrix by vector, of one tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x32, weight32 = x.float(), weight.float()
        scale = torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square_().add_(eps * len(weight)).rsqrt_()
        scale *= len(weight) ** 0.5
        ctx.save_for_backward(x32, weight32, scale)
        ctx.dtypes = x.dtype, weight.dtype
        return (x32 * scale).mul_(weight32).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        x_ND, scale_N1, gradient_ND = x.reshape(-1, len(weight)), scale.reshape(-1, 1), gradient.reshape(-1, len(weight)).float()
        along_ND = gradient_ND * x_ND
        own = torch.mv(along_ND.t(), scale_N1[:, 0]).to(ctx.dtypes[1]) if ctx.needs_input_grad[1] else None
        inward_N1 = scale_N1.pow(3).mul_(torch.mv(along_ND, weight)[:, None]).div_(len(weight))
        d_x = torch.mul(gradient_ND, weight, out=along_ND).mul_(scale_N1).sub_(x_ND * inward_N1)
        return d_x.view(gradient.shape).to(ctx.dtypes[0]), own, None, None


class _SwiGLU(torch.autograd.Function):
    """Keeps three of the five tensors of its width, chosen so that the backward pass needs no exponential."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor, dtype: torch.dtype) -> Tensor:
        x, gate, up, down = (tensor.to(dtype) for tensor in (x_BTD, gate_FD, up_FD, down_DF))
        gate_BTF, up_BTF = product(x, gate), product(x, up)
        open_BTF = gate_BTF.sigmoid()
        active_BTF = gate_BTF * open_BTF  # not in place: selective recomputation keeps what products give
        ctx.save_for_backward(x, gate, up, down, active_BTF, open_BTF, up_BTF)
        ctx.dtypes = x_BTD.dtype, gate_FD.dtype
        return product(active_BTF * up_BTF, down)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, gate, up, down, active_BTF, open_BTF, up_BTF = ctx.saved_tensors
        x_dtype, own_dtype = ctx.dtypes
        wants_x, wants_gate, wants_up, wants_down, _ = ctx.needs_input_grad
        gradient = gradient.contiguous()
        inner = product(gradient, down.t())
        own_down = weight_gradient(gradient, active_BTF * up_BTF).to(own_dtype) if wants_down else None
        d_up = active_BTF * inner
        d_gate = torch.addcmul(active_BTF, active_BTF, open_BTF, value=-1).add_(open_BTF).mul_(up_BTF).mul_(inner)
        d_x = product(d_gate, gate.t()).add_(product(d_up, up.t())).to(x_dtype) if wants_x else None
        return (d_x, weight_gradient(d_gate, x).to(own_dtype) if wants_gate else None,
                weight_gradient(d_up, x).to(own_dtype) if wants_up else None, own_down, None)  # fmt: skip


class _SelfAttention(torch.autograd.Function):
    """Queries, keys and values by one product, turned; attention by blocks of queries, each over the stretch of keys that any of
    its queries sees, row by row where rows hold other documents. The query heads of one key head are rows of one product; the
    shares are kept.
    """

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None, dtype: torch.dtype,
                *weights: Tensor) -> Tensor:  # fmt: skip
        x, weight = x_BTD.to(dtype), torch.cat(weights).to(dtype)
        (B, T, _), E = x.shape, cos.shape[-1]
        H, K = (len(part) // E for part in weights[:2])
        G, stretches = H // K, _stretches(B, T, bias)
        qkv_BTJE = product(x, weight).view(B, T, H + 2 * K, E)
        turned = qkv_BTJE[:, :, : H + K]
        turned = torch.addcmul(turned * cos, turned.roll(E // 2, -1), sin)
        q, k, v = _by_head(turned[:, :, :H], K), _by_head(turned[:, :, H:], K), _by_head(qkv_BTJE[:, :, H + K :], K)
        y, shares = torch.empty(q.shape, dtype=dtype), []
        with torch.autocast("cpu", enabled=False):
            for first, end, a, b, low, high in stretches:
                heads, part = slice(first * K, end * K), slice(a * G, b * G)
                scores = torch.baddbmm(_NOTHING, q[heads, part], k[heads, low:high].mT, beta=0, alpha=E**-0.5)
                if bias is None:
                    scores.view(B * K, b - a, G, -1)[..., a:] += _triangle(b - a)[:, None]
                else:
                    scores.view(end - first, K, b - a, G, -1).add_(bias[first:end, :, a:b, None, low:high])
                shares.append(scores.softmax(-1).to(dtype))
                y[heads, part] = torch.bmm(shares[-1], v[heads, low:high])
        ctx.save_for_backward(x, weight, cos, sin, q.to(dtype), k.to(dtype), v, *shares)
        ctx.shape, ctx.stretches, ctx.dtypes = (B, T, H, K, E), stretches, (x_BTD.dtype, weights[0].dtype)
        return _by_token(y, B, K, G).reshape(B, T, H * E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, cos, sin, q, k, v, *shares = ctx.saved_tensors
        B, T, H, K, E = ctx.shape
        G, scale = H // K, E**-0.5
        d_y = _by_head(gradient.reshape(B, T, H, E), K)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros(k.shape), torch.zeros(k.shape)
        for share, (first, end, a, b, low, high) in zip(shares, ctx.stretches, strict=True):
            heads, part = slice(first * K, end * K), slice(a * G, b * G)
            d_v[heads, low:high] += torch.bmm(share.mT, d_y[heads, part])
            d_scores = torch._softmax_backward_data(torch.bmm(d_y[heads, part], v[heads, low:high].mT), share, -1, share.dtype)
            d_q[heads, part] = torch.bmm(d_scores, k[heads, low:high])
            d_k[heads, low:high] += torch.bmm(d_scores.mT, q[heads, part])
        d_turned = torch.cat((_by_token(d_q, B, K, G), _by_token(d_k, B, K, 1)), 2)
        d_qk = torch.addcmul((d_turned * (sin * scale)).roll(E // 2, -1), d_turned, cos * scale)
        d_qkv = torch.cat((d_qk, _by_token(d_v, B, K, 1)), 2).to(x.dtype).reshape(B, T, -1)
        d_x = product(d_qkv, weight.t()).to(ctx.dtypes[0]) if ctx.needs_input_grad[0] else None
        wants = ctx.needs_input_grad[5:]
        own = weight_gradient(d_qkv, x).to(ctx.dtypes[1]).split([H * E, K * E, K * E]) if any(wants) else wants
        return d_x, None, None, None, None, *(part if wanted else None for part, wanted in zip(own, wants, strict=True))


_NOTHING = torch.empty(())  # what a product of beta 0 leaves unread


def _by_head(x_BTHE: Tensor, K: int) -> Tensor:
    """[N, T*G, E]: of each key head, the rows of its G heads, position by position."""
    B, T, H, E = x_BTHE.shape
    return x_BTHE.view(B, T, K, H // K, E).transpose(1, 2).reshape(B * K, T * (H // K), E)


def _by_token(x: Tensor, B: int, K: int, G: int) -> Tensor:
    """`_by_head` backwards."""
    E = x.shape[-1]
    return x.view(B, K, -1, G, E).transpose(1, 2).reshape(B, -1, K * G, E)


@lru_cache(maxsize=8)
def _triangle(size: int) -> Tensor:
    """0 where a query may look, -inf above."""
    return torch.ones(size, size).tril_().log_()


Stretch = tuple[int, int, int, int, int, int]  # first row, end, first query, end, first key, end


@lru_cache(maxsize=1)  # all layers of a pass are given the same mask
def _stretches(rows: int, queries: int, bias: Tensor | None) -> list[Stretch]:
    """What each block of queries is multiplied with; without a mask all keys before the block's end.

    Rows share a block, which then covers what any of them sees, unless each by itself has much less to do.
    """
    size = QUERIES if queries >= 2 * QUERIES else QUERIES // 2
    blocks = [(a, min(a + size, queries)) for a in range(0, queries, size)]
    if bias is None:
        return [(0, rows, a, b, 0, b) for a, b in blocks]
    seen_BNT = torch.stack([(bias[:, 0, a:b] > -torch.inf).any(1) for a, b in blocks], 1).expand(rows, -1, -1)
    together = _covering(seen_BNT.any(0, keepdim=True), blocks, rows)
    apart = _covering(seen_BNT, blocks, 1) if rows > 1 and queries >= APART else together
    return apart if _shares(apart) < WORTH * _shares(together) else together


def _covering(seen_BNT: Tensor, blocks: Sequence[tuple[int, int]], rows: int) -> list[Stretch]:
    """Stretches from the first to the last key seen, `rows` rows for each of B."""
    low_BN, after_BN = seen_BNT.int().argmax(-1), seen_BNT.flip(-1).int().argmax(-1)  # of equals argmax takes the first
    ends_BN = seen_BNT.shape[-1] - after_BN
    return [
        (row * rows, (row + 1) * rows, a, b, low, high)
        for row, (lows, highs) in enumerate(zip(low_BN.tolist(), ends_BN.tolist(), strict=True))
        for (a, b), low, high in zip(blocks, lows, highs, strict=True)
    ]


def _shares(stretches: Sequence[Stretch]) -> int:
    """Shares of attention of one head over all of them."""
    return sum((end - first) * (b - a) * (high - low) for first, end, a, b, low, high in stretches)


def linear(x_BTD: Tensor, weight_FD: Tensor) -> Tensor:
    """x @ weight.T, [B,T,F]."""
    return _Linear.apply(x_BTD, weight_FD, product_dtype(x_BTD))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) times the weight."""
    return _RmsNorm.apply(x, weight, eps, product_dtype(x))


def swiglu(x_BTD: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
    """down(silu(gate(x)) * up(x)), [B,T,D]."""
    return _SwiGLU.apply(x_BTD, gate_FD, up_FD, down_DF, product_dtype(x_BTD))


def attends(x_BTD: Tensor, bias: Any, heads: int) -> bool:
    """Whether the shares of attention over whole rows are few enough to be kept, under no mask or one for all heads."""
    B, T, _ = x_BTD.shape
    fits = bias is None or (type(bias) is Tensor and bias.dim() == 4 and bias.shape[1:] == (1, T, T) and not bias.requires_grad)
    if not fits or T <= QUERIES // 2:
        return False
    return B * heads * T * T <= KEPT or (bias is not None and heads * _shares(_stretches(B, T, bias)) <= KEPT)


def self_attention(x_BTD: Tensor, weights: Sequence[Tensor], rotation: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
    """softmax(q k / sqrt(E) + bias) v of the projected and turned input, [B,T,H*E]; causal without a bias.

    Args:
        weights: of queries, keys and values.
        rotation: as `llama.Rope` gives it.
        bias: finite somewhere for every query.
    """
    return _SelfAttention.apply(x_BTD, *rotation, bias, product_dtype(x_BTD), *weights)
