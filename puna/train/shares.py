"""Tensors that may lie over several processes (torch's DTensor): the whole of one, this process's share, and back.

Plain tensors are whole and share alike, so whoever works on weights need not know where they are.
"""

from __future__ import annotations

from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes (each must ask)."""
    return tensor if _plain(tensor) else tensor.full_tensor()  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """This process's share, the same memory."""
    return tensor if _plain(tensor) else tensor.to_local()  # type: ignore[attr-defined]


def share_of(given: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds of a tensor placed as `like`.

    Tensor parallelism cuts first and sharding then, so the inner dimension of the mesh is undone first.
    """
    if _plain(like):
        return given
    mesh = like.device_mesh  # type: ignore[attr-defined]
    for axis in reversed(range(mesh.ndim)):
        dim = getattr(like.placements[axis], "dim", None)  # type: ignore[attr-defined]
        if dim is not None:
            size = -(-given.shape[dim] // mesh.size(axis))
            start = min(size * mesh.get_local_rank(axis), given.shape[dim])
            given = given.narrow(dim, start, min(size, given.shape[dim] - start))
    return given


def _plain(tensor: Tensor) -> bool:
    return not hasattr(tensor, "placements")
