"""The paged KV cache as the model sees it: `update` writes the new keys and values and hands back all a row may attend to.

One tensor holds every layer: [layer, page, page_size, 2, kv_heads, head_dim]. A page of one layer is one contiguous run of
memory, so collecting a row's pages is a plain copy of whole runs, and what comes out is already [B, S, 2, K, E]; keys and
values are views of it. Shape legend as in `puna.model.llama`, plus W pages of a block table (S = W * page_size).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from puna.infer.memory import huge_zeros


class PagedCache:
    """Storage for `pages` pages.

    Fresh pages are zero and not merely unset: a masked position has weight 0, and 0 * NaN would poison the sum.
    On CPU pages never used cost no memory.
    """

    def __init__(
        self, *, layers: int, pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ):
        self.page_size = page_size
        shape = (layers, pages, page_size, 2, kv_heads, head_dim)
        self.storage = _untouched_zeros(shape, dtype) if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
        self.flat = self.storage.view(layers, pages * page_size, 2, kv_heads, head_dim)
        self.rows = self.storage.view(layers, pages, page_size * 2 * kv_heads * head_dim)

    def copy_pages(self, source: Tensor, target: Tensor) -> None:
        """Copy whole pages in every layer (int64 [N] each): the last, partly filled prompt page of a forked sample."""
        self.rows[:, target] = self.rows[:, source]


@dataclass
class DecodeView:
    """One new token per row: writes it to its slot, returns the row's pages.

    `slots_B` (page * page_size + offset of the new token) and `table_BW` are int64 on the cache's device.
    """

    cache: PagedCache
    slots_B: Tensor
    table_BW: Tensor

    def update(self, layer: int, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all positions, [B, K, S, E] each; positions past the row's end hold other rows' leavings."""
        cache = self.cache
        cache.flat[layer].index_copy_(0, self.slots_B, torch.cat((k_BKTE.transpose(1, 2), v_BKTE.transpose(1, 2)), 1))
        return _gather(cache, layer, self.table_BW)


@dataclass
class PrefillView:
    """Chunks of prompts, right-padded to [B, T]: writes the real positions and returns what the chunk may attend to.

    `valid_BT` marks real positions, `slots_N` their slots in row-major order. `table_BW` is None when every row starts at
    position 0: all there is to attend to is then the chunk itself, under a causal mask.
    """

    cache: PagedCache
    valid_BT: Tensor
    slots_N: Tensor
    table_BW: Tensor | None

    def update(self, layer: int, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, [B, K, S, E] each (S = T without a table)."""
        new_BT2KE = torch.stack((k_BKTE.transpose(1, 2), v_BKTE.transpose(1, 2)), 2)
        self.cache.flat[layer].index_copy_(0, self.slots_N, new_BT2KE[self.valid_BT])
        if self.table_BW is None:
            return k_BKTE, v_BKTE
        return _gather(self.cache, layer, self.table_BW)


def _gather(cache: PagedCache, layer: int, table_BW: Tensor) -> tuple[Tensor, Tensor]:
    batch, width = table_BW.shape
    _, _, kv, heads, dim = cache.flat.shape
    pages = cache.rows[layer].index_select(0, table_BW.reshape(-1)).view(batch, width * cache.page_size, kv, heads, dim)
    return pages[:, :, 0].transpose(1, 2), pages[:, :, 1].transpose(1, 2)


def _untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros the operating system provides page by page on first use; `torch.zeros` would write them all now."""
    return huge_zeros(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
