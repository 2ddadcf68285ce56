"""Words of many texts at once, as hashes: what quality signals, MinHash and spam lists all work on.

A text is scanned once, byte by byte, in compiled code; no Python object is made for a document or a word (34 MB/s for
`re.findall` and `str.lower`, which beside a compiled MinHash kernel is the whole cost).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from puna.core.errors import InputError
from puna.data.kernels.tables import ALONE, FIRST_PLAIN_HAN, LAST_PLAIN_HAN, MARK, SIZE, WORD, tables

if TYPE_CHECKING:
    import pyarrow as pa

HAS_LETTER, LONE = 1, 2  # flags of a word: it has a letter; it is a lone letter of a script without spaces
LETTERWISE_WORDS = 400  # looked at to tell a script without spaces


@dataclass(frozen=True)
class Words:
    """The words of a batch of documents, one after another.

    Attributes:
        hashes: uint64 [words], of the lower-case word; never 0.
        lengths: int32 [words], in characters.
        flags: uint8 [words], HAS_LETTER and LONE.
        starts: int64 [words], first byte of the word in the batch's buffer of UTF-8 bytes (see `utf8_of`).
        ends: int64 [documents], index after the last word of each document.
    """

    hashes: np.ndarray
    lengths: np.ndarray
    flags: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Words of each document. Returns int64 [documents]."""
        return np.diff(self.ends, prepend=0)

    def letterwise(self) -> np.ndarray:
        """Which documents are in a script without spaces, where word statistics mean nothing. Returns bool [documents]."""
        begins = self.ends - self.counts
        looked = np.minimum(self.counts, LETTERWISE_WORDS)
        lone = np.concatenate([[0], np.cumsum((self.flags & LONE) != 0)])
        return (lone[begins + looked] - lone[begins]) * 2 > looked


def utf8_of(texts: pa.Array | pa.ChunkedArray | Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of an Arrow string column (or of a list of str), without a copy where it is one array.

    Returns:
        uint8 [bytes], not to be written to (so that kernels are compiled once for buffers of all kinds), and int64 [texts + 1],
        first byte of every text and the end of the last. A null is an empty text.
    """
    import pyarrow as pa

    if isinstance(texts, pa.ChunkedArray):
        texts = texts.chunk(0) if texts.num_chunks == 1 else texts.cast(pa.large_string()).combine_chunks()
    elif not isinstance(texts, pa.Array):
        texts = pa.array(texts, type=pa.large_string())
    if texts.null_count:
        texts = texts.fill_null("")
    _, offsets, data = texts.buffers()
    width = np.int64 if pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type) else np.int32
    found, bounds = np.frombuffer(data or b"", dtype=np.uint8), np.zeros(1, dtype=np.int64)
    found.flags.writeable = False
    if len(texts):
        bounds = np.frombuffer(offsets, dtype=width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return found, bounds


def strings_of(column: pa.Array | pa.ChunkedArray | Sequence[str]) -> list[str]:
    """A short column (codes of languages or groups) as a list of str; a null is ""."""
    values = column if isinstance(column, (list, tuple)) else column.to_pylist() if hasattr(column, "to_pylist") else list(column)
    return [value or "" for value in values]


def scan(texts: pa.Array | pa.ChunkedArray | Sequence[str]) -> Words:
    """The words of every text, in order.

    A word is a run of letters, digits, marks and underscores that begins with no mark, with one apostrophe between two such
    runs; in scripts without spaces every letter is a word. Lower case is by code point (`puna.data.kernels.tables`).
    """
    from puna.data.kernels.words import scan_words

    data, offsets = utf8_of(texts)
    room = int(offsets[-1] - offsets[0]) // 2 + len(offsets)  # two words have a byte between them, or are three bytes each
    hashes, starts = np.empty(room, dtype=np.uint64), np.empty(room, dtype=np.int64)
    lengths, flags = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.uint8)
    ends = np.zeros(len(offsets) - 1, dtype=np.int64)
    known = tables()
    count = scan_words(data, offsets, known.kind, known.lower, hashes, lengths, flags, starts, ends)
    return Words(hashes[:count].copy(), lengths[:count].copy(), flags[:count].copy(), starts[:count].copy(), ends)


def hash_words(words: Sequence[str]) -> np.ndarray:
    """The hashes that `scan` gives to these words. Returns uint64 [words].

    Raises:
        InputError: one of them is not one word.
    """
    found = scan(words)
    wrong = np.flatnonzero(found.counts != 1)
    if len(wrong):
        raise InputError("a word list holds something that is not one word", where=repr(words[int(wrong[0])]), fix="split it")
    return found.hashes


def words_of(text: str) -> list[str]:
    """The words of one text as strings: `scan` for word lists and tests, slowly."""
    folded = text.replace("İ", "i").lower().replace("ς", "σ").replace("’", "'")
    return _pattern().findall(folded)


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    kind = tables().kind
    han = f"{chr(FIRST_PLAIN_HAN)}-{chr(LAST_PLAIN_HAN)}"
    alone = _class((kind & ALONE) != 0) + han
    first = _class(((kind & WORD) != 0) & ((kind & ALONE) == 0))
    more = _class(((kind & (WORD | MARK)) != 0) & ((kind & ALONE) == 0))
    return re.compile(f"[{alone}]|[{first}][{more}]*(?:'[{first}][{more}]*)?")


def _class(member: np.ndarray) -> str:
    """Ranges of a regular expression's class from bool [SIZE]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], member, [False]]).astype(np.int8)))
    pairs = edges.reshape(-1, 2).tolist()
    assert len(member) == SIZE
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last - 1))}" for first, last in pairs)
