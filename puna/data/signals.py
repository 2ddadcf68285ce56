"""Heuristic quality signals of a document, and the limits that turn them into a decision (paper section 3.1.1).

Gopher's quality and repetition rules (Rae et al. 2021, tables A1 and A2) and C4-like ones (Raffel et al. 2020), all from one
array of word hashes. Signals are annotations: they are computed once and kept; the limits are settings, by group of the data
mix, because the token statistics of maths and code are not those of prose (paper section 3.1.1, code and reasoning data).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from pydantic import NonNegativeFloat, NonNegativeInt

from puna.core.settings import Settings, Share
from puna.data.kernels.tables import tables
from puna.data.languages import languages
from puna.data.words import HAS_LETTER, Words, hash_words, strings_of, utf8_of

if TYPE_CHECKING:
    import pyarrow as pa

NGRAM_TOP = (2, 3, 4)  # Gopher: share of the most frequent one
NGRAM_DUPLICATE = (5, 6, 7, 8, 9, 10)  # Gopher: share of characters inside repeated ones


class Limits(Settings):
    """Limits of one group; None switches a rule off. Shares are of 1; names are those of the signals.

    N-gram rules hold from `min_repetition_words` words: in a short text two equal phrases are already a large share.

    The defaults are Gopher's (tables A1 and A2), with three exceptions: `min_words` (Gopher's 50 is for web pages; short rows of
    curated sets are normal here), `min_word_chars` (Gopher's 3 is for English, and Hindi words are shorter) and
    `max_duplicate_ngrams` (Gopher's 0.15 to 0.10 are for English prose; verse, tables and exercises reach a quarter, logs and
    error pages are far above).

    The last five are off: they are for crawled web pages. FineWeb (Penedo et al. 2024) sets `min_punctuated_lines` 0.12,
    `max_short_lines` 0.67, `max_line_breaks` 0.3 and `max_duplicate_line_chars` 0.01; C4 (Raffel et al. 2020) drops every page
    with a brace (`max_braces` 0) and every line of fewer than three words.
    """

    min_words: NonNegativeInt | None = 20
    max_words: NonNegativeInt | None = 100_000
    min_word_chars: NonNegativeFloat | None = 2.0
    max_word_chars: NonNegativeFloat | None = 10.0
    max_symbols: NonNegativeFloat | None = 0.1
    max_bullet_lines: Share | None = 0.9
    max_ellipsis_lines: Share | None = 0.3
    min_alpha_words: Share | None = 0.8
    min_stop_words: NonNegativeInt | None = 2
    max_duplicate_lines: Share | None = 0.30
    max_duplicate_line_chars: Share | None = 0.20
    min_repetition_words: NonNegativeInt = 100
    max_top_ngrams: tuple[Share, Share, Share] | None = (0.20, 0.18, 0.16)
    max_duplicate_ngrams: tuple[Share, Share, Share, Share, Share, Share] | None = (0.30, 0.28, 0.26, 0.24, 0.22, 0.20)
    max_unreadable: Share | None = 0.01
    min_punctuated_lines: Share | None = None
    max_short_lines: Share | None = None
    max_line_breaks: NonNegativeFloat | None = None
    max_few_word_lines: Share | None = None
    max_braces: NonNegativeFloat | None = None


PROSE_GROUPS = ("general", "multilingual")
PROSE = Limits()
MATHS = Limits(
    min_words=8,
    min_word_chars=1.0,
    max_symbols=0.5,
    min_alpha_words=None,
    min_stop_words=None,
    max_duplicate_lines=0.5,
    max_duplicate_line_chars=0.4,
    max_top_ngrams=None,
    max_duplicate_ngrams=(0.6, 0.6, 0.6, 0.6, 0.6, 0.6),
)
CODE = Limits(
    min_words=8,
    min_word_chars=1.0,
    max_word_chars=14.0,
    max_symbols=0.5,
    max_bullet_lines=None,
    max_ellipsis_lines=0.5,
    min_alpha_words=0.3,
    min_stop_words=None,
    max_duplicate_lines=0.5,
    max_duplicate_line_chars=0.4,
    max_top_ngrams=None,
    max_duplicate_ngrams=(0.85, 0.8, 0.75, 0.7, 0.65, 0.6),
)


# name of the rule, signal, lowest and highest (fields of Limits), in the order in which they are asked
RULES = (
    ("words", "words", "min_words", "max_words"),
    ("unreadable", "unreadable", "", "max_unreadable"),
    ("word_length", "mean_word_chars", "min_word_chars", "max_word_chars"),
    ("symbols", "symbols", "", "max_symbols"),
    ("bullet_lines", "bullet_lines", "", "max_bullet_lines"),
    ("ellipsis_lines", "ellipsis_lines", "", "max_ellipsis_lines"),
    ("alpha_words", "alpha_words", "min_alpha_words", ""),
    ("stop_words", "stop_words", "min_stop_words", ""),
    ("duplicate_lines", "duplicate_lines", "", "max_duplicate_lines"),
    ("duplicate_line_chars", "duplicate_line_chars", "", "max_duplicate_line_chars"),
    ("punctuated_lines", "punctuated_lines", "min_punctuated_lines", ""),
    ("short_lines", "short_lines", "", "max_short_lines"),
    ("line_breaks", "line_breaks", "", "max_line_breaks"),
    ("few_word_lines", "few_word_lines", "", "max_few_word_lines"),
    ("braces", "braces", "", "max_braces"),
)
# Arrow types of the columns of `measure_batch`; a double may be missing (NaN in arrays, null in files)
COLUMNS = {
    "chars": "int64",
    "words": "int64",
    **dict.fromkeys(
        ("mean_word_chars", "symbols", "alpha_words", "stop_words", "unreadable", "braces", "bullet_lines", "ellipsis_lines",
         "punctuated_lines", "short_lines", "few_word_lines", "line_breaks", "duplicate_lines", "duplicate_line_chars"),
        "double",
    ),
    **{f"top_{n}gram": "double" for n in NGRAM_TOP},
    **{f"duplicate_{n}gram": "double" for n in NGRAM_DUPLICATE},
    "lorem_ipsum": "bool",
}  # fmt: skip


def measure_batch(
    texts: pa.Array | pa.ChunkedArray | Sequence[str], words: Words, langs: pa.Array | pa.ChunkedArray | Sequence[str]
) -> dict[str, np.ndarray]:
    """Every signal of a batch of documents.

    Args:
        texts: the documents, and `words`, what `puna.data.words.scan` found in them.
        langs: ISO 639 code of each.

    Returns:
        The columns of `COLUMNS`, each [documents]: int64, float64 or bool. Shares are of 1. NaN where a signal has no meaning:
        word statistics in scripts without spaces, stop words in languages without a file.
    """
    from puna.data.kernels.lines import COLUMNS as LINE_COLUMNS
    from puna.data.kernels.lines import count_signs_and_lines
    from puna.data.kernels.ngrams import repetition

    data, offsets = utf8_of(texts)
    documents = len(words.ends)
    letterwise = words.letterwise()
    counts = np.zeros((documents, LINE_COLUMNS), dtype=np.int64)
    count_signs_and_lines(data, offsets, tables().kind, words.starts, words.ends, counts)
    top = np.zeros((documents, len(NGRAM_TOP)), dtype=np.int64)
    duplicate = np.zeros((documents, len(NGRAM_DUPLICATE)), dtype=np.int64)
    repetition(words.hashes, words.lengths, words.ends, letterwise, top, duplicate)
    columns = _word_columns(words, letterwise, langs) | _line_columns(counts, words.counts, letterwise)
    total = np.maximum(_sums(words.lengths, words.ends), 1)
    for names, chars in ((NGRAM_TOP, top), (NGRAM_DUPLICATE, duplicate)):
        kind = "top" if names is NGRAM_TOP else "duplicate"
        for place, n in enumerate(names):
            columns[f"{kind}_{n}gram"] = np.where(letterwise, np.nan, chars[:, place] / total)
    return {name: columns[name] for name in COLUMNS}


def _word_columns(
    words: Words, letterwise: np.ndarray, langs: pa.Array | pa.ChunkedArray | Sequence[str]
) -> dict[str, np.ndarray]:
    count = words.counts
    some = np.maximum(count, 1)
    no_words = letterwise | (count == 0)
    with_letter = _sums((words.flags & HAS_LETTER) != 0, words.ends)
    return {
        "words": count,
        "mean_word_chars": np.where(no_words, np.nan, _sums(words.lengths, words.ends) / some),
        "alpha_words": np.where(letterwise, np.nan, with_letter / some),
        "stop_words": _stop_words(words, langs),
    }


def _sums(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sum of a flat array over each document. Returns int64 [documents]."""
    return np.diff(np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[np.concatenate([[0], ends])])


def _stop_words(words: Words, langs: pa.Array | pa.ChunkedArray | Sequence[str]) -> np.ndarray:
    from puna.data.kernels.ngrams import distinct_listed

    table, marks = _stop_word_table()
    marked = np.array([marks.get(lang, 0) for lang in strings_of(langs)], dtype=np.uint64)
    found = np.zeros(len(marked), dtype=np.int64)
    distinct_listed(words.hashes, words.ends, marked, table, found)
    return np.where(marked == 0, np.nan, found)


@lru_cache(maxsize=1)
def _stop_word_table() -> tuple[np.ndarray, dict[str, int]]:
    """Open-addressing table of every language's stop words (word hash xor mark of the language), and the marks."""
    marks = {code: xxhash.xxh3_64_intdigest(code.encode()) for code in languages()}
    keys = [hash_words(language.stop_words) ^ np.uint64(marks[code]) for code, language in languages().items()]
    entries = np.concatenate(keys).tolist()
    slots = 1 << (4 * len(entries)).bit_length()
    table = np.zeros(slots, dtype=np.uint64)
    for key in entries:
        slot = (key ^ (key >> 32)) % slots
        while table[slot]:
            slot = (slot + 1) % slots
        table[slot] = key
    return table, marks


def _line_columns(counts: np.ndarray, words: np.ndarray, letterwise: np.ndarray) -> dict[str, np.ndarray]:
    from puna.data.kernels import lines as at

    chars, some_words = counts[:, at.CHARS], np.maximum(words, 1)
    lines, line_chars = np.maximum(counts[:, at.LINES], 1), np.maximum(counts[:, at.LINE_CHARS], 1)
    return {
        "chars": chars,
        "symbols": (counts[:, at.HASH_SIGNS] + counts[:, at.ELLIPSES]) / some_words,
        "unreadable": counts[:, at.UNREADABLE] / np.maximum(chars, 1),
        "braces": counts[:, at.BRACES] / np.maximum(chars, 1),
        "line_breaks": counts[:, at.NEWLINES] / some_words,
        "lorem_ipsum": counts[:, at.LOREM] > 0,
        "bullet_lines": counts[:, at.BULLETS] / lines,
        "ellipsis_lines": counts[:, at.ELLIPSIS_LINES] / lines,
        "punctuated_lines": counts[:, at.PUNCTUATED] / lines,
        "short_lines": counts[:, at.SHORT] / lines,
        "few_word_lines": np.where(letterwise, np.nan, counts[:, at.FEW_WORDS] / lines),
        "duplicate_lines": counts[:, at.REPEATED] / lines,
        "duplicate_line_chars": counts[:, at.REPEATED_CHARS] / line_chars,
    }


def failed_rules(
    columns: Mapping[str, np.ndarray],
    groups: pa.Array | pa.ChunkedArray | Sequence[str],
    langs: pa.Array | pa.ChunkedArray | Sequence[str],
    limits: Mapping[str, Limits],
) -> np.ndarray:
    """The first rule that each document fails.

    Args:
        columns: signals as `measure_batch` gives them (or a shard's columns, NaN for null).
        groups, langs: of every document.
        limits: of every group that occurs. In prose (the groups `general` and `multilingual`) a language's own limits take the
            place of those that stand as in `PROSE`.

    Returns:
        object [documents]: name of the rule, "" where a document passes all.
    """
    reasons = np.full(len(groups), "", dtype=object)
    pairs = np.array(list(map("\0".join, zip(strings_of(groups), strings_of(langs), strict=True))), dtype=object)
    for pair in sorted(set(pairs.tolist())):
        group, lang = pair.split("\0")
        among = pairs == pair
        part = {name: np.asarray(columns[name])[among] for name in COLUMNS}
        reasons[among] = _first_failed(part, limits_for(limits[group], group, lang))
    return reasons


@lru_cache(maxsize=1024)
def limits_for(limits: Limits, group: str, lang: str) -> Limits:
    """The limits of a group for one language."""
    if group not in PROSE_GROUPS or lang not in languages():
        return limits
    own = {name: value for name, value in languages()[lang].limits.items() if getattr(limits, name) == getattr(PROSE, name)}
    return Limits.model_validate(limits.model_dump() | own) if own else limits


def _first_failed(columns: Mapping[str, np.ndarray], limits: Limits) -> np.ndarray:
    reasons = np.full(len(columns["words"]), "", dtype=object)
    for rule, signal, low, high, among in applied_rules(limits, columns["words"] >= limits.min_repetition_words):
        values = columns[signal]
        failed = np.zeros(len(reasons), dtype=bool)
        if low is not None:
            failed |= values < low
        if high is not None:
            failed |= values > high
        reasons[failed & among & (reasons == "")] = rule
    reasons[columns["lorem_ipsum"].astype(bool) & (reasons == "")] = "lorem_ipsum"
    return reasons


def applied_rules(limits: Limits, long: np.ndarray) -> Iterator[tuple[str, str, float | None, float | None, np.ndarray]]:
    """Rule, signal, lowest, highest, and the documents the rule is for."""
    everyone = np.ones_like(long)
    for rule, signal, low, high in RULES:
        yield rule, signal, getattr(limits, low) if low else None, getattr(limits, high) if high else None, everyone
    for kind, sizes, highest in (
        ("top", NGRAM_TOP, limits.max_top_ngrams), ("duplicate", NGRAM_DUPLICATE, limits.max_duplicate_ngrams)
    ):  # fmt: skip
        for n, most in zip(sizes, highest or (), strict=bool(highest)):
            yield f"{kind}_{n}gram", f"{kind}_{n}gram", None, most, long
