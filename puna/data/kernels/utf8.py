"""Reading code points out of UTF-8 bytes, and the hash step shared by all kernels.

numba turns mixed signed and unsigned operands into floats or wider words without a warning; hence the casts everywhere.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.kernels.tables import ALONE, FIRST_PLAIN_HAN, LAST_PLAIN_HAN, LETTER, SIZE, WORD

REPLACEMENT = 0xFFFD  # what a clipped sequence reads as
SEED = np.uint64(0x9E3779B97F4A7C15)
STEP = np.uint64(0xD6E8FEB86659FD93)  # odd, from the xmxmx mixer of Pelle Evensen
FINISH = np.uint64(0xBF58476D1CE4E5B9)  # odd, from splitmix64 (Steele et al. 2014)
S32, S29 = np.uint64(32), np.uint64(29)
HAN = np.uint8(LETTER | WORD | ALONE)
NOTHING = np.uint8(0)


@njit(cache=True, nogil=True)
def decode(data, i, end):  # type: ignore[no-untyped-def]
    """The code point at byte `i` and the byte after it; never reads past `end`."""
    b = np.int64(data[i])
    if b < 0x80:
        return b, i + 1
    if b < 0xE0:
        if i + 2 > end:
            return np.int64(REPLACEMENT), end
        return ((b & 0x1F) << 6) | (np.int64(data[i + 1]) & 0x3F), i + 2
    if b < 0xF0:
        if i + 3 > end:
            return np.int64(REPLACEMENT), end
        return ((b & 0x0F) << 12) | ((np.int64(data[i + 1]) & 0x3F) << 6) | (np.int64(data[i + 2]) & 0x3F), i + 3
    if i + 4 > end:
        return np.int64(REPLACEMENT), end
    high = ((b & 0x07) << 18) | ((np.int64(data[i + 1]) & 0x3F) << 12)
    return high | ((np.int64(data[i + 2]) & 0x3F) << 6) | (np.int64(data[i + 3]) & 0x3F), i + 4


@njit(cache=True, nogil=True)
def kind_of(kind, code):  # type: ignore[no-untyped-def]
    """Class bits of a code point."""
    if code < SIZE:
        return kind[code]
    return HAN if FIRST_PLAIN_HAN <= code <= LAST_PLAIN_HAN else NOTHING


@njit(cache=True, nogil=True)
def step(state, code):  # type: ignore[no-untyped-def]
    """Take one code point into a 64-bit hash."""
    state = (state ^ np.uint64(code)) * STEP
    return state ^ (state >> S32)


@njit(cache=True, nogil=True)
def finish(state):  # type: ignore[no-untyped-def]
    """The hash of what was taken in; never 0, which means "nothing" everywhere."""
    state = (state ^ (state >> S29)) * FINISH
    state ^= state >> S32
    return state if state != np.uint64(0) else np.uint64(1)


@njit(cache=True, nogil=True)
def encode(code, out, i):  # type: ignore[no-untyped-def]
    """Write a code point at byte `i` of `out`; returns the byte after it."""
    if code < 0x80:
        out[i] = code
        return i + 1
    if code < 0x800:
        out[i] = 0xC0 | code >> 6
        out[i + 1] = 0x80 | code & 0x3F
        return i + 2
    if code < 0x10000:
        out[i] = 0xE0 | code >> 12
        out[i + 1] = 0x80 | code >> 6 & 0x3F
        out[i + 2] = 0x80 | code & 0x3F
        return i + 3
    out[i] = 0xF0 | code >> 18
    out[i + 1] = 0x80 | code >> 12 & 0x3F
    out[i + 2] = 0x80 | code >> 6 & 0x3F
    out[i + 3] = 0x80 | code & 0x3F
    return i + 4


@njit(cache=True, nogil=True)
def forward(data, i, end, count):  # type: ignore[no-untyped-def]
    """The byte after `count` more characters, at most `end`."""
    if end - i <= count:
        return end
    while i < end:
        if data[i] & 0xC0 != 0x80:
            if count == 0:
                break
            count -= 1
        i += 1
    return i


@njit(cache=True, nogil=True)
def backward(data, i, begin, count):  # type: ignore[no-untyped-def]
    """Where the character begins that is `count` characters before byte `i`, at least `begin`."""
    while i > begin and count > 0:
        i -= 1
        count -= data[i] & 0xC0 != 0x80
    return i
