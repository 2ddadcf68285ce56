"""Phrases of word lists found in many documents at once, and the share of each document's most frequent content word."""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.kernels.tokens import MULTIPLIER

MARKS = 4096  # so many low bits tell nearly all words that begin no phrase
LOW_BITS, S32, ZERO = np.uint64(MARKS - 1), np.uint64(32), np.uint64(0)


@njit(cache=True, nogil=True)
def cover(hashes, ends, lists, starts, firsts, marks, ranges, sizes, keys, covered, terms):  # type: ignore[no-untyped-def]
    """Words covered by the phrases of each document's list, the longest phrase first, and how many different ones occur.

    Args:
        lists: int32 [documents], which list.
        starts: int64 [lists + 1], where each list begins in `firsts`.
        firsts: uint64, first words of the phrases of each list, sorted; marks: bool [lists, MARKS], which low bits they have;
            ranges: int64 [firsts + 1], where a word's phrases begin.
        sizes: int64 [phrases], words; keys: uint64 [phrases], hash of all its words; longest first for one first word.
        covered, terms: int64 [documents], the results.
    """
    seen = np.full(len(sizes), -1, dtype=np.int64)
    begin = np.int64(0)
    for doc in range(len(ends)):
        end = ends[doc]
        low, high = starts[lists[doc]], starts[lists[doc] + 1]
        own, marked = firsts[low:high], marks[lists[doc]]
        position = begin
        while position < end:
            if not marked[hashes[position] & LOW_BITS]:
                position += 1
                continue
            place = np.searchsorted(own, hashes[position])
            step = np.int64(1)
            if place < len(own) and own[place] == hashes[position]:
                for phrase in range(ranges[low + place], ranges[low + place + 1]):
                    size = sizes[phrase]
                    if position + size > end or phrase_key(hashes, position, size) != keys[phrase]:
                        continue
                    covered[doc] += size
                    if seen[phrase] != doc:
                        seen[phrase] = doc
                        terms[doc] += 1
                    step = size
                    break
            position += step
        begin = end


@njit(cache=True, nogil=True)
def phrase_key(hashes, position, size):  # type: ignore[no-untyped-def]
    """Hash of `size` words from a position."""
    key = np.uint64(0)
    for index in range(position, position + size):
        key = (key ^ hashes[index]) * MULTIPLIER
        key ^= key >> np.uint64(32)
    return key


@njit(cache=True, nogil=True)
def most_frequent_share(hashes, ends, content, languages, starts, stop_words, marks, least_words, out):  # type: ignore[no-untyped-def]
    """Share of the most frequent content word among all words of each document.

    Args:
        content: bool [words], whether a word may be one.
        languages: int32 [documents], row of `starts` (int64 [languages + 1]), where each one's sorted `stop_words` begin, and of
            `marks` (bool [languages, MARKS]), which low bits they have.
        least_words: a document of fewer words, or of which less than a quarter are content, gets 0.
    """
    begin = np.int64(0)
    keys, counts = np.zeros(16, dtype=np.uint64), np.zeros(16, dtype=np.int64)
    for doc in range(len(ends)):
        end = ends[doc]
        words, count, most = end - begin, 0, 0
        stop, marked = stop_words[starts[languages[doc]] : starts[languages[doc] + 1]], marks[languages[doc]]
        slots = 16
        while slots < 2 * words:
            slots *= 2
        if slots > len(keys):
            keys, counts = np.zeros(slots, dtype=np.uint64), np.zeros(slots, dtype=np.int64)
        keys[:slots] = ZERO
        for index in range(begin, end):
            word = hashes[index]
            if not content[index] or (marked[word & LOW_BITS] and _listed(stop, word)):
                continue
            count += 1
            most = max(most, _counted(keys[:slots], counts, word))
        begin = end
        out[doc] = most / words if words >= least_words and count * 4 >= words else 0.0


@njit(cache=True, nogil=True)
def _listed(words, word):  # type: ignore[no-untyped-def]
    place = np.searchsorted(words, word)
    return place < len(words) and words[place] == word


@njit(cache=True, nogil=True)
def _counted(keys, counts, word):  # type: ignore[no-untyped-def]
    """How often a word came, with this time; `keys` is an open table of a power of two slots, zero where free."""
    mask = np.uint64(len(keys) - 1)
    slot = (word ^ (word >> S32)) & mask
    while keys[slot] != word:
        if keys[slot] == ZERO:
            keys[slot], counts[slot] = word, 0
            break
        slot = (slot + np.uint64(1)) & mask
    counts[slot] += 1
    return counts[slot]
