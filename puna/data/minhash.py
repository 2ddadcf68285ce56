"""MinHash signatures and exact Jaccard similarity of shingle sets (paper section 3.1.1); what is made of them for a whole data
set is in `puna.data.near_duplicates`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pydantic import PositiveInt

from puna.core.rng import numpy_stream
from puna.core.settings import Settings, Share
from puna.data.words import Words

EMPTY = np.uint32(0xFFFFFFFF)


class MinHashSettings(Settings):
    """Parameters of near-duplicate detection.

    Attributes:
        shingle_words: words in a shingle.
        shingle_letters: letters in a shingle, for scripts without spaces.
        bands, rows: of the banded LSH; bands x rows is the number of permutations.
        threshold: exact Jaccard similarity from which two documents are duplicates.
        min_shingles: shorter documents are compared for equality only.
    """

    shingle_words: PositiveInt = 5
    shingle_letters: PositiveInt = 12
    bands: PositiveInt = 14
    rows: PositiveInt = 8
    threshold: Share = 0.8
    min_shingles: PositiveInt = 12


def signatures(words: Words, settings: MinHashSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MinHash signatures and shingle sets of a batch of documents.

    A permutation of the 32-bit hash x is (x xor mask) times an odd factor modulo 2^32: eight or sixteen at a time in one
    register, which a 64-bit multiply-shift is not. That it estimates as well is tested, not assumed.

    Returns:
        uint32 [documents, bands * rows], all ones where a document has fewer than `min_shingles`;
        uint64 [shingles], sorted and distinct within each document; int64 [documents], the end of each document's.
    """
    from puna.data.kernels.minhash import keep_distinct, shingle_hashes, sign

    sizes = np.where(words.letterwise(), settings.shingle_letters, settings.shingle_words).astype(np.int64)
    values, all_ends = np.empty(len(words.hashes), dtype=np.uint64), np.zeros(len(words.ends), dtype=np.int64)
    shingle_hashes(words.hashes, words.ends, sizes, values, all_ends)
    begin = 0
    for end in all_ends.tolist():
        values[begin:end].sort()  # numpy's vector sort takes a fifth of the time of one in a kernel
        begin = end
    ends = np.zeros_like(all_ends)
    values = values[: keep_distinct(values, all_ends, ends)].copy()
    permutations = settings.bands * settings.rows
    found = np.full((len(ends), permutations), EMPTY, dtype=np.uint32)
    factors, masks = _lanes(permutations)
    sign(values, ends, settings.min_shingles, factors, masks, found)
    return found, values, ends


@lru_cache(maxsize=8)
def _lanes(count: int) -> tuple[np.ndarray, np.ndarray]:
    # a fixed stream: signatures of two runs must be comparable
    draws = numpy_stream(0, "data.minhash").integers(0, 2**32, size=(2, count), dtype=np.uint32, endpoint=False)
    return draws[0] | np.uint32(1), draws[1]


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Exact Jaccard similarity of two sorted arrays of distinct hashes."""
    if not len(first) or not len(second):
        return 0.0
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)
