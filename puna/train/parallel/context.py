"""Context parallelism (section 3.3.2): the ranks of an axis share the sequence of a row, and gather all keys and values.

As in the paper, and not as a ring: documents of any length may be masked, and gathering is cheap beside attention because of
grouped queries. Rank r of c holds chunks r and 2c-1-r of 2c, so that causal attention costs the same on all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from puna.train.packing import Batch, SharedRows


class ContextGather:
    """What attention asks for keys and values (`puna.model.llama.KVCache`): those of all ranks, in the order of ranks."""

    def __init__(self, mesh: DeviceMesh):
        self.mesh = mesh

    def update(self, layer: int, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer; in the backward pass the gradients of a rank's own are summed over the ranks."""
        return gathered(k_BKTE, self.mesh, 2), gathered(v_BKTE, self.mesh, 2)


def gathered(part: Tensor, mesh: DeviceMesh, dim: int) -> Tensor:
    """The parts of all ranks behind one another along `dim`; its gradient is scattered and summed."""
    whole = DTensor.from_local(part, mesh, [Shard(dim)], run_check=False).redistribute(placements=[Replicate()])
    return whole.to_local(grad_placements=[Partial()])


def places(length: int, ranks: int, rank: int) -> Tensor:
    """Positions in a row that one rank holds: a chunk from its head and one from its tail. int64 [length / ranks]."""
    chunks = torch.arange(length).chunk(2 * ranks)
    return torch.cat([chunks[rank], chunks[2 * ranks - 1 - rank]])


def order(length: int, ranks: int) -> Tensor:
    """Positions of a row in the order in which gathering brings them. int64 [length]."""
    return torch.cat([places(length, ranks, rank) for rank in range(ranks)])


def local_rows(batch: Batch, ranks: int, rank: int) -> Batch:
    """One rank's part of every row."""
    length = batch.ids_BT.shape[1]
    mine, everyone = places(length, ranks, rank), order(length, ranks)
    weights = None if batch.weights_BT is None else batch.weights_BT[:, mine]
    parts = (batch.ids_BT, batch.targets_BT, batch.positions_BT, batch.documents_BT)
    ids, targets, positions, documents = (part[:, mine] for part in parts)
    return Batch(ids, targets, positions, documents, weights, batch.extra, SharedRows(batch.documents_BT, mine, everyone))
