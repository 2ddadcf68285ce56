"""The features and the two output layers of a fastText classifier, compiled (see `puna.data.fasttext`)."""

from __future__ import annotations

import numpy as np
from numba import njit

OPEN, CLOSE = np.uint8(ord("<")), np.uint8(ord(">"))
EMPTY_SLOT = np.int32(-1)
WORD_PAIR = np.uint64(116049371)  # fastText's multiplier for word n-grams


@njit(cache=True, nogil=True, inline="always")
def _white(byte):  # type: ignore[no-untyped-def]
    return byte == 32 or (9 <= byte <= 13) or byte == 0


@njit(cache=True, nogil=True)
def hash_bytes(data, low, high):  # type: ignore[no-untyped-def]
    """FNV-1a of 32 bits as fastText computes it: bytes above 127 count as negative numbers."""
    state = np.uint32(2166136261)
    for index in range(low, high):
        state = np.uint32(state ^ np.uint32(np.int32(np.int8(data[index]))))
        state = np.uint32(state * np.uint32(16777619))
    return state


@njit(cache=True, nogil=True)
def fill_table(data, ends, slots):  # type: ignore[no-untyped-def]
    """Open-addressing table from the hash of a word to its number; `slots` is int32, a power of two long, all -1."""
    mask = np.int64(len(slots) - 1)
    for word in range(len(ends) - 1):
        slot = np.int64(hash_bytes(data, ends[word], ends[word + 1])) & mask
        while slots[slot] != EMPTY_SLOT:
            slot = (slot + 1) & mask
        slots[slot] = np.int32(word)


@njit(cache=True, nogil=True)
def _find(text, low, high, state, data, ends, slots):  # type: ignore[no-untyped-def]
    """Number of a word in the vocabulary, -1 for an unknown one."""
    mask = np.int64(len(slots) - 1)
    slot = np.int64(state) & mask
    while slots[slot] != EMPTY_SLOT:
        word = slots[slot]
        if ends[word + 1] - ends[word] == high - low:
            same = True
            for index in range(high - low):
                if data[ends[word] + index] != text[low + index]:
                    same = False
                    break
            if same:
                return word
        slot = (slot + 1) & mask
    return EMPTY_SLOT


@njit(cache=True, nogil=True)
def _add_characters(marked, length, least, most, words, buckets, vectors, hidden):  # type: ignore[no-untyped-def]
    """Add the vectors of a marked word's character n-grams to `hidden`; returns how many."""
    count = 0
    for start in range(length):
        if marked[start] & 0xC0 == 0x80:
            continue
        stop, size = start, 1
        while stop < length and size <= most:
            stop += 1
            while stop < length and marked[stop] & 0xC0 == 0x80:
                stop += 1
            if size >= least and not (size == 1 and (start == 0 or stop == length)):
                row = np.int64(words) + np.int64(hash_bytes(marked, start, stop)) % np.int64(buckets)
                hidden += vectors[row]
                count += 1
            size += 1
    return count


@njit(cache=True, nogil=True)
def hidden_of(text, low, high, data, ends, slots, line_end, vectors, words, buckets, least, most, orders, hidden):  # type: ignore[no-untyped-def]
    """Mean vector of a text's words, their characters and word n-grams into `hidden` (float32 [dimensions])."""
    hidden[:] = np.float32(0)
    count, tokens, position = 0, 0, low
    hashes = np.empty(high - low + 1, dtype=np.int32)
    marked = np.empty(high - low + 2, dtype=np.uint8)
    while position <= high:
        while position < high and _white(text[position]):
            position += 1
        start = position
        while position < high and not _white(text[position]):
            position += 1
        if start == position:
            break
        state = hash_bytes(text, start, position)
        word = _find(text, start, position, state, data, ends, slots)
        if word >= 0:
            hidden += vectors[word]
            count += 1
        if most > 0:
            length = position - start
            marked[0] = OPEN
            marked[1 : length + 1] = text[start:position]
            marked[length + 1] = CLOSE
            count += _add_characters(marked, length + 2, least, most, words, buckets, vectors, hidden)
        hashes[tokens] = np.int32(state)
        tokens += 1
    if line_end >= 0:  # fastText ends every line with a word of its own
        hidden += vectors[line_end]
        count += 1
        hashes[tokens] = np.int32(hash_bytes(data, ends[line_end], ends[line_end + 1]))
        tokens += 1
    for first in range(tokens):
        state = np.uint64(np.int64(hashes[first]))
        for last in range(first + 1, min(first + orders, tokens)):
            state = state * WORD_PAIR + np.uint64(np.int64(hashes[last]))
            hidden += vectors[np.int64(words) + np.int64(state % np.uint64(buckets))]
            count += 1
    if count:
        hidden /= np.float32(count)
    return count


@njit(cache=True, nogil=True)
def sigmoid(value):  # type: ignore[no-untyped-def]
    """The logistic function."""
    return 1.0 / (1.0 + np.exp(-value))


@njit(cache=True, nogil=True)
def predict(
    text, bounds, data, ends, slots, line_end, vectors, words, buckets, least, most, orders, output, parents, rights, mode, out
):  # type: ignore[no-untyped-def]
    """Probability of every label for every text into `out` (float32 [texts, labels]).

    Args:
        parents, rights: int32 and bool of every node of the Huffman tree over the labels (`puna.data.fasttext.huffman`).
        mode: 1 hierarchical softmax, 3 softmax, 4 one against all.
    """
    labels = out.shape[1]
    hidden, scores = np.empty(vectors.shape[1], dtype=np.float32), np.empty(labels, dtype=np.float32)
    for doc in range(len(bounds) - 1):
        count = hidden_of(
            text, bounds[doc], bounds[doc + 1], data, ends, slots, line_end, vectors, words, buckets, least, most, orders, hidden
        )
        if not count:
            out[doc] = np.float32(0)
            continue
        for label in range(output.shape[0]):
            total = np.float32(0)
            for index in range(len(hidden)):
                total += output[label, index] * hidden[index]
            scores[label] = total
        if mode == 3:
            chances = np.exp(scores - scores.max())
            out[doc] = chances / chances.sum()
        elif mode == 4:
            out[doc] = sigmoid(scores)
        else:
            for label in range(labels):
                chance, node = 1.0, label
                while parents[node] >= 0:
                    right = sigmoid(scores[parents[node] - labels])
                    chance *= right if rights[node] else 1.0 - right
                    node = parents[node]
                out[doc, label] = chance
