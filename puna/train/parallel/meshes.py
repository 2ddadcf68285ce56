"""Which process sits where: the axes in the paper's order [TP, CP, PP, DP], tensor parallel ranks nearest to each other.

Two meshes lie over the same processes. Weights are sharded over data and context parallel ranks together, since both hold the
same weights and read different tokens; rows and sequences are divided by each of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from puna.core.errors import InputError
from puna.train.parallel.layout import Layout
from puna.train.world import World


@dataclass(frozen=True)
class Meshes:
    """The meshes of a layout and this process's place in them.

    Attributes:
        params: dimensions pp, replicate, shard, tp. rows: dimensions pp, dp, cp, tp.
        coordinate: of this process along each axis of `rows`.
    """

    layout: Layout
    params: DeviceMesh
    rows: DeviceMesh
    coordinate: dict[str, int]
    device: torch.device

    @classmethod
    def open(cls, layout: Layout, device: str = "cpu") -> Meshes:
        """Lay out the processes of `torch.distributed`, which must be initialised; from here on it is the current `World`.

        Raises:
            InputError: there are more or fewer processes than the layout has places.
        """
        if dist.get_world_size() != layout.world:
            raise InputError(f"the layout has {layout.world} places and there are {dist.get_world_size()} processes",
                             where="parallel", fix="start as many processes as dp * cp * tp * pp")  # fmt: skip
        place = torch.arange(layout.world).reshape(layout.dp, layout.pp, layout.cp, layout.tp).transpose(0, 1)
        params = place.reshape(layout.pp, layout.replicate, layout.shards, layout.tp)
        rows = DeviceMesh(device, place, mesh_dim_names=("pp", "dp", "cp", "tp"))
        at = dict(zip(("pp", "dp", "cp", "tp"), (place == dist.get_rank()).nonzero()[0].tolist(), strict=True))
        meshes = cls(layout, DeviceMesh(device, params, mesh_dim_names=("pp", "replicate", "shard", "tp")), rows, at,
                     _device(device))  # fmt: skip
        owner = at["tp"] == 0 and at["pp"] == layout.rank_of(layout.stages - 1)
        speaker = owner and at["dp"] == at["cp"] == 0
        patience = timedelta(seconds=layout.hang_seconds)
        for mesh in (rows, meshes.params):
            for name in mesh.mesh_dim_names or ():
                _set_pg_timeout(patience, mesh.get_group(name))  # a mesh gives its groups torch's own time
        World(at["dp"], layout.dp, dist.get_rank(), layout.world, owner, layout.dp * layout.cp, speaker, patience).settle()
        return meshes


def _device(kind: str) -> torch.device:
    return torch.device(kind if kind == "cpu" else f"{kind}:{torch.accelerator.current_device_index()}")
