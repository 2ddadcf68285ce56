"""Kernels over word hashes of many documents: divergence from a distribution, and n-grams shared with a fixed set."""

from __future__ import annotations

import numpy as np
from numba import njit

SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio: spreads a hash over the high bits
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # rolling hash of n-grams
S29 = np.uint64(29)


@njit(cache=True, nogil=True)
def count_buckets(hashes, shift, counts):  # type: ignore[no-untyped-def]
    """Add each word's bucket, the top bits of its spread hash, to `counts` (int64)."""
    for value in hashes:
        counts[(value * SPREAD) >> shift] += 1


@njit(cache=True, nogil=True)
def divergences(hashes, ends, which, shift, counts, totals, out):  # type: ignore[no-untyped-def]
    """Kullback-Leibler divergence in nats of every document's words from the rest of the corpus.

    Args:
        which: int32 [documents], row of `counts`.
        counts: int64 [distributions, buckets], words of the corpus, those of the documents at hand among them.
        totals: int64 [distributions], all words of a row plus what smoothing adds to its buckets.
        out: float32 [documents]; NaN for a document without words.
    """
    here = np.zeros(counts.shape[1], dtype=np.int64)
    begin = np.int64(0)
    for doc in range(len(ends)):
        end, row = ends[doc], counts[which[doc]]
        for index in range(begin, end):
            here[(hashes[index] * SPREAD) >> shift] += 1
        words = end - begin
        others = np.log(np.float64(max(totals[which[doc]] - words, 1)))
        total = 0.0
        for index in range(begin, end):
            bucket = (hashes[index] * SPREAD) >> shift
            if here[bucket]:
                elsewhere = np.log(np.float64(max(row[bucket] - here[bucket], 0) + 1)) - others
                total += here[bucket] / words * (np.log(here[bucket] / words) - elsewhere)
                here[bucket] = 0
        out[doc] = total if words else np.nan
        begin = end


@njit(cache=True, nogil=True)
def ngrams_of(hashes, begin, end, n, out):  # type: ignore[no-untyped-def]
    """Hash of every n-gram of the words [begin, end) into `out` (uint64); returns how many."""
    if end - begin < n:
        return 0
    power = np.uint64(1)
    for _ in range(n - 1):
        power *= MULTIPLIER
    rolled = np.uint64(0)
    for index in range(begin, begin + n):
        rolled = rolled * MULTIPLIER + hashes[index]
    out[0] = rolled ^ (rolled >> S29)
    for index in range(begin + n, end):
        rolled = (rolled - hashes[index - n] * power) * MULTIPLIER + hashes[index]
        out[index - begin - n + 1] = rolled ^ (rolled >> S29)
    return end - begin - n + 1


@njit(cache=True, nogil=True)
def shared_ngrams(hashes, ends, sizes, keys, owners, owned, maybe, maybe_shift, covered, shares, best, best_share):  # type: ignore[no-untyped-def]
    """Which words stand in n-grams of a fixed set, and which owner of the set each document shares most with.

    Args:
        sizes: int32 [documents], n by document.
        keys: uint64, sorted hashes of the set; owners: int32, beside them.
        owned: int32 [owners], n-grams of each owner.
        maybe: bool, indexed by the top bits of a spread hash: False means the hash is not in `keys`.
        covered: bool [words], set where a word stands in a shared n-gram.
        shares: float32 [documents], covered words by all words.
        best: int32 [documents], the owner with most shared n-grams, -1 for none; best_share: float32, of the owner's n-grams.
    """
    hits = np.zeros(len(owned), dtype=np.int32)
    touched = np.empty(len(owned), dtype=np.int32)
    longest, begin = np.int64(1), np.int64(0)
    for doc in range(len(ends)):
        longest = max(longest, ends[doc] - begin)
        begin = ends[doc]
    grams = np.empty(longest, dtype=np.uint64)
    begin = np.int64(0)
    for doc in range(len(ends)):
        end, n = ends[doc], np.int64(sizes[doc])
        found, reached, covering = 0, begin, 0
        for index in range(ngrams_of(hashes, begin, end, n, grams)):
            if not maybe[(grams[index] * SPREAD) >> maybe_shift]:
                continue
            place = np.searchsorted(keys, grams[index])
            if place >= len(keys) or keys[place] != grams[index]:
                continue
            owner = owners[place]
            if hits[owner] == 0:
                touched[found] = owner
                found += 1
            hits[owner] += np.int32(1)
            for word in range(max(begin + index, reached), begin + index + n):
                covered[word] = True
                covering += 1
            reached = begin + index + n
        shares[doc] = covering / max(end - begin, 1)
        best[doc], best_share[doc] = -1, 0.0
        most = 0
        for turn in range(found):
            owner = touched[turn]
            if hits[owner] > most:
                most, best[doc] = hits[owner], owner
                best_share[doc] = min(1.0, hits[owner] / owned[owner])
            hits[owner] = 0
        begin = end
