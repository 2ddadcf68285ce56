"""Shingle sets and MinHash signatures of every document."""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.kernels.ngrams import ROLL

S29, S32 = np.uint64(29), np.uint64(32)
ALL_ONES = np.uint32(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def shingle_hashes(hashes, ends, sizes, out, out_ends):  # type: ignore[no-untyped-def]
    """Hash every run of `sizes[doc]` words of a document into `out` (room for all words); `out_ends` receives the ends."""
    begin, count = 0, 0
    for doc in range(len(ends)):
        size = sizes[doc]
        for i in range(begin, ends[doc] - size + 1):
            state = hashes[i]
            for j in range(1, size):
                state = state * ROLL + hashes[i + j]
            out[count] = state ^ (state >> S29)
            count += 1
        out_ends[doc] = count
        begin = ends[doc]


@njit(cache=True, nogil=True)
def keep_distinct(values, ends, out_ends):  # type: ignore[no-untyped-def]
    """Close up the sorted parts of `values` so that each value comes once in its part; returns how many are left."""
    begin, count = 0, 0
    for doc in range(len(ends)):
        for i in range(begin, ends[doc]):
            if i == begin or values[i] != values[i - 1]:
                values[count] = values[i]
                count += 1
        out_ends[doc] = count
        begin = ends[doc]
    return count


@njit(cache=True, nogil=True)
def sign(values, ends, least, factors, masks, signatures):  # type: ignore[no-untyped-def]
    """Minimum of each permutation over the values of each document.

    Args:
        values, ends: distinct shingle hashes, uint64, and the end of every document's.
        least: documents with fewer values keep what stands in `signatures`.
        factors, masks: uint32 [permutations], odd factors: permutation p of x is (x ^ masks[p]) * factors[p] modulo 2^32.
        signatures: uint32 [documents, permutations], all ones before.
    """
    begin = 0
    for doc in range(len(ends)):
        smallest = signatures[doc]
        end = ends[doc]
        if end - begin >= least and end > begin:
            i = begin
            while i < end:  # four values at a time: the running minimum is loaded and stored once for them; a repeat is harmless
                x0 = _low(values[i])
                x1 = _low(values[min(i + 1, end - 1)])
                x2 = _low(values[min(i + 2, end - 1)])
                x3 = _low(values[min(i + 3, end - 1)])
                for p in range(len(smallest)):
                    mask, factor = masks[p], factors[p]
                    a = min(np.uint32(np.uint32(x0 ^ mask) * factor), np.uint32(np.uint32(x1 ^ mask) * factor))
                    b = min(np.uint32(np.uint32(x2 ^ mask) * factor), np.uint32(np.uint32(x3 ^ mask) * factor))
                    smallest[p] = min(smallest[p], min(a, b))
                i += 4
        begin = end


@njit(cache=True, nogil=True)
def _low(value):  # type: ignore[no-untyped-def]
    return np.uint32(value ^ (value >> S32))
