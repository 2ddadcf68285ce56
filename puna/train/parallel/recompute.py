"""Activation recomputation: what the backward pass computes again instead of keeping it (section 3.3.2 trades memory for it).

"selective" keeps the results of matrix products and of attention, which cost most to make, and recomputes the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from puna.model import cpu
from puna.plan.layout import Recompute

_ATEN = torch.ops.aten
KEPT = (
    _ATEN.mm.default, _ATEN.bmm.default, _ATEN.addmm.default, _ATEN._scaled_mm.default,
    _ATEN._scaled_dot_product_flash_attention.default, _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default, _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    torch._higher_order_ops.flex_attention,
    *([torch.ops.mkldnn._linear_pointwise.default] if cpu.ONEDNN else []),
)  # fmt: skip


def recompute_blocks(layers: Iterable[nn.Module], how: Recompute) -> None:
    """Make each layer recompute its activations in the backward pass."""
    if how == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, **options)  # type: ignore[method-assign]


def _policy(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
