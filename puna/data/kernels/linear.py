"""The loops of `puna.data.linear`, compiled: text bytes to hashed features, scores of a batch, and one epoch of training.

Features are made anew in every pass instead of being kept: hashing costs less than reading them back from memory, and a corpus
of any size trains in the memory of its texts. Words are runs of letters (every byte above ASCII counts as one), runs of digits
(all read as 0: that a number stands there tells more than which) and single signs.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SPACE, LETTER, DIGIT, SIGN = 0, 1, 2, 3
FNV_BASIS = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio: spreads a hash over the high bits
PAIR = np.uint64(0xD1B54A32D192ED03)  # odd: makes a pair of words differ from the swapped pair
OPEN, CLOSE = np.uint64(0x02), np.uint64(0x03)  # stand before and after a word in its character n-grams


def _tables() -> tuple[np.ndarray, np.ndarray]:
    kinds, folded = np.full(256, SIGN, dtype=np.uint8), np.arange(256, dtype=np.uint8)
    kinds[:33] = SPACE
    kinds[127] = SPACE
    kinds[128:] = LETTER
    for first, last, kind in (("a", "z", LETTER), ("A", "Z", LETTER), ("0", "9", DIGIT)):
        kinds[ord(first) : ord(last) + 1] = kind
    folded[ord("A") : ord("Z") + 1] += 32
    folded[ord("0") : ord("9") + 1] = ord("0")
    return kinds, folded


KINDS, FOLDED = _tables()


@njit(cache=True, nogil=True, inline="always")
def _step(state: np.uint64, byte: np.uint64) -> np.uint64:
    return (state ^ byte) * FNV_PRIME


@njit(cache=True, nogil=True, inline="always")
def _bucket(state: np.uint64, shift: np.uint64) -> np.uint32:
    return np.uint32(((state ^ (state >> np.uint64(32))) * SPREAD) >> shift)


@njit(cache=True, nogil=True)
def _character_ngrams(data, low, high, least, most, shift, out, count):
    """N-grams of `least` to `most` characters of one word, its begin and end counted as characters. Returns the new count."""
    start = low - 1
    while start < high:
        state, position, length = FNV_BASIS, start, 0
        while length < most and position <= high:
            if position < low:
                state, position = _step(state, OPEN), low
            elif position == high:
                state, position = _step(state, CLOSE), high + 1
            else:
                state = _step(state, np.uint64(FOLDED[data[position]]))
                position += 1
                while position < high and data[position] & 0xC0 == 0x80:
                    state = _step(state, np.uint64(data[position]))
                    position += 1
            length += 1
            if length >= least and not (length == 1 and start < low):
                out[count] = _bucket(state, shift)
                count += 1
        start += 1
        while low <= start < high and data[start] & 0xC0 == 0x80:
            start += 1
    return count


@njit(cache=True, nogil=True)
def features(data, low, high, pairs, least, most, shift, out):
    """Buckets of one text's words, word pairs and character n-grams into `out`. Returns how many.

    Args:
        data: uint8, UTF-8; the text is data[low:high].
        pairs: whether neighbouring words make a feature too.
        least, most: characters of an n-gram; most 0 for none.
        shift: 64 minus the binary logarithm of the number of buckets.
        out: uint32, at least `room(high - low, ...)` long.
    """
    count, position = 0, low
    before = FNV_BASIS
    while position < high:
        kind = KINDS[data[position]]
        start = position
        position += 1
        if kind == SPACE:
            continue
        state = _step(FNV_BASIS, np.uint64(FOLDED[data[start]]))
        if kind != SIGN:
            while position < high and KINDS[data[position]] == kind:
                state = _step(state, np.uint64(FOLDED[data[position]]))
                position += 1
        out[count] = _bucket(state * PAIR, shift)
        count += 1
        if pairs:
            out[count] = _bucket(before * SPREAD + state * PAIR, shift)
            count += 1
        before = state
        if kind == LETTER and most > 0:
            count = _character_ngrams(data, start, position, least, most, shift, out, count)
    return count


def room(length: int, least: int, most: int) -> int:
    """How many features a text of `length` bytes can have at most."""
    return length * (2 + 2 * max(most - least + 1, 0) * (most > 0)) + 8


@njit(cache=True, nogil=True)
def _probabilities(weights, bias, ids, count, out):
    classes = bias.shape[0]
    out[:] = np.float32(0)
    for index in range(count):
        row = weights[ids[index]]
        for label in range(classes):
            out[label] += row[label]
    scale = np.float32(1) / np.float32(max(count, 1))
    top = np.float32(-np.inf)
    for label in range(classes):
        out[label] = out[label] * scale + bias[label]
        top = max(top, out[label])
    total = np.float32(0)
    for label in range(classes):
        out[label] = np.exp(out[label] - top)
        total += out[label]
    for label in range(classes):
        out[label] /= total


@njit(cache=True, nogil=True)
def score(data, ends, longest, pairs, least, most, shift, weights, bias, ids):
    """Probabilities of every text of a batch. Returns float32 [texts, classes]."""
    out = np.empty((ends.shape[0] - 1, bias.shape[0]), dtype=np.float32)
    for text in range(ends.shape[0] - 1):
        high = min(ends[text + 1], ends[text] + longest)
        count = features(data, ends[text], high, pairs, least, most, shift, ids)
        _probabilities(weights, bias, ids, count, out[text])
    return out


@njit(cache=True, nogil=True)
def train_epoch(data, ends, labels, order, longest, pairs, least, most, shift, weights, bias, squares, bias_squares, rates, ids):
    """One pass of stochastic gradient descent with AdaGrad steps, text by text in `order`. Returns the mean loss in nats.

    Args:
        labels: int32 [texts].
        weights, squares: float32 [buckets, classes]; changed in place, as are `bias` and `bias_squares`.
        rates: learning rate at the first and after the last text; in between on a line.
    """
    classes = bias.shape[0]
    chances = np.empty(classes, dtype=np.float32)
    loss, tiny = 0.0, np.float32(1e-12)
    for turn in range(order.shape[0]):
        rate = np.float32(rates[0] + (rates[1] - rates[0]) * turn / order.shape[0])
        text = order[turn]
        high = min(ends[text + 1], ends[text] + longest)
        count = features(data, ends[text], high, pairs, least, most, shift, ids)
        _probabilities(weights, bias, ids, count, chances)
        loss -= np.log(max(chances[labels[text]], tiny))
        chances[labels[text]] -= np.float32(1)
        scale = np.float32(1) / np.float32(max(count, 1))
        for label in range(classes):
            bias_squares[label] += chances[label] * chances[label]
            bias[label] -= rate * chances[label] / (np.sqrt(bias_squares[label]) + tiny)
            chances[label] *= scale
        for index in range(count):
            row, seen = weights[ids[index]], squares[ids[index]]
            for label in range(classes):
                gradient = chances[label]
                seen[label] += gradient * gradient
                row[label] -= rate * gradient / np.sqrt(seen[label] + tiny)
    return loss / max(order.shape[0], 1)
