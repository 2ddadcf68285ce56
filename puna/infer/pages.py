"""Which pages of the KV cache are free, how many samples read each one, and which of them can be found again by their tokens.

A page holds the keys and values of `page_size` consecutive tokens of one sequence in every layer. Samples of one prompt read
the same prompt pages (paper section 4.2.2 [rejection sampling with PagedAttention]): a page goes back when its last reader is
done. A full page is known by a hash of its tokens and of all before them; without readers it waits in the order of last use and
is emptied only when nothing else is free, so that a later prompt that begins alike reads it instead of computing it; pictures
count as tokens do. Taking, finding and releasing cost the number of pages concerned, never the size of the pool. The free list is
a stack, so the pages used last (and still in the processor's cache) are used next.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from puna.core.errors import RunError

PADDING_PAGE = 0  # takes the writes of padded positions; never handed out, never read unmasked
KEY_BYTES = 16  # two texts with the same key are not to be expected in this universe


def page_keys(
    tokens: np.ndarray, page_size: int, known: Sequence[bytes] = (), media: Sequence[tuple[int, bytes]] = ()
) -> list[bytes]:
    """Keys of the full pages of a sequence, each a hash of its tokens and the key before.

    Args:
        tokens: int64 [T].
        known: the first keys, from an earlier call.
        media: the keys of what the sequence shows, and the places from which on they count. Such pages are told apart from
            those of text from the first one on, since a model that sees may compute them in another way.
    """
    keys = list(known)
    for page in range(len(keys), len(tokens) // page_size):
        here = range(page * page_size, (page + 1) * page_size)
        content = tokens[here.start : here.stop].tobytes() + b"".join(key for at, key in media if at in here)
        before = keys[-1] if keys else b"sees" if media else b""
        keys.append(blake2b(before + content, digest_size=KEY_BYTES).digest())
    return keys


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
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._known = np.zeros(pages, dtype=bool)
        self._resting: OrderedDict[int, None] = OrderedDict()  # known pages without readers, longest unused first

    @property
    def free(self) -> int:
        """Pages nobody reads, those that can still be found included."""
        return self._top + len(self._resting)

    def take(self, count: int) -> np.ndarray:
        """`count` page numbers (int64), each with one reader; RunError if fewer are free (admission should have waited)."""
        if count > self.free:
            raise RunError(f"the KV cache was asked for {count} pages and has {self.free} free", fix="raise `pages`")
        while self._top < count:
            page, _ = self._resting.popitem(last=False)
            self._unname(page)
            self._push(np.array([page]))
        self._top -= count
        taken = self._stack[self._top : self._top + count][::-1].copy()
        self.references[taken] = 1
        return taken

    def share(self, pages: np.ndarray, readers: int) -> None:
        """Add `readers` readers to each of `pages`."""
        self.references[pages] += readers

    def release(self, pages: np.ndarray) -> None:
        """One reader fewer for each entry of `pages`, an int array that may name a page several times.

        Of known pages, those named last are emptied first: a page is of no use without the one before it.
        """
        distinct, first, times = np.unique(pages, return_index=True, return_counts=True)
        self.references[distinct] -= times.astype(np.int32)
        unread = self.references[distinct] == 0
        known = self._known[distinct]
        self._push(distinct[unread & ~known][::-1])
        kept = unread & known
        if kept.any():
            self._resting.update(dict.fromkeys(distinct[kept][np.argsort(-first[kept])].tolist()))

    def find(self, keys: Sequence[bytes]) -> np.ndarray:
        """The known pages (int64) of the longest run of keys from the first on."""
        found = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            found.append(page)
        return np.array(found, dtype=np.int64)

    def claim(self, pages: np.ndarray, readers: int) -> None:
        """Add readers to pages that were found, whether or not they have any."""
        for page in pages[self.references[pages] == 0].tolist():
            del self._resting[page]
        self.references[pages] += readers

    def name(self, keys: Sequence[bytes], pages: np.ndarray) -> None:
        """Make pages that have readers findable by their keys; a key that has a page already keeps it."""
        for key, page in zip(keys, pages.tolist(), strict=True):
            if key not in self._page_of and page not in self._key_of:
                self._page_of[key], self._key_of[page] = page, key
                self._known[page] = True

    def unname(self, pages: np.ndarray) -> None:
        """Make pages that have readers impossible to find."""
        for page in pages[self._known[pages]].tolist():
            self._unname(page)

    def forget(self) -> None:
        """Make every page impossible to find."""
        self._push(np.array(list(self._resting)[::-1], dtype=np.int64))
        self._resting.clear()
        self._known[list(self._key_of)] = False
        self._page_of.clear()
        self._key_of.clear()

    def _unname(self, page: int) -> None:
        del self._page_of[self._key_of.pop(page)]
        self._known[page] = False

    def _push(self, pages: np.ndarray) -> None:
        self._stack[self._top : self._top + len(pages)] = pages
        self._top += len(pages)
