"""Seeds: the short places of a text that personal data cannot do without, found for a whole batch by one compiled kernel.

The patterns of `puna.data.pii` and `puna.data.national_ids` try every letter they are shown; they are shown only what lies
about the seeds of their kind, so that a page without any costs one pass over its bytes and is never made a Python string.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from puna.data.kernels.tables import tables
from puna.data.words import utf8_of

if TYPE_CHECKING:
    import pyarrow as pa

# kinds of seeds; the kernel compiles these numbers in, so clear `__pycache__` after renumbering them
EMAIL = 0  # an @ between letters
SPELLED = 1  # "[at]" in any brackets
HEXADECIMAL = 2  # groups between colons that may be an IPv6 address
ACCOUNT = 3  # the first of the twelve signs that every account number has
FISCAL = 4  # the first letter of the shape of a codice fiscale
NUMBER = 5  # seven digits or more, between neighbours at most `NUMBER_GAP` separators
LABELLED = 6  # the same with `LABELLED_GAP`, after a word that may be the label of a phone number; from the word's end on
DOTTED = 7  # four groups of digits between dots, as in an IPv4 address
KINDS = range(8)

FEWEST_DIGITS = 7  # of a phone number, and of the shortest national number
NUMBER_GAP = 2  # as in "+49 (0) 30"
LABELLED_GAP = 15  # what seven digits leave of the longest labelled number, 22 characters

# characters looked at before and after a seed
REACH = {
    EMAIL: (66, 320),  # a local part has 64 characters; a longest address 320
    SPELLED: (66, 320),
    HEXADECIMAL: (1, 1),
    ACCOUNT: (0, 48),  # an account number has 34 signs, in groups of four
    FISCAL: (1, 24),
    NUMBER: (16, 8),  # a sign or letter before and after; the first half of a French number with a letter in it
    LABELLED: (16, 2),  # the longest label, "call us at", and what stands around it
    DOTTED: (16, 8),
}

Stretch = tuple[int, int]  # first and last+1 character
Seeds = dict[int, list[tuple[int, int, int]]]  # by kind: first and last+1 character, and the digits of a number


def seeds_of_batch(texts: pa.Array | pa.ChunkedArray) -> Iterator[tuple[int, Seeds]]:
    """Index and seeds of every text that has any, in order; texts are Arrow strings."""
    return _seeds(*utf8_of(texts))


def seeds_of(text: str) -> Seeds:
    """The seeds of one text."""
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    return dict(_seeds(data, np.array([0, len(data)]))).get(0, {})


def _seeds(data: np.ndarray, offsets: np.ndarray) -> Iterator[tuple[int, Seeds]]:
    from puna.data.kernels.personal import COLUMNS, find_seeds

    room = int(offsets[-1] - offsets[0]) // 2 + 1  # two seeds of a kind have a letter between them; a number has seven digits
    rows = np.empty((room, COLUMNS), dtype=np.int32)
    count = find_seeds(data, offsets, tables().kind, rows)
    for index, found in groupby(rows[:count].tolist(), key=itemgetter(0)):
        seeds: Seeds = {}
        for _, kind, start, end, digits in found:
            seeds.setdefault(kind, []).append((start, end, digits))
        yield index, seeds


def about(seeds: Seeds, kind: int, digits: int = 0) -> list[Stretch]:
    """What lies about the seeds of one kind that have so many digits, in order; stretches that touch are one."""
    before, after = REACH[kind]
    merged: list[Stretch] = []
    for start, end, count in seeds.get(kind, ()):
        if count < digits:
            continue
        low, high = max(0, start - before), end + after
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return merged
