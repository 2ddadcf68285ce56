"""Phrases of word lists found in many documents at once, and the share of each document's most frequent content word."""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.kernels.tokens import MULTIPLIER


@njit(cache=True, nogil=True)
def cover(hashes, ends, lists, starts, firsts, ranges, sizes, keys, covered, terms):  # type: ignore[no-untyped-def]
    """Words covered by the phrases of each document's list, the longest phrase first, and how many different ones occur.

    Args:
        lists: int32 [documents], which list.
        starts: int64 [lists + 1], where each list begins in `firsts`.
        firsts: uint64, first words of the phrases of each list, sorted; ranges: int64 [firsts + 1], where its phrases begin.
        sizes: int64 [phrases], words; keys: uint64 [phrases], hash of all its words; longest first for one first word.
        covered, terms: int64 [documents], the results.
    """
    seen = np.full(len(sizes), -1, dtype=np.int64)
    begin = np.int64(0)
    for doc in range(len(ends)):
        end = ends[doc]
        low, high = starts[lists[doc]], starts[lists[doc] + 1]
        own = firsts[low:high]
        position = begin
        while position < end:
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
def most_frequent_share(hashes, ends, content, languages, starts, stop_words, least_words, out):  # type: ignore[no-untyped-def]
    """Share of the most frequent content word among all words of each document.

    Args:
        content: bool [words], whether a word may be one.
        languages: int32 [documents], row of `starts` (int64 [languages + 1]), where each one's sorted `stop_words` begin.
        least_words: a document of fewer words, or of which less than a quarter are content, gets 0.
    """
    begin = np.int64(0)
    for doc in range(len(ends)):
        end = ends[doc]
        words, count = end - begin, 0
        stop = stop_words[starts[languages[doc]] : starts[languages[doc] + 1]]
        chosen = np.empty(words, dtype=np.uint64)
        for index in range(begin, end):
            if content[index]:
                place = np.searchsorted(stop, hashes[index])
                if place >= len(stop) or stop[place] != hashes[index]:
                    chosen[count] = hashes[index]
                    count += 1
        begin = end
        out[doc] = 0.0
        if words < least_words or count * 4 < words:
            continue
        chosen = chosen[:count]
        chosen.sort()
        most, run = 1, 1
        for index in range(1, count):
            run = run + 1 if chosen[index] == chosen[index - 1] else 1
            most = max(most, run)
        out[doc] = most / words
