"""Sharding of weights, gradients and optimiser state over data (and context) parallel ranks: FSDP, and HSDP with copies of it.

As in the paper (section 3.3.2), gradients are accumulated and reduced in float32 whatever the products are computed in. Losses
are divided by the tokens of the whole step beforehand, so ranks are summed and never averaged.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from puna.train.parallel.layout import Precision


def shard_weights(model: nn.Module, layers: list[nn.Module], mesh: DeviceMesh, precision: Precision, *, reshard: bool) -> None:
    """Shard each layer and then the rest of a model.

    Args:
        layers: those with weights; each is gathered by itself.
        mesh: one dimension to shard over, or two: copies, and shards of each copy.
        reshard: free a layer's gathered weights after its forward pass (a pipeline, which comes back soon, keeps them).
    """
    dtype = None if precision == "fp32" else torch.bfloat16
    # inputs are not cast: hidden states are in `dtype` from the embedding on, and RoPE tables stay float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    shards = mesh.size(mesh.ndim - 1)
    how: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "shard_placement_fn": partial(_dimension, shards=shards)}
    for layer in layers:
        fully_shard(layer, reshard_after_forward=reshard, **how)
    fully_shard(model, reshard_after_forward=False, **how)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sums, and these need no scale


def _dimension(parameter: nn.Parameter, shards: int) -> Shard | None:
    """Along which dimension a parameter is sharded; None is the first.

    Rows that tensor parallelism has cut and that do not divide further would be sharded unevenly, of which torch's checkpoints
    keep wrong places (2.13); their columns divide.
    """
    if not isinstance(parameter, DTensor) or not parameter.placements[0].is_shard(0):
        return None
    even = parameter.shape[0] % (parameter.device_mesh.size() * shards) == 0
    return None if even else Shard(1)


def synchronise(model: nn.Module, last: bool) -> None:
    """Whether the next backward pass reduces gradients: only the last one of an optimiser step does."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        model.set_is_last_backward(last)
