"""Which pages of the KV cache are free, and how many samples read each one.

A page holds the keys and values of `page_size` consecutive tokens of one sequence in every layer. Samples of one prompt read
the same prompt pages (paper section 4.2.2 [rejection sampling with PagedAttention]): a page goes back to the free list when
its last reader is done. Taking and releasing cost the number of pages moved, never the size of the pool. The free list is a
stack, so the pages used last (and still in the processor's cache) are used next.
"""

from __future__ import annotations

import numpy as np

from puna.core.errors import RunError

PADDING_PAGE = 0  # takes the writes of padded positions; never handed out, never read unmasked


class BlockPool:
    """Reference-counted page numbers 1 .. pages - 1.

    Args:
        pages: size of the cache in pages, the padding page included.
    """

    def __init__(self, pages: int):
        self.pages = pages
        self.references = np.zeros(pages, dtype=np.int32)
        self._stack = np.arange(pages - 1, 0, -1, dtype=np.int64)  # low numbers on top: untouched memory stays untouched
        self._top = pages - 1

    @property
    def free(self) -> int:
        """Pages nobody reads."""
        return self._top

    def take(self, count: int) -> np.ndarray:
        """`count` page numbers (int64), each with one reader; RunError if fewer are free (admission should have waited)."""
        if count > self._top:
            raise RunError(f"the KV cache was asked for {count} pages and has {self._top} free", fix="raise `pages`")
        self._top -= count
        taken = self._stack[self._top : self._top + count][::-1].copy()
        self.references[taken] = 1
        return taken

    def share(self, pages: np.ndarray, readers: int) -> None:
        """Add `readers` readers to each of `pages`."""
        self.references[pages] += readers

    def release(self, pages: np.ndarray) -> None:
        """One reader fewer for each entry of `pages`, an int array that may name a page several times."""
        distinct, times = np.unique(pages, return_counts=True)
        self.references[distinct] -= times.astype(np.int32)
        freed = distinct[self.references[distinct] == 0][::-1]
        self._stack[self._top : self._top + len(freed)] = freed
        self._top += len(freed)
