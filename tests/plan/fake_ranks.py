"""One process of a cluster that is not there: a model placed on a fake process group, and the bytes it would hold.

Collectives of the group do nothing, and tensors have shapes and no memory, so a rank of 16,384 is looked at in seconds.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from puna.train.parallel.meshes import Meshes
from puna.train.parallel.placed import Placed


@contextmanager
def placed(config, layout, place, precision="bf16"):
    """The share of the model that the first process at a place of the pipeline holds, on the meta device."""
    rank = layout.tp * layout.cp * place
    dist.init_process_group("fake", rank=rank, world_size=layout.world, store=FakeStore())
    try:
        meshes = Meshes.open(layout)
        assert meshes.coordinate == {"pp": place, "dp": 0, "cp": 0, "tp": 0}
        yield Placed(config, meshes, precision=precision, materialise=False)
    finally:
        _clear_sharding_prop_cache()  # it remembers meshes, and with them the groups of this cluster
        dist.destroy_process_group()


class Held(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still referred to, by whomever; `known` ones are left out.

    With `peak`, `most` is the most that was held at once (slow).
    """

    def __init__(self, known=(), *, peak=False):
        super().__init__()
        self.peak = peak
        self.known = [storage_of(tensor) for tensor in known]
        self.storages = weakref.WeakSet()
        self.most = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        self.storages |= {storage_of(tensor) for tensor in tree_leaves(out) if isinstance(tensor, torch.Tensor)}
        self.most = max(self.most, self.bytes()) if self.peak else 0
        return out

    def bytes(self):
        return sum(storage.nbytes() for storage in self.storages if not any(storage is other for other in self.known))


def storage_of(tensor):
    return (tensor._local_tensor if isinstance(tensor, DTensor) else tensor).untyped_storage()


def forward_and_backward(model, stage, tokens, mask=None):
    """Bytes held after the forward pass of one micro-batch of one row, and after a backward pass that does not reduce gradients.

    Args:
        stage: which of the rank's. tokens: of the row on this rank. mask: positions it may attend to, where attention reads one.
    """
    config, layout, part = model.config, model.layout, model.parts[stage]
    with FakeTensorMode(allow_non_fake_inputs=True):
        part.to_empty(device="cpu")
        part.set_requires_gradient_sync(False)
        part.set_reshard_after_backward(layout.pp == 1)
        dtype = torch.bfloat16 if model.precision == "bf16" else torch.float32
        if layout.stages_of(model.meshes.coordinate["pp"])[stage] == 0:
            x = torch.zeros(1, tokens, dtype=torch.long)
        else:
            x = torch.empty(1, tokens // layout.tp, config.dim, dtype=dtype, requires_grad=True)
        with Held([x, *part.parameters()]) as held:
            tables = [torch.empty(1, tokens, 1, config.head_size) for _ in range(2)]
            part.model.rope.forward = lambda *_: tuple(tables)  # it would look at the positions, and there are none
            given = None if mask is None else torch.empty(1, 1, tokens, mask, dtype=dtype)
            y = part(x, positions_BT=torch.zeros(1, tokens, dtype=torch.long), mask=given)
            forward = held.bytes()
            y.sum().backward()
            tables.clear()
            del y, x, given
            return forward, held.bytes()
