"""Large runs of zeros in huge pages.

A pure read of memory is a third to a half faster through pages of 2 MiB than through those of 4 KiB, keys and values that lie
scattered gain more, and PyTorch's own memory has the small ones.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

HUGE = 2 << 20  # bytes of a huge page


def huge_zeros(size: int) -> Tensor:
    """uint8 [size] from the start of a huge page, where the system has them; memory is taken only when it is written to."""
    if hasattr(mmap, "MAP_PRIVATE"):  # Python's default is shared memory, which gets no huge pages
        place = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        place = mmap.mmap(-1, size + HUGE)
    with suppress(AttributeError, OSError):  # not on every system, and not in every kernel
        place.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.from_numpy(np.frombuffer(place, dtype=np.uint8))
    first = -whole.data_ptr() % HUGE
    return whole[first : first + size]
