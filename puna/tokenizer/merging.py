"""Byte-pair merges from counted pieces: the trainer of every vocabulary, with 64-bit counts, in time near linear in the pieces.

Merging a pair touches only the places where it stands. All places of a pair come into being in one merge (the one that made the
younger of its two tokens), so each pair owns one block of positions, written once. Pairs are drawn by a heap that holds only the
frequent ones; rarer pairs wait in the table of counts until the heap is empty. Among equal counts the pair with the smallest left
id goes first, then the smallest right id, so the vocabulary does not depend on the order of the corpus: a trainer in the tests
that recounts every pair after every merge gives the same tokens. A base vocabulary is replayed first, which is how the paper's
100K tokens get 28K more for other languages and keep their ranks (paper 3.2).

This module imports numba: import it inside the functions that train.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from numba import njit

from puna.core.errors import InputError
from puna.tokenizer.counts import PieceCounts
from puna.tokenizer.ranks import merges

BREAK, GONE = -1, -2  # in place of a token id: between two pieces; inside a token
HEAP_PAIRS = 1 << 15  # pairs the heap is filled with at a time
BYTES = 256


class Trained(NamedTuple):
    """Token ranks, and how often each merge beyond the base was made, in the order of its rank."""

    ranks: dict[bytes, int]
    made: list[int]


def train_ranks(pieces: PieceCounts, size: int, *, minimum: int = 1, base: dict[bytes, int] | None = None) -> Trained:
    """Merge pairs of tokens, the most frequent first, until there are `size` tokens or no pair stands `minimum` times.

    Args:
        pieces: what to count pairs in; counts up to 2^63 in sum.
        size: number of tokens, those of the base included.
        base: ranks that stay as they are; by default the 256 bytes. A piece that is one token of it is never taken apart.
    """
    ranks = dict(base) if base else {bytes([byte]): byte for byte in range(BYTES)}
    spelled = sorted(ranks, key=ranks.__getitem__)
    corpus = _Corpus(_divisible(pieces, ranks), np.array([ranks[bytes([byte])] for byte in range(BYTES)], dtype=np.int32))
    for left, right in merges(ranks):
        corpus.merge(ranks[left], ranks[right], ranks[left + right])
    made: list[int] = []
    while len(ranks) < size and (joined := corpus.merge_frequent(len(spelled), size - len(ranks), max(minimum, 1))):
        for left_id, right_id, times in joined:
            token = spelled[left_id] + spelled[right_id]
            spelled.append(token)
            if token not in ranks:  # a reserved word of the base can come out of merges too: it has its rank
                ranks[token] = len(ranks)
                made.append(times)
    while made and made[-1] < minimum:  # a pair that overlaps itself is merged less often than it stands
        made.pop()
        ranks.popitem()
    return Trained(ranks, made)


def _divisible(pieces: PieceCounts, ranks: dict[bytes, int]) -> PieceCounts:
    """The pieces that the encoder would build by merges; a piece that is a token is taken whole."""
    if len(ranks) == BYTES:
        return pieces
    return pieces.take(np.fromiter((piece not in ranks for piece in pieces.pieces()), dtype=bool, count=len(pieces)))


class _Corpus:
    """Pieces as token ids, and the table of adjacent pairs.

    Position p of `ids` holds the id of the token that starts there, GONE inside a token, BREAK between pieces; `sizes` holds a
    token's bytes at its first and at its last position. Pair k is (left[k], right[k]) and stands count[k] times, at some of
    places[first[k] : first[k] + held[k]] (left tokens in ascending order; those that are no longer true are skipped).
    """

    def __init__(self, pieces: PieceCounts, byte_ids: np.ndarray):
        length = len(pieces.data) + len(pieces) + 1
        if length >= 2**31:
            raise InputError(
                f"{len(pieces):,} distinct pieces are more than 2 GiB",
                fix="prune rare ones: raise `min_count` of data.token_counts",
            )
        self.weights = np.ascontiguousarray(pieces.counts)
        self.text = _lay_out(pieces.data, pieces.ends, byte_ids)
        self.used = self.placed = 0
        room = min(BYTES * BYTES, length) + 1
        self.pairs: tuple[np.ndarray, ...] = tuple(
            np.zeros(room, dtype=kind) for kind in (np.int32, np.int32, np.int64, np.int64, np.int32)
        )
        self.places = np.zeros(2 * length, dtype=np.int32)
        self._build_table()
        self.used, self.placed = _adjacent(self.text, self.weights, self.pairs, self.table, self.places)

    def merge(self, left: int, right: int, token: int) -> None:
        """Join a pair into `token` wherever it stands."""
        pair = int(self.table[1][_slot(left, right, self.table)])
        if pair >= 0:
            self._grow(2 * int(self.pairs[4][pair]))
            _, self.used, self.placed = _merge(
                pair, token, self.text, self.weights, self.pairs, self.table, self.places, self.used, self.placed
            )

    def merge_frequent(self, token: int, number: int, minimum: int) -> list[list[int]]:
        """Join up to `number` pairs that stand at least `minimum` times, the most frequent first, into `token`, `token` + 1, ...

        Returns left id, right id and how often they were joined, for each.
        """
        joined = np.zeros((number, 3), dtype=np.int64)
        done, floor = 0, np.iinfo(np.int64).max
        while done < number:
            lower = self._floor(floor, minimum)
            if lower == floor:
                break
            done, self.used, self.placed, more, emptied = _merge_frequent(
                token, joined, done, lower, self.text, self.weights, self.pairs, self.table, self.places, self.used, self.placed
            )
            self._grow(more)
            if emptied:
                floor = lower
        return joined[:done].tolist()

    def _floor(self, floor: int, minimum: int) -> int:
        """The count down to which the next pairs are drawn: some `HEAP_PAIRS` pairs below `floor`; `floor` if there are none."""
        count = self.pairs[2][: self.used]
        waiting = count[(count >= minimum) & (count < floor)]
        if len(waiting) > HEAP_PAIRS:
            return int(np.partition(waiting, len(waiting) - HEAP_PAIRS)[len(waiting) - HEAP_PAIRS])
        return minimum if len(waiting) else floor

    def _grow(self, more: int) -> None:
        """Make room for `more` pairs and places."""
        if self.used + more > len(self.pairs[0]):
            self.pairs = tuple(_longer(column, more) for column in self.pairs)
            self._build_table()
        if self.placed + more > len(self.places):
            self.places = _longer(self.places, more)

    def _build_table(self) -> None:
        size = 1 << int(2 * len(self.pairs[0])).bit_length()
        self.table = (np.zeros(size, dtype=np.int64), np.full(size, -1, dtype=np.int32))
        _index(self.pairs, self.table, self.used)


def _longer(array: np.ndarray, more: int) -> np.ndarray:
    """The same array with room for `more` values, at least doubled."""
    return np.concatenate([array, np.zeros(max(len(array), more), dtype=array.dtype)])


@njit(cache=True, nogil=True)
def _lay_out(data, ends, byte_ids):
    """Columns ids, sizes, piece number (all int32), one position per byte and one break before, between and after pieces."""
    length = len(data) + len(ends) + 1
    ids = np.full(length, BREAK, dtype=np.int32)
    sizes, pieces = np.ones(length, dtype=np.int32), np.zeros(length, dtype=np.int32)
    start, at = 0, 1
    for piece in range(len(ends)):
        for i in range(start, ends[piece]):
            ids[at], pieces[at] = byte_ids[data[i]], piece
            at += 1
        start = ends[piece]
        at += 1
    return ids, sizes, pieces


@njit(cache=True, nogil=True)
def _slot(left, right, table):
    """Slot of a pair (ids as int64) in the hash table: where it is, or the empty one where it belongs."""
    keys, numbers = table
    key = left << 32 | right
    mask = np.uint64(len(keys) - 1)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64((mixed ^ mixed >> np.uint64(32)) & mask)
    while numbers[slot] >= 0 and keys[slot] != key:
        slot = np.int64(np.uint64(slot + 1) & mask)
    return slot


@njit(cache=True, nogil=True)
def _index(pairs, table, used):
    for pair in range(used):
        left, right = np.int64(pairs[0][pair]), np.int64(pairs[1][pair])
        slot = _slot(left, right, table)
        table[0][slot] = left << 32 | right
        table[1][slot] = pair


@njit(cache=True, nogil=True)
def _stand(left, right, weight, pairs, table, used):
    """Count one more place of a pair; returns its number, which is `used` for a new one."""
    slot = _slot(left, right, table)
    pair = np.int64(table[1][slot])
    if pair < 0:
        pair = used
        table[0][slot], table[1][slot] = left << 32 | right, pair
        pairs[0][pair], pairs[1][pair] = left, right
    pairs[2][pair] += weight
    pairs[4][pair] += 1
    return pair


@njit(cache=True, nogil=True)
def _place(fresh, positions, noted, before, pairs, places, used, placed):
    """Give every pair from number `before` on its block of places and fill it; returns the end of the blocks."""
    for pair in range(before, used):
        pairs[3][pair] = placed
        placed += pairs[4][pair]
        pairs[4][pair] = 0
    for i in range(noted):
        pair = fresh[i]
        places[pairs[3][pair] + pairs[4][pair]] = positions[i]
        pairs[4][pair] += 1
    return placed


@njit(cache=True, nogil=True)
def _adjacent(text, weights, pairs, table, places):
    """Enter every pair of neighbouring bytes; returns the number of pairs and of places."""
    ids, _, pieces = text
    fresh, positions = np.empty(len(ids), dtype=np.int32), np.empty(len(ids), dtype=np.int32)
    used = noted = np.int64(0)
    for p in range(len(ids) - 1):
        if ids[p] >= 0 and ids[p + 1] >= 0:
            pair = _stand(np.int64(ids[p]), np.int64(ids[p + 1]), weights[pieces[p]], pairs, table, used)
            used = max(used, pair + 1)
            fresh[noted], positions[noted] = pair, p
            noted += 1
    return used, _place(fresh, positions, noted, np.int64(0), pairs, places, used, np.int64(0))


@njit(cache=True, nogil=True)
def _merge(pair, rank, text, weights, pairs, table, places, used, placed):
    """Join a pair everywhere; returns how often that was (by weight), and the numbers of pairs and places after it."""
    ids, sizes, pieces = text
    left, right, start, held = np.int64(pairs[0][pair]), np.int64(pairs[1][pair]), pairs[3][pair], pairs[4][pair]
    fresh, positions = np.empty(2 * held, dtype=np.int32), np.empty(2 * held, dtype=np.int32)
    made, noted, before = np.int64(0), np.int64(0), used
    for p in places[start : start + held]:
        if ids[p] != left:
            continue
        q = p + sizes[p]
        if ids[q] != right:
            continue
        weight, after = weights[pieces[p]], q + sizes[q]
        if ids[p - 1] != BREAK:
            previous = p - sizes[p - 1]
            neighbour = np.int64(ids[previous])
            pairs[2][table[1][_slot(neighbour, left, table)]] -= weight
            fresh[noted], positions[noted] = _stand(neighbour, rank, weight, pairs, table, used), previous
            used = max(used, fresh[noted] + 1)
            noted += 1
        if ids[after] != BREAK:
            neighbour = np.int64(ids[after])
            pairs[2][table[1][_slot(right, neighbour, table)]] -= weight
            fresh[noted], positions[noted] = _stand(rank, neighbour, weight, pairs, table, used), p
            used = max(used, fresh[noted] + 1)
            noted += 1
        pairs[2][pair] -= weight
        ids[p], ids[q] = rank, GONE
        sizes[p] = sizes[after - 1] = after - p
        made += weight
    return made, used, _place(fresh, positions, noted, before, pairs, places, used, placed)


@njit(cache=True, nogil=True)
def _merge_frequent(token, joined, done, floor, text, weights, pairs, table, places, used, placed):
    """Join pairs that stand at least `floor` times, through a heap of (-count, left, right, number).

    A count in the heap may be too high, never too low: the places of a pair become fewer after the merge that made them. Ends
    when the heap is empty, `joined` is full or an array is. Returns the number of merges, of pairs and of places, the room that
    the next merge needs, and whether the heap is empty.
    """
    heap = [(-pairs[2][pair], pairs[0][pair], pairs[1][pair], pair) for pair in range(used) if pairs[2][pair] >= floor]
    heapq.heapify(heap)
    while len(heap) and done < len(joined):
        held, left, right, pair = heap[0]
        count = pairs[2][pair]
        if count != -held:
            heapq.heappop(heap)
            if count >= floor:
                heapq.heappush(heap, (-count, left, right, pair))
            continue
        more = 2 * np.int64(pairs[4][pair])
        if used + more > len(pairs[0]) or placed + more > len(places):
            return done, used, placed, more, False
        heapq.heappop(heap)
        before = used
        made, used, placed = _merge(pair, token + done, text, weights, pairs, table, places, used, placed)
        joined[done, 0], joined[done, 1], joined[done, 2] = left, right, made
        done += 1
        for fresh in range(before, used):
            if pairs[2][fresh] >= floor:
                heapq.heappush(heap, (-pairs[2][fresh], pairs[0][fresh], pairs[1][fresh], fresh))
    return done, used, placed, 0, len(heap) == 0
