"""The network's own forward pass over the paged cache: any dtype, any device, which every other is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.infer.cache import DecodeView, PagedCache, PrefillView
from puna.infer.spans import Spans
from puna.model.llama import Attached, Llama

Attach = Callable[[Sequence[tuple[Any, ...]], Tensor], Attached | None]  # (what each run sees, positions [N, T])


class TorchSteps:
    """Runs of tokens through a `Llama`, which is used as it is at the time of the call; `attach` tells what runs see."""

    mixes = False  # runs are padded to the longest

    def __init__(self, model: Llama, cache: PagedCache, attach: Attach | None = None):
        self.model, self.cache, self.attach, self.device = model, cache, attach, cache.storage.device

    @torch.no_grad()
    def logits(self, spans: Spans) -> Tensor:
        """Write the runs' keys and values to their pages; logits [Q, V] after the tokens asked for.

        Not in inference mode: tables the model keeps (RoPE) would be unusable in training afterwards.
        """
        return self.model.lm_head(self.states(spans))

    @torch.no_grad()
    def states(self, spans: Spans) -> Tensor:
        """Write the runs' keys and values to their pages; states [Q, D] after the tokens asked for."""
        if (spans.sizes == 1).all():
            return self._one_each(spans)[self._tensor(spans.wanted), 0]
        x_NTD = self._padded(spans)
        return x_NTD[self._tensor(spans.sequence[spans.wanted]), self._tensor(spans.offsets[spans.wanted])]

    def _one_each(self, spans: Spans) -> Tensor:
        """States [N, 1, D] of runs of one token."""
        size = self.cache.page_size
        pages = spans.table[np.arange(len(spans.starts)), spans.starts // size]
        slots = pages * size + spans.starts % size
        view = DecodeView(self.cache, self._tensor(slots), self._tensor(spans.table))
        positions_N1 = spans.starts[:, None]
        mask = self._reach(positions_N1, spans.table.shape[1])
        return self.model.hidden(
            self._tensor(spans.tokens[:, None]), positions_BT=self._tensor(positions_N1), mask=mask, cache=view,
            attached=self._attached(spans, positions_N1),
        )  # fmt: skip

    def _padded(self, spans: Spans) -> Tensor:
        """States [N, T, D], T the longest run's length."""
        width, size = int(spans.sizes.max()), self.cache.page_size
        valid_NT = np.arange(width) < spans.sizes[:, None]
        ids_NT = np.zeros(valid_NT.shape, np.int64)
        ids_NT[valid_NT] = spans.tokens
        positions_NT = np.minimum(spans.starts[:, None] + np.arange(width), (spans.starts + spans.sizes - 1)[:, None])
        slots_NT = np.take_along_axis(spans.table, positions_NT // size, 1) * size + positions_NT % size
        whole = not spans.starts.any()
        view = PrefillView(
            self.cache, self._tensor(valid_NT), self._tensor(slots_NT[valid_NT]), None if whole else self._tensor(spans.table)
        )
        mask = None if whole else self._reach(positions_NT, spans.table.shape[1])
        return self.model.hidden(
            self._tensor(ids_NT), positions_BT=self._tensor(positions_NT), mask=mask, cache=view,
            attached=self._attached(spans, positions_NT),
        )  # fmt: skip

    def _attached(self, spans: Spans, positions_NT: np.ndarray) -> Attached | None:
        """What the runs see."""
        if spans.seen is None or self.attach is None:
            return None
        return self.attach(spans.seen, self._tensor(positions_NT))

    def _reach(self, positions_NT: np.ndarray, pages: int) -> Tensor:
        """Mask [N, 1, T, S]: a query reads its row's positions up to its own."""
        keys_S = torch.arange(pages * self.cache.page_size, device=self.device)
        return (keys_S <= self._tensor(positions_NT)[:, :, None])[:, None]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
