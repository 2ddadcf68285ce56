"""The passes of training that torch leaves slow on a CPU, in fp32, each with a backward pass of its own.

What is left beside the matrix products is bound by memory: torch's backward passes of RMSNorm, SwiGLU and the loss make several
tensors where one would do, its attention computes what the causal mask hides, and its fp32 products go to a library that oneDNN
beats by a tenth on the processor measured. The functions here compute the same up to rounding. `trains` says where they hold;
elsewhere (GPUs, other precisions, parameters cut over processes, compiled code, inference) the plain operations of `llama` run.
Figures: docs/log.md.

Shape legend as in `llama`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
LOGITS = 1 << 20  # logits of a chunk of the loss, 4 MiB: half or twice as many are no faster (docs/log.md)
QUERIES = 64  # queries of a block of attention, half of it in rows of under 256
SHORT = 512  # longest row whose shares of attention are kept: they grow with its square
PLAIN = (Tensor, nn.Parameter)


def trains(x: Tensor, *weights: Tensor) -> bool:
    """Whether a gradient is wanted, and everything is a plain fp32 tensor of a CPU."""
    return (
        torch.is_grad_enabled() and x.device.type == "cpu" and not torch.compiler.is_compiling()
        and all(type(t) in PLAIN and t.dtype == torch.float32 for t in (x, *weights))
    )  # fmt: skip


def product(x_BTD: Tensor, weight_FD: Tensor) -> Tensor:
    """x @ weight.T by oneDNN where there is one; no gradient."""
    if ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x_BTD, weight_FD, None, "none", [], "")
    return F.linear(x_BTD, weight_FD)


if ONEDNN:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _product_flops(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        """For torch's counter, which does not know this operation; of shapes."""
        return 2 * math.prod(x) * weight[0]


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """[F,D] of y = x @ weight.T."""
    return gradient.flatten(0, -2).t() @ x.flatten(0, -2)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_FD: Tensor) -> Tensor:
        ctx.save_for_backward(x_BTD, weight_FD)
        return product(x_BTD, weight_FD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x_BTD, weight_FD = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        gradient = gradient.contiguous()
        return (product(gradient, weight_FD.t()) if wants_x else None,
                weight_gradient(gradient, x_BTD) if wants_weight else None)  # fmt: skip


class _Linears(torch.autograd.Function):
    """Several products of one input as one: joining the weights costs less than the small products lose."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        joined = torch.cat(weights)
        ctx.save_for_backward(x_BTD, joined)
        ctx.widths = [len(weight) for weight in weights]
        return product(x_BTD, joined).split(ctx.widths, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_BTD, joined = ctx.saved_tensors
        gradient = torch.cat(gradients, -1)
        d_x = product(gradient, joined.t()) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return d_x, *[None for _ in gradients]
        own = weight_gradient(gradient, x_BTD).split(ctx.widths)
        return d_x, *(part if wants else None for part, wants in zip(own, ctx.needs_input_grad[1:], strict=True))


class _RmsNorm(torch.autograd.Function):
    """The backward pass is layer norm's with a mean of zero, plus the row's mean that layer norm takes off and this does not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, scale_N1 = torch.ops.aten._fused_rms_norm(x, weight.shape, weight, eps)
        ctx.save_for_backward(x, weight, scale_N1)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        x_ND, gradient_ND = x.reshape(-1, len(weight)), gradient.reshape(-1, len(weight))
        scale_N1 = scale.view(-1, 1)
        needs = [True, ctx.needs_input_grad[1], False]
        down, own, _ = torch.ops.aten.native_layer_norm_backward(
            gradient_ND, x_ND, weight.shape, torch.zeros_like(scale_N1), scale_N1, weight, None, needs
        )
        down.addcmul_(scale_N1, torch.mv(gradient_ND, weight)[:, None], value=1 / len(weight))
        return down.view(x.shape), own, None


class _SwiGLU(torch.autograd.Function):
    """Keeps the input and two of the five tensors of its width; the others are cheap to make again."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
        gate_BTF, up_BTF = product(x_BTD, gate_FD), product(x_BTD, up_FD)
        ctx.save_for_backward(x_BTD, gate_FD, up_FD, down_DF, gate_BTF, up_BTF)
        return product(F.silu(gate_BTF).mul_(up_BTF), down_DF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_BTD, gate_FD, up_FD, down_DF, gate_BTF, up_BTF = ctx.saved_tensors
        wants_x, wants_gate, wants_up, wants_down = ctx.needs_input_grad
        gradient = gradient.contiguous()
        active = F.silu(gate_BTF)
        own_down = weight_gradient(gradient, active * up_BTF) if wants_down else None
        inner = product(gradient, down_DF.t())
        d_up = active.mul_(inner)
        d_gate = torch.ops.aten.silu_backward(inner.mul_(up_BTF), gate_BTF)
        d_x = product(d_gate, gate_FD.t()).add_(product(d_up, up_FD.t())) if wants_x else None
        return (d_x, weight_gradient(d_gate, x_BTD) if wants_gate else None,
                weight_gradient(d_up, x_BTD) if wants_up else None, own_down)  # fmt: skip


class _CrossEntropySum(torch.autograd.Function):
    """Logits are made chunk by chunk and become their own gradient at once: none is kept, none is made twice."""

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor | None, chunk: int) -> Tensor:
        wants_states, wants_head = ctx.needs_input_grad[:2]
        d_states = torch.empty_like(states_ND) if wants_states else None
        d_head = torch.zeros_like(head_VD) if wants_head else None
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(targets_N), chunk):
            part = slice(start, start + chunk)
            weights_N1 = None if weights_N is None else weights_N[part, None]
            losses_N1, d_logits = _losses(product(states_ND[part], head_VD), targets_N[part, None], weights_N1)
            total += losses_N1.sum(dtype=torch.float64)
            if d_states is not None:
                d_states[part] = product(d_logits, head_VD.t())
            if d_head is not None:
                d_head.addmm_(d_logits.t(), states_ND[part])
        ctx.save_for_backward(d_states, d_head)
        return total.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        d_states, d_head = ctx.saved_tensors
        return (None if d_states is None else d_states * gradient, None if d_head is None else d_head * gradient, None, None,
                None)  # fmt: skip


def _losses(logits_NV: Tensor, targets_N1: Tensor, weights_N1: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weighted losses [N,1], and the gradient of their sum, which takes the place of the logits."""
    at_target = logits_NV.gather(1, targets_N1)
    top_N1 = logits_NV.amax(1, keepdim=True)
    shares_NV = logits_NV.sub_(top_N1).exp_()
    sums_N1 = shares_NV.sum(1, keepdim=True)
    losses_N1 = sums_N1.log() + top_N1 - at_target
    d_logits = shares_NV.mul_(sums_N1.reciprocal() if weights_N1 is None else weights_N1 / sums_N1)
    own = torch.ones_like(losses_N1) if weights_N1 is None else weights_N1
    return losses_N1 * own, d_logits.scatter_add_(1, targets_N1, -own)


class _Attention(torch.autograd.Function):
    """Attention by blocks of queries, each over the stretch of keys that any of its queries sees; the shares are kept.

    torch's kernel for CPUs computes short rows in full and masks afterwards. Query heads of one key head are rows of one product.
    """

    @staticmethod
    def forward(ctx: Any, q_BTHE: Tensor, k_BSKE: Tensor, v_BSKE: Tensor, bias: Tensor | None) -> Tensor:
        (B, T, H, E), K = q_BTHE.shape, k_BSKE.shape[2]
        G = H // K
        q, k, v = _by_head(q_BTHE * E**-0.5, K), _by_head(k_BSKE, K), _by_head(v_BSKE, K)
        stretches = _stretches(T, bias)
        y, shares = torch.empty_like(q), []
        for a, b, low, high in stretches:
            scores = torch.bmm(q[:, a * G : b * G], k[:, low:high].mT)
            if bias is None:
                scores.view(B * K, b - a, G, -1)[..., a:] += torch.ones(b - a, b - a).tril_().log_()[:, None]
            else:
                scores.view(B, K, b - a, G, -1).add_(bias[:, :, a:b, None, low:high])
            shares.append(scores.softmax(-1))
            y[:, a * G : b * G] = torch.bmm(shares[-1], v[:, low:high])
        ctx.save_for_backward(q, k, v, y, *shares)
        ctx.shape, ctx.stretches = (B, K, G), stretches
        return _by_token(y, B, K, G)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, y, *shares = ctx.saved_tensors
        B, K, G = ctx.shape
        d_y = _by_head(gradient, K)
        spent = (d_y * y).sum(-1, keepdim=True)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for share, (a, b, low, high) in zip(shares, ctx.stretches, strict=True):
            part = slice(a * G, b * G)
            d_v[:, low:high].baddbmm_(share.mT, d_y[:, part])
            d_scores = torch.bmm(d_y[:, part], v[:, low:high].mT).sub_(spent[:, part]).mul_(share)
            d_q[:, part] = torch.bmm(d_scores, k[:, low:high])
            d_k[:, low:high].baddbmm_(d_scores.mT, q[:, part])
        d_q *= q.shape[-1] ** -0.5
        return _by_token(d_q, B, K, G), _by_token(d_k, B, K, 1), _by_token(d_v, B, K, 1), None


def _by_head(x_BTHE: Tensor, K: int) -> Tensor:
    """[B*K, T*G, E]: of each key head, the rows of its G heads, position by position."""
    B, T, H, E = x_BTHE.shape
    return x_BTHE.view(B, T, K, H // K, E).transpose(1, 2).reshape(B * K, T * (H // K), E)


def _by_token(x: Tensor, B: int, K: int, G: int) -> Tensor:
    """`_by_head` backwards."""
    E = x.shape[-1]
    return x.view(B, K, -1, G, E).transpose(1, 2).reshape(B, -1, K * G, E)


def _stretches(queries: int, bias: Tensor | None) -> list[tuple[int, int, int, int]]:
    """(first query, end, first key, end) of each block of queries; without a mask all before the block's end is seen."""
    size = QUERIES if queries >= 4 * QUERIES else QUERIES // 2
    blocks = [(a, min(a + size, queries)) for a in range(0, queries, size)]
    if bias is None:
        return [(a, b, 0, b) for a, b in blocks]
    seen = (bias > -torch.inf).amax((0, 1))
    keys = [seen[a:b].any(0).nonzero()[:, 0].tolist() or [0] for a, b in blocks]
    return [(a, b, found[0], found[-1] + 1) for (a, b), found in zip(blocks, keys, strict=True)]


def linear(x_BTD: Tensor, weight_FD: Tensor) -> Tensor:
    """x @ weight.T, [B,T,F]."""
    return _Linear.apply(x_BTD, weight_FD)


def linears(x_BTD: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """x @ weight.T for each weight."""
    return _Linears.apply(x_BTD, *weights)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) times the weight."""
    return _RmsNorm.apply(x, weight, eps)


def swiglu(x_BTD: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
    """down(silu(gate(x)) * up(x)), [B,T,D]."""
    return _SwiGLU.apply(x_BTD, gate_FD, up_FD, down_DF)


def attends(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, bias: Any) -> bool:
    """Whether `attention` is for these: short rows in training, causal or under one mask for all heads."""
    T, S = q_BHTE.shape[2], k_BKSE.shape[2]
    fits = T == S if bias is None else type(bias) is Tensor and bias.shape[-3:] == (1, T, S)
    return fits and QUERIES // 2 < T and S <= SHORT and trains(q_BHTE, k_BKSE, v_BKSE)


def attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k / sqrt(E) + bias) v, [B,H,T,E]; causal without a bias. Whatever a query sees is finite in some place."""
    y_BTHE = _Attention.apply(q_BHTE.transpose(1, 2), k_BKSE.transpose(1, 2), v_BKSE.transpose(1, 2), bias)
    return y_BTHE.transpose(1, 2)


def cross_entropy_sum(
    states_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor | None = None, chunk: int | None = None
) -> Tensor:
    """Sum over N of weight * -log softmax(state @ head.T)[target], a scalar; `chunk` positions have logits at a time.

    The gradient is made in the forward pass; weights have none.
    """
    most = max(64, LOGITS // len(head_VD))
    return _CrossEntropySum.apply(states_ND, head_VD, targets_N, weights_N, min(chunk or most, most))
