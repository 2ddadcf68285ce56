"""Repeated n-grams of every document: one rolling hash, one table that is filled again for each n.

An n-gram can only come twice where its first n - 1 words and its last n - 1 words do, so beyond pairs hardly any position of
ordinary prose is looked at; the work is about two table entries a word instead of nine.
"""

from __future__ import annotations

import numpy as np
from numba import njit

ROLL = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio
S32 = np.uint64(32)
ZERO, ONE = np.uint64(0), np.uint64(1)
LAST_TOP, FIRST_DUPLICATE, LAST_DUPLICATE = 4, 5, 10


@njit(cache=True, nogil=True)
def repetition(hashes, lengths, ends, skip, top, duplicate):  # type: ignore[no-untyped-def]
    """Characters of each document in repeated n-grams.

    Args:
        hashes, lengths, ends: of `puna.data.words.Words`.
        skip: bool [documents], not to be looked at.
        top: int64 [documents, 3], receives the characters covered by the most frequent 2-, 3- and 4-gram; 0 when none comes
            twice, and the longest of equally frequent ones.
        duplicate: int64 [documents, 6], receives the characters in 5- to 10-grams seen before, each counted once.
    """
    longest, begin = 1, 0
    for doc in range(len(ends)):
        longest = max(longest, ends[doc] - begin)
        begin = ends[doc]
    slots = 4
    while slots < 2 * longest:
        slots *= 2
    keys, counts, firsts = np.zeros(slots, np.uint64), np.zeros(slots, np.int32), np.zeros(slots, np.int32)
    grams, depth = np.zeros(longest, np.uint64), np.zeros(longest + 1, np.uint8)
    left, places = np.zeros(longest, np.int32), np.zeros(longest, np.int32)
    begin = 0
    for doc in range(len(ends)):
        count = ends[doc] - begin
        if not skip[doc] and count > 1:
            words, chars = hashes[begin : begin + count], lengths[begin : begin + count]
            depth[: count + 1] = 1
            for i in range(count):
                grams[i] = words[i]
                left[i] = i
            remaining = count
            for n in range(2, LAST_DUPLICATE + 1):
                remaining = _extend(words, n, grams, depth, left, remaining)
                if not remaining:
                    break
                _fill(grams, left, remaining, keys, counts, firsts, places)
                if n <= LAST_TOP:
                    top[doc, n - 2] = _most(chars, n, left, remaining, counts, places)
                elif n >= FIRST_DUPLICATE:
                    duplicate[doc, n - FIRST_DUPLICATE] = _covered(chars, n, left, remaining, firsts, places)
                remaining = _repeated(n, depth, left, remaining, counts, places)
        begin = ends[doc]


@njit(cache=True, nogil=True)
def _extend(words, n, grams, depth, left, remaining):  # type: ignore[no-untyped-def]
    """Keep the positions whose n-gram may come twice, and make their hashes those of n words."""
    kept, known = 0, np.uint8(n - 1)
    for j in range(remaining):
        i = left[j]
        if i + n <= len(words) and depth[i + 1] >= known:
            grams[i] = grams[i] * ROLL + words[i + n - 1]
            left[kept] = i
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _fill(grams, left, remaining, keys, counts, firsts, places):  # type: ignore[no-untyped-def]
    """Count the n-grams at the positions left: `places` is the slot of each, `firsts` the first position of a slot."""
    slots = 4
    while slots < 2 * remaining:
        slots *= 2
    mask = np.uint64(slots - 1)
    keys[:slots] = ZERO
    for j in range(remaining):
        i = left[j]
        key = grams[i]
        key = key if key != ZERO else ONE
        slot = (key ^ (key >> S32)) & mask
        while keys[slot] != ZERO and keys[slot] != key:
            slot = (slot + ONE) & mask
        if keys[slot] == ZERO:
            keys[slot], counts[slot], firsts[slot] = key, 0, i
        counts[slot] += 1
        places[j] = slot


@njit(cache=True, nogil=True)
def _most(chars, n, left, remaining, counts, places):  # type: ignore[no-untyped-def]
    best, covered = 1, 0
    for j in range(remaining):
        count = counts[places[j]]
        if count > 1 and count >= best:
            length = 0
            for i in range(left[j], left[j] + n):
                length += chars[i]
            if count > best or count * length > covered:
                best, covered = count, count * length
    return covered


@njit(cache=True, nogil=True)
def _covered(chars, n, left, remaining, firsts, places):  # type: ignore[no-untyped-def]
    total, reached = 0, 0
    for j in range(remaining):
        i = left[j]
        if firsts[places[j]] != i:
            for word in range(max(i, reached), i + n):
                total += chars[word]
            reached = i + n
    return total


@njit(cache=True, nogil=True)
def _repeated(n, depth, left, remaining, counts, places):  # type: ignore[no-untyped-def]
    kept = 0
    for j in range(remaining):
        if counts[places[j]] > 1:
            depth[left[j]] = n
            left[kept] = left[j]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def distinct_listed(hashes, ends, languages, table_keys, found):  # type: ignore[no-untyped-def]
    """How many different words of its language's list each document holds.

    Args:
        hashes, ends: of `puna.data.words.Words`.
        languages: uint64 [documents], a hash that was mixed into the list's words, 0 for a language without a list.
        table_keys: uint64 [slots], an open-addressing table of word hash xor language hash, 0 where empty; slots a power of two.
        found: int64 [documents], receives the number; left alone where there is no list.
    """
    mask = np.uint64(len(table_keys) - 1)
    seen = np.full(len(table_keys), -1, np.int64)
    begin = 0
    for doc in range(len(ends)):
        if languages[doc] != ZERO:
            found[doc] = 0
            for word in range(begin, ends[doc]):
                key = hashes[word] ^ languages[doc]
                slot = (key ^ (key >> S32)) & mask
                while table_keys[slot] != ZERO:
                    if table_keys[slot] == key:
                        if seen[slot] != doc:
                            seen[slot] = doc
                            found[doc] += 1
                        break
                    slot = (slot + ONE) & mask
        begin = ends[doc]
