"""Encoding of whole corpora: the compiled scanner, byte-pair merges by rank, and a cache of the pieces that have been seen.

Most of an encoder's time goes into splitting, and most pieces come again: a text is scanned once, and a piece already seen costs
one look-up. Ids are tiktoken's. What could differ is left to it: pieces of more than 64 bytes, endless runs, and texts with a
character whose class the versions of Unicode at hand do not agree on. Tests compare every code point that is one.

This module imports numba: import it inside the functions that encode in bulk.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable

import numpy as np
from numba import njit

from puna.tokenizer.pieces import (
    ARENA,
    ENTRIES,
    LETTER,
    NUMBER,
    OTHER,
    PLANES,
    _find,
    _index,
    _piece_end,
    character_classes,
    utf8,
)

SHORT_BYTES = 64  # merging by search for the lowest rank is quadratic in the piece
CACHED_PIECES = 1 << 18  # the cache starts anew when it is full
CACHED_BYTES = 1 << 22
NO_RANK = 1 << 40
FULL = -1  # in place of the end of a piece that is too long


class BulkEncoder:
    """Encodes texts by the ranks of a tokenizer.

    Args:
        ranks: token bytes by rank, 0, 1, 2, ... in order.
        encode_text, encode_piece: tiktoken's encoder, for what is left to it.
    """

    def __init__(
        self, ranks: dict[bytes, int], encode_text: Callable[[str], list[int]], encode_piece: Callable[[bytes], list[int]]
    ):
        self._encode_text, self._encode_piece = encode_text, encode_piece
        arena = np.frombuffer(b"".join(ranks), dtype=np.uint8)
        ends = np.cumsum([len(token) for token in ranks], dtype=np.int64)
        slots = np.full(1 << int(2 * len(ranks)).bit_length(), -1, dtype=np.int32)
        _index(arena, ends, slots)
        self._vocabulary = slots, ends, arena
        self._classes, self._unsure = character_classes(), unsure_characters()
        self._slots = np.full(2 * CACHED_PIECES, -1, dtype=np.int32)
        self._cache = (
            self._slots,
            np.zeros(CACHED_PIECES, dtype=np.int64),  # ends of the pieces in the arena, and of their ids
            np.zeros(CACHED_BYTES, dtype=np.uint8),
            np.zeros(CACHED_PIECES, dtype=np.int64),
            np.zeros(CACHED_BYTES, dtype=np.int32),
        )
        self._state = np.zeros(2, dtype=np.int64)

    def encode(self, text: str) -> list[int]:
        """Ids of a text without endless runs."""
        data = np.frombuffer(utf8(text), dtype=np.uint8)
        if not text.isascii() and _any(data, self._unsure):
            return self._encode_text(text)
        out = np.empty(len(data), dtype=np.int32)
        done = written = 0
        while done < len(data):
            done, written, stopped = _encode(data, done, self._classes, self._vocabulary, self._cache, self._state, out, written)
            if stopped == FULL:
                self._slots.fill(-1)
                self._state.fill(0)
            elif done < len(data):
                ids = self._encode_piece(data[done:stopped].tobytes())
                out[written : written + len(ids)] = ids
                done, written = stopped, written + len(ids)
        return out[:written].tolist()


@functools.cache
def unsure_characters() -> np.ndarray:
    """Code points that are no letter or number in one version of Unicode and are one in another: bool [0x110000].

    The versions are those of Python and of the `regex` package; the encoder's lies between them.
    """
    of_category = {"L": int(LETTER), "N": int(NUMBER)}
    named = [of_category.get(unicodedata.category(chr(code))[0], int(OTHER)) for code in range(PLANES)]
    classes = character_classes().copy()
    classes[classes > NUMBER] = OTHER
    unsure = np.zeros(len(classes), dtype=np.bool_)
    unsure[:PLANES] = classes[:PLANES] != np.array(named, dtype=np.uint8)
    return unsure


@njit(cache=True, nogil=True)
def _any(data, marked):
    """Whether a marked code point stands in valid UTF-8."""
    i = np.int64(0)
    while i < len(data):
        b = np.int64(data[i])
        if b < 0x80:
            i += 1
            continue
        length = 2 if b < 0xE0 else 3 if b < 0xF0 else 4
        code = b & (0x7F >> length)
        for k in range(1, length):
            code = code << 6 | np.int64(data[i + k]) & 0x3F
        if marked[code]:
            return True
        i += length
    return False


@njit(cache=True, nogil=True)
def _rank(data, start, end, vocabulary):
    slots, ends, arena = vocabulary
    rank = np.int64(slots[_find(data, start, end, slots, ends, arena)])
    return rank if rank >= 0 else NO_RANK


@njit(cache=True, nogil=True)
def _merge_piece(data, start, end, vocabulary, out, written):
    """Write the ids of one short piece: itself if it is a token, else lowest rank first, leftmost first among equals."""
    whole = _rank(data, start, end, vocabulary)
    if whole != NO_RANK:
        out[written] = whole
        return written + 1
    parts = end - start
    bounds = np.arange(start, end + 2)
    ranks = np.full(parts + 1, NO_RANK, dtype=np.int64)  # of the token that parts k and k + 1 make together
    for k in range(parts - 1):
        ranks[k] = _rank(data, bounds[k], bounds[k + 2], vocabulary)
    while parts > 1:
        best = 0
        for k in range(1, parts - 1):
            if ranks[k] < ranks[best]:
                best = k
        if ranks[best] == NO_RANK:
            break
        parts -= 1
        for k in range(best, parts):
            bounds[k + 1], ranks[k] = bounds[k + 2], ranks[k + 1]
        for near in (best - 1, best):
            if 0 <= near < parts - 1:
                ranks[near] = _rank(data, bounds[near], bounds[near + 2], vocabulary)
    for k in range(parts):
        out[written + k] = _rank(data, bounds[k], bounds[k + 1], vocabulary)
    return written + parts


@njit(cache=True, nogil=True)
def _encode(data, i, classes, vocabulary, cache, state, out, written):
    """Write ids from byte i on.

    Returns where it stopped, the ids written, and why it stopped before the end: FULL, or the end of a piece that is too long.
    """
    slots, ends, arena, id_ends, ids = cache
    while i < len(data):
        end = _piece_end(data, i, classes)
        slot = _find(data, i, end, slots, ends, arena)
        entry = np.int64(slots[slot])
        if entry >= 0:
            for k in range(id_ends[entry - 1] if entry else 0, id_ends[entry]):
                out[written] = ids[k]
                written += 1
        else:
            if end - i > SHORT_BYTES:
                return i, written, end
            entry, used = state[ENTRIES], state[ARENA]
            if entry == len(ends) or used + end - i > len(arena):
                return i, written, np.int64(FULL)
            before, written = written, _merge_piece(data, i, end, vocabulary, out, written)
            for k in range(end - i):
                arena[used + k] = data[i + k]
            first = id_ends[entry - 1] if entry else 0
            for k in range(written - before):
                ids[first + k] = out[before + k]
            slots[slot], ends[entry], id_ends[entry] = entry, used + end - i, first + written - before
            state[ENTRIES], state[ARENA] = entry + 1, used + end - i
        i = end
    return i, written, np.int64(0)
