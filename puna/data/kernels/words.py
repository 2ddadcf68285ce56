"""The word scanner: one pass over the bytes of a batch of texts."""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.kernels.tables import ALONE, LETTER, MARK, SIZE, WORD
from puna.data.kernels.utf8 import SEED, decode, finish, kind_of, step

HAS_LETTER, LONE = np.uint8(1), np.uint8(2)
APOSTROPHE, TYPOGRAPHIC_APOSTROPHE = 0x27, 0x2019


@njit(cache=True, nogil=True)
def scan_words(data, offsets, kind, lower, hashes, lengths, flags, starts, ends):  # type: ignore[no-untyped-def]
    """Fill the arrays of `puna.data.words.Words`, which have room for a word every two bytes; returns the number of words."""
    count = 0
    for doc in range(len(offsets) - 1):
        i, end = offsets[doc], offsets[doc + 1]
        while i < end:
            code, after = decode(data, i, end)
            bits = kind_of(kind, code)
            if not bits & WORD:
                i = after
                continue
            start, state, length = i, SEED, 0
            letter = np.uint8(0)
            joined = False
            lone = bits & ALONE
            while True:
                state = step(state, lower[code] if code < SIZE else code)
                length += 1
                letter |= bits & LETTER
                i = after
                if lone or i >= end:
                    break
                code, after = decode(data, i, end)
                bits = kind_of(kind, code)
                if bits & (WORD | MARK) and not bits & ALONE:
                    continue
                if joined or after >= end or (code != APOSTROPHE and code != TYPOGRAPHIC_APOSTROPHE):
                    break
                following, beyond = decode(data, after, end)
                following_bits = kind_of(kind, following)
                if following_bits & ALONE or not following_bits & WORD:
                    break
                joined = True  # "don't" is one word: take the apostrophe, then go on with the letter after it
                state = step(state, APOSTROPHE)
                length += 1
                code, after, bits = following, beyond, following_bits
            hashes[count] = finish(state)
            lengths[count] = length
            flags[count] = (HAS_LETTER if letter else np.uint8(0)) | (LONE if lone else np.uint8(0))
            starts[count] = start
            count += 1
        ends[doc] = count
    return count
