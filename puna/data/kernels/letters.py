"""Text as a classifier of languages learnt it: composed letters, and lower case where everything is shouted."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit

from puna.core.cached import cached_arrays
from puna.data.kernels.folding import folded_run
from puna.data.kernels.tables import MARK, SIZE, composed_fold, tables
from puna.data.kernels.utf8 import decode, encode, kind_of

REVISION = 1  # of the arrays that are kept
UPPER, LOWER = np.uint8(1), np.uint8(2)  # title case counts as lower
SHIFT = 32  # between the two code points of a pair
FORM_ROOM = 3  # bytes of the form for each byte of text: U+1D160 has three times as many, no other has more


class Letters(NamedTuple):
    """What there is to know of code points.

    Attributes:
        kind, lower: as in `puna.data.kernels.tables.Tables`.
        one, starts, extra: the parts of `composed_fold()`.
        case: uint8 [SIZE], UPPER, LOWER or 0.
        pairs: int64, sorted; a letter and the mark after it, which are composed to a code point of `composed` (int32).
    """

    kind: np.ndarray
    lower: np.ndarray
    one: np.ndarray
    starts: np.ndarray
    extra: np.ndarray
    case: np.ndarray
    pairs: np.ndarray
    composed: np.ndarray


@lru_cache(maxsize=1)
def letters() -> Letters:
    """The arrays, from Python's own database of Unicode."""
    fold, version = composed_fold(), f"letters-{unicodedata.unidata_version}-{REVISION}"
    arrays = cached_arrays("unicode", version, ("case", "pairs", "composed"), _make)
    return Letters(tables().kind, tables().lower, fold.one, fold.starts, fold.extra, **arrays)


def _make() -> dict[str, np.ndarray]:
    case = np.zeros(SIZE, dtype=np.uint8)
    pairs: dict[int, int] = {}
    for code in range(SIZE):
        letter = chr(code)
        case[code] = UPPER if letter.isupper() else LOWER if letter.islower() or letter.istitle() else 0
        if unicodedata.decomposition(letter)[:1] not in ("", "<"):
            base, *marks = list(unicodedata.normalize("NFD", letter))
            for place, mark in enumerate(marks):  # a second mark may be written first
                rest = unicodedata.normalize("NFC", base + "".join(marks[:place] + marks[place + 1 :]))
                if len(rest) == 1 and unicodedata.normalize("NFC", rest + mark) == letter:
                    pairs[ord(rest) << SHIFT | ord(mark)] = code
    keys = sorted(pairs)
    return {"case": case, "pairs": np.array(keys), "composed": np.array([pairs[key] for key in keys], dtype=np.int32)}


@njit(cache=True, nogil=True)
def plain_form(data, begin, end, letters, out):  # type: ignore[no-untyped-def]
    """Compose letters with the marks that follow them, and lower their case where no letter is in lower case already.

    This is Unicode's form C but for Korean jamo and for marks of which one that cannot be composed stands between others.

    Args:
        data: UTF-8 bytes, of which those from `begin` to `end` are read.
        letters: `letters()`.
        out: uint8, room for `FORM_ROOM` times as many bytes.

    Returns:
        Bytes written to `out`.
    """
    shouted = _shouted(data, begin, end, letters.case)
    written, start, before = 0, 0, np.int64(-1)
    i = begin
    while i < end:
        code, i = decode(data, i, end)
        if shouted and code < SIZE:
            code = np.int64(letters.lower[code])
        code, first, last = folded_run(code, letters.one, letters.starts, letters.extra)
        while code >= 0 or first < last:
            if code < 0:
                code = np.int64(letters.extra[first])
                first += 1
            if before >= 0 and kind_of(letters.kind, code) & MARK:
                pair = before << SHIFT | code
                place = np.searchsorted(letters.pairs, pair)
                if place < len(letters.pairs) and letters.pairs[place] == pair:
                    code = np.int64(letters.composed[place])
                    written = start
            start, before = written, code
            written = encode(code, out, written)
            code = np.int64(-1)
    return written


@njit(cache=True, nogil=True)
def _shouted(data, i, end, case):  # type: ignore[no-untyped-def]
    found = np.uint8(0)
    while i < end:
        code, i = decode(data, i, end)
        if code < SIZE:
            found |= case[code]
            if found & LOWER:
                return False
    return found == UPPER
