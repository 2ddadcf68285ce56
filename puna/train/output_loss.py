"""Output matrix and cross-entropy in one: logits exist for a chunk of positions at a time and become their own gradient in place.

The gradient with respect to the logits, softmax minus one at the target, needs nothing from later, so it is formed while the
logits are in the cache, and with it those of states and weight. Against autograd's way it saves two passes over the largest
tensor of training and the memory to keep it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 16 << 20}  # of logits at a time, where no chunk is asked for; CPUs keep them in their cache
CHUNK_BYTES_ELSEWHERE = 1 << 30


def output_loss(
    states_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor | None, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """Sum over N of weight * -log softmax(weight_VD state)[target], a float32 scalar; targets below 0 are left out.

    The second tensor is what each position adds to it, [N], without a gradient.

    Args:
        chunk: positions whose logits exist at once; None takes what fits 16 MB on a CPU and 1 GB elsewhere.
    """
    most = CHUNK_BYTES.get(states_ND.device.type, CHUNK_BYTES_ELSEWHERE)
    size = chunk or max(1, most // (4 * len(weight_VD)))
    device = states_ND.device.type
    if torch.is_autocast_enabled(device):
        states_ND = states_ND.to(torch.get_autocast_dtype(device))
    return _OutputLoss.apply(states_ND, weight_VD, targets_N, weights_N, size)


class _OutputLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor | None, chunk: int
    ) -> tuple[Tensor, Tensor]:
        losses_N = torch.empty(len(states_ND), dtype=torch.float32, device=states_ND.device)
        low_VD = weight_VD.to(states_ND.dtype)
        states_grad = torch.empty_like(states_ND) if any(ctx.needs_input_grad[:2]) else None
        weight_grad = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(states_ND), chunk):
            part = slice(start, start + chunk)
            share = None if weights_N is None else weights_N[part]
            own = None if states_grad is None else states_grad[part]
            losses_N[part] = _chunk(states_ND[part], low_VD, targets_N[part], share, own, weight_grad)
        ctx.save_for_backward(states_grad, None if weight_grad is None else weight_grad.to(weight_VD.dtype))
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        states_grad, weight_grad = ctx.saved_tensors
        return (
            states_grad * gradients[0].to(states_grad.dtype),
            None if weight_grad is None else weight_grad * gradients[0].to(weight_grad.dtype),
            None,
            None,
            None,
        )


def _chunk(
    states_CD: Tensor,
    low_VD: Tensor,
    targets_C: Tensor,
    weights_C: Tensor | None,
    states_grad: Tensor | None,
    weight_grad: Tensor | None,
) -> Tensor:
    """Loss of each position of one chunk; writes its part of the gradient of the states and adds to that of the weight."""
    logits_CV = (states_CD @ low_VD.T).float()
    learnt_C = (targets_C >= 0).float()
    scale_C = learnt_C if weights_C is None else learnt_C * weights_C
    column_C1 = targets_C.clamp(min=0)[:, None]
    target_C = logits_CV.gather(1, column_C1)[:, 0]
    top_C = logits_CV.amax(1)
    shares_CV = logits_CV.softmax(1)
    loss = (top_C - shares_CV.amax(1).log() - target_C) * scale_C  # the largest share is 1 / sum(exp(logit - top))
    if states_grad is not None:
        low_CV = shares_CV.scatter_add_(1, column_C1, torch.full_like(top_C, -1.0)[:, None]).to(states_CD.dtype)
        torch.mm(low_CV, low_VD, out=states_grad).mul_(scale_C[:, None])  # scaled where it is small, not at every logit
        if weight_grad is not None:
            scaled_CD = (states_CD * scale_C[:, None]).to(states_CD.dtype)
            if weight_grad.dtype == low_CV.dtype:
                weight_grad.addmm_(low_CV.T, scaled_CD)
            else:
                weight_grad += low_CV.T @ scaled_CD
    return loss
