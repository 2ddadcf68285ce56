"""-log p(target) where the logits are, whole or cut by vocabulary over tensor parallel ranks (then they are never gathered)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def target_losses(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """-log softmax(logits)[target], float32 [N].

    Args:
        logits_NV: a tensor, or a DTensor cut along its last dimension over one mesh dimension.
    """
    if type(logits_NV) is Tensor:
        return F.cross_entropy(logits_NV.float(), targets_N, reduction="none")
    local: Tensor = logits_NV.to_local()  # type: ignore[attr-defined]
    mesh = logits_NV.device_mesh  # type: ignore[attr-defined]
    first = -(-logits_NV.shape[1] // mesh.size()) * mesh.get_local_rank()  # parts are equal but for the last ones
    return _CutLoss.apply(local.float(), targets_N, first, mesh.get_group())


class _CutLoss(torch.autograd.Function):
    """Softmax over columns that several ranks hold: the largest, the sum and the target's logit are reduced, [N] each."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, first: int, group: dist.ProcessGroup) -> Tensor:
        top_N = logits_NV.amax(-1) if logits_NV.shape[1] else logits_NV.new_full((len(logits_NV),), -torch.inf)
        dist.all_reduce(top_N, dist.ReduceOp.MAX, group)
        shifted_NV = logits_NV - top_N[:, None]
        columns_N = targets_N - first
        mine_N = (columns_N >= 0) & (columns_N < logits_NV.shape[1])
        columns_N = columns_N.clamp(0, max(logits_NV.shape[1] - 1, 0))
        rows_N = torch.arange(len(targets_N), device=targets_N.device)
        sums_2N = torch.zeros(2, len(targets_N), device=logits_NV.device)
        if logits_NV.shape[1]:
            sums_2N[1] = shifted_NV[rows_N, columns_N] * mine_N
        shares_NV = shifted_NV.exp_()
        sums_2N[0] = shares_NV.sum(-1)
        dist.all_reduce(sums_2N, group=group)
        ctx.save_for_backward(shares_NV.div_(sums_2N[0][:, None]), rows_N[mine_N], columns_N[mine_N])
        return sums_2N[0].log() - sums_2N[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        shares_NV, rows_M, columns_M = ctx.saved_tensors
        gradient_NV = shares_NV * gradients[0][:, None]
        gradient_NV[rows_M, columns_M] -= gradients[0][rows_M]
        return gradient_NV, None, None, None
