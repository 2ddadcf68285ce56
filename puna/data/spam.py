"""Adverts, keyword stuffing, link farms and adult pages, by signals from word lists and links (paper section 3.1.1).

The paper counts "dirty words" to catch adult sites that block lists miss. The same counting finds adverts: one selling phrase
means nothing, a page of which a tenth consists of many different ones does. Lists are data, by language
(`puna.data.spam_words`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from pydantic import NonNegativeInt

from puna.core.settings import Settings, Share
from puna.data.languages import languages
from puna.data.spam_words import ADVERTS, DIRTY
from puna.data.words import HAS_LETTER, Words, hash_words, scan, strings_of

if TYPE_CHECKING:
    import pyarrow as pa

MIN_STUFFING_WORDS = 40
MIN_CONTENT_LETTERS = 4  # shorter words are no content words


class SpamLimits(Settings):
    """Limits of the spam signals; shares are of the document's words (letters in Thai).

    Attributes:
        advert_share, advert_terms: an advert has at least this share of advertising words, and this many different ones.
        farm_links, farm_link_share, farm_advert_share: a link farm has so many links, that share of the visible text inside
            links, and so much advertising.
        stuffing_share: one content word makes up this share.
        dirty_share, dirty_terms: an adult page, likewise.
    """

    advert_share: Share = 0.12
    advert_terms: NonNegativeInt = 3
    farm_links: NonNegativeInt = 15
    farm_link_share: Share = 0.5
    farm_advert_share: Share = 0.04
    stuffing_share: Share = 0.3
    dirty_share: Share = 0.03
    dirty_terms: NonNegativeInt = 3


def spam_batch(words: Words, langs: pa.Array | pa.ChunkedArray | Sequence[str]) -> dict[str, np.ndarray]:
    """Signals of many documents.

    Args:
        words: of `puna.data.words.scan`.
        langs: ISO 639 codes; a document in a language without a list (or an unknown one) is read with every list.

    Returns:
        `advert_share`, `dirty_share` (float64 [documents], covered words by all words), `advert_terms`, `dirty_terms` (int64,
        different phrases), `stuffing` (float64, share of the most frequent content word; 0 for short documents and for scripts
        taken letter by letter).
    """
    from puna.data.kernels.spam import cover, most_frequent_share

    codes = strings_of(langs)
    columns: dict[str, np.ndarray] = {}
    for kind, lists in (("advert", ADVERTS), ("dirty", DIRTY)):
        table = _phrase_table(kind)
        numbers = {code: number for number, code in enumerate(lists)}
        which = np.array([numbers.get(code, len(lists)) for code in codes], dtype=np.int32)
        covered, terms = np.zeros((2, len(codes)), dtype=np.int64)
        phrases = (table.starts, table.firsts, table.marks, table.ranges, table.sizes, table.keys)
        cover(words.hashes, words.ends, which, *phrases, covered, terms)
        columns |= {f"{kind}_share": covered / np.maximum(words.counts, 1), f"{kind}_terms": terms}
    content = (words.lengths >= MIN_CONTENT_LETTERS) & ((words.flags & HAS_LETTER) > 0)
    rows, starts, stop_words, marks = _stop_words()
    which = np.array([rows.get(code, len(rows)) for code in codes], dtype=np.int32)
    stuffing = np.zeros(len(codes))
    most_frequent_share(words.hashes, words.ends, content, which, starts, stop_words, marks, MIN_STUFFING_WORDS, stuffing)
    return columns | {"stuffing": stuffing}


@dataclass(frozen=True)
class PhraseTable:
    """Every list of one kind as flat arrays, see `puna.data.kernels.spam.cover`; the last list is all of them together."""

    starts: np.ndarray
    firsts: np.ndarray
    marks: np.ndarray
    ranges: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray


@lru_cache(maxsize=2)
def _phrase_table(kind: str) -> PhraseTable:
    from puna.data.kernels.spam import phrase_key

    lists = ADVERTS if kind == "advert" else DIRTY
    starts, firsts, ranges, sizes, keys = [0], [], [0], [], []
    # adverts and adult pages everywhere use English words
    for entries in (*(f"{lists['en']};{lists[code]}" for code in lists), ";".join(lists.values())):
        by_first: dict[int, dict[int, int]] = {}
        for phrase in dict.fromkeys(entries.split(";")):
            hashes = scan([phrase]).hashes
            if len(hashes):
                key = int(phrase_key(hashes, 0, len(hashes)))
                by_first.setdefault(int(hashes[0]), {})[key] = len(hashes)
        for first in sorted(by_first):
            phrases = sorted(by_first[first].items(), key=lambda item: (-item[1], item[0]))
            firsts.append(first)
            keys += [key for key, _ in phrases]
            sizes += [size for _, size in phrases]
            ranges.append(len(keys))
        starts.append(len(firsts))
    words = (np.array(values, dtype=np.uint64) for values in (firsts, keys))
    numbers = (np.array(values, dtype=np.int64) for values in (starts, ranges, sizes))
    (firsts_, keys_), (starts_, ranges_, sizes_) = words, numbers
    return PhraseTable(starts_, firsts_, _marks(firsts_, starts_), ranges_, sizes_, keys_)


@lru_cache(maxsize=1)
def _stop_words() -> tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray]:
    """Row of each language, where its stop words begin, all their hashes, sorted within a language, and their marks; a last row
    is empty."""
    lists = [np.sort(hash_words(language.stop_words)) for language in languages().values()]
    starts = np.cumsum([0, *map(len, lists), 0], dtype=np.int64)
    words = np.concatenate(lists)
    return {code: row for row, code in enumerate(languages())}, starts, words, _marks(words, starts)


def _marks(words: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Which low bits occur in each list. Returns bool [lists, MARKS]."""
    from puna.data.kernels.spam import LOW_BITS, MARKS

    found = np.zeros((len(starts) - 1, MARKS), dtype=bool)
    for row, (first, last) in enumerate(pairwise(starts.tolist())):
        found[row, words[first:last] & LOW_BITS] = True
    return found
