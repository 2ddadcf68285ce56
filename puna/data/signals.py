"""Heuristic quality signals of a document, and the limits that turn them into a decision (paper section 3.1.1).

Gopher's quality and repetition rules (Rae et al. 2021, tables A1 and A2) and C4-like ones (Raffel et al. 2020), all from one
array of word hashes. Signals are annotations: they are computed once and kept; the limits are settings, by group of the data
mix, because the token statistics of maths and code are not those of prose (paper section 3.1.1, code and reasoning data).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xxhash

from puna.core.settings import Settings

# scripts without spaces are taken letter by letter, so that n-grams mean something in them
WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff]|[\w\u0900-\u0dff]+(?:['’][\w]+)?")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio: rolling hash of n-grams
BULLET = re.compile(r"^\s*[•‣▪◦·*-]\s")
ELLIPSIS = ("...", "…")
END_MARKS = (".", "!", "?", '"', "”", "»", ":", ";", "।", "。")
STOP_WORDS = {
    "en": {"the", "be", "to", "of", "and", "that", "have", "with", "is", "in", "a", "for", "it", "on", "as", "are"},
    "de": {
        "der",
        "die",
        "das",
        "und",
        "in",
        "zu",
        "den",
        "ist",
        "von",
        "mit",
        "ein",
        "eine",
        "sich",
        "auf",
        "für",
        "nicht",
        "hat",
    },
    "fr": {"le", "la", "les", "de", "et", "à", "un", "une", "des", "en", "est", "que", "qui", "dans", "pour", "du", "il", "au"},
    "it": {"il", "la", "di", "e", "che", "un", "una", "in", "per", "è", "con", "del", "della", "le", "i", "si", "ha", "da"},
    "pt": {"o", "a", "de", "e", "que", "em", "um", "uma", "do", "da", "para", "com", "não", "os", "as", "no", "na", "tem", "é"},
    "es": {"el", "la", "de", "y", "que", "en", "un", "una", "los", "las", "del", "se", "por", "con", "para", "no", "es", "a"},
    "hi": {"है", "और", "के", "की", "का", "में", "से", "को", "पर", "यह", "एक", "हैं", "ने", "कि", "भी"},
}
NGRAM_TOP = (2, 3, 4)  # Gopher: share of the most frequent one
NGRAM_DUPLICATE = (5, 6, 7, 8, 9, 10)  # Gopher: share of characters inside repeated ones
LETTERWISE_WORDS = 400  # looked at to tell a script without spaces
MAX_SIGNAL_WORDS = 20_000  # bounds the time; longer documents are judged by their beginning

_word_hashes: dict[str, int] = {}
WORD_CACHE = 400_000  # words remembered by one process


class Limits(Settings):
    """Limits of one group; None switches a rule off. Shares are of 1; names are those of the signals.

    N-gram rules hold from `min_repetition_words` words: in a short text two equal phrases are already a large share.

    The defaults are Gopher's (tables A1 and A2), with three exceptions: `min_words` (Gopher's 50 is for web pages; short rows of
    curated sets are normal here), `min_word_chars` (Gopher's 3 is for English, and Hindi words are shorter) and
    `max_duplicate_ngrams` (Gopher's 0.15 to 0.10 are for English prose; verse, tables and exercises reach a quarter, logs and
    error pages are far above).
    """

    min_words: int | None = 20
    max_words: int | None = 100_000
    min_word_chars: float | None = 2.0
    max_word_chars: float | None = 10.0
    max_symbols: float | None = 0.1
    max_bullet_lines: float | None = 0.9
    max_ellipsis_lines: float | None = 0.3
    min_alpha_words: float | None = 0.8
    min_stop_words: int | None = 2
    max_duplicate_lines: float | None = 0.30
    max_duplicate_line_chars: float | None = 0.20
    min_repetition_words: int = 100
    max_top_ngrams: tuple[float, float, float] | None = (0.20, 0.18, 0.16)
    max_duplicate_ngrams: tuple[float, float, float, float, float, float] | None = (0.30, 0.28, 0.26, 0.24, 0.22, 0.20)
    max_unreadable: float | None = 0.01


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


def words_of(text: str) -> list[str]:
    """Lower-case words of a text (letters, for scripts without spaces)."""
    return WORD.findall(text.lower())


def hash_words(words: list[str]) -> np.ndarray:
    """xxh3 of every word. Returns uint64 [words]."""
    if len(_word_hashes) > WORD_CACHE:
        _word_hashes.clear()
    known = _word_hashes
    for word in set(words):
        if word not in known:
            known[word] = xxhash.xxh3_64_intdigest(word.encode("utf-8", "replace"))
    return np.fromiter((known[word] for word in words), dtype=np.uint64, count=len(words))


def ngram_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """Rolling hash of every n-gram of a hash sequence. Returns uint64 [words - n + 1], empty where the text is shorter."""
    if len(hashes) < n:
        return hashes[:0]
    rolled = hashes[: len(hashes) - n + 1].copy()
    for step in range(1, n):
        rolled *= MULTIPLIER
        rolled += hashes[step : len(hashes) - n + 1 + step]
    return rolled ^ (rolled >> np.uint64(29))


def measure(text: str, lang: str) -> dict[str, Any]:
    """Every signal of one document, by name; shares are of 1."""
    words = words_of(text)[:MAX_SIGNAL_WORDS]
    lines = [line for line in text.split("\n") if line.strip()]
    count = max(len(words), 1)
    signals: dict[str, Any] = {
        "chars": len(text),
        "words": len(words),
        "mean_word_chars": _mean_word_chars(words),
        "symbols": (text.count("#") + text.count("…") + text.count("...")) / count,
        "alpha_words": None
        if letterwise(words)
        else sum(word[0].isalpha() or any(map(str.isalpha, word)) for word in words) / count,
        "stop_words": len(STOP_WORDS[lang].intersection(words)) if lang in STOP_WORDS else None,
        "unreadable": text.count("\ufffd") / max(len(text), 1),
        "lorem_ipsum": "lorem ipsum" in text.lower(),
    }
    return signals | _line_signals(lines) | _ngram_signals(words)


def letterwise(words: list[str]) -> bool:
    """Whether most "words" are single letters of a script without spaces, so that word statistics mean nothing."""
    sample = words[:LETTERWISE_WORDS]
    return sum(len(word) == 1 and word > "\u0dff" for word in sample) * 2 > len(sample)


def _mean_word_chars(words: list[str]) -> float | None:
    """Mean characters of a word; None where the script has no spaces and words have no length."""
    if not words or letterwise(words):
        return None
    return sum(map(len, words)) / len(words)


def _line_signals(lines: list[str]) -> dict[str, float]:
    count, chars = max(len(lines), 1), max(sum(map(len, lines)), 1)
    seen: set[str] = set()
    repeated = repeated_chars = 0
    for line in lines:
        key = line.strip()
        repeated += key in seen
        repeated_chars += len(line) if key in seen else 0
        seen.add(key)
    return {
        "bullet_lines": sum(bool(BULLET.match(line)) for line in lines) / count,
        "ellipsis_lines": sum(line.rstrip().endswith(ELLIPSIS) for line in lines) / count,
        "punctuated_lines": sum(line.rstrip().endswith(END_MARKS) for line in lines) / count,
        "duplicate_lines": repeated / count,
        "duplicate_line_chars": repeated_chars / chars,
    }


def _ngram_signals(words: list[str]) -> dict[str, float | None]:
    names = [f"top_{n}gram" for n in NGRAM_TOP] + [f"duplicate_{n}gram" for n in NGRAM_DUPLICATE]
    if letterwise(words):
        return dict.fromkeys(names)
    hashes = hash_words(words)
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    total = max(int(lengths.sum()), 1)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    signals: dict[str, float | None] = {}
    for n in NGRAM_TOP:
        signals[f"top_{n}gram"] = _top_share(ngram_hashes(hashes, n), ends, n) / total
    for n in NGRAM_DUPLICATE:
        signals[f"duplicate_{n}gram"] = _duplicate_chars(ngram_hashes(hashes, n), lengths, n) / total
    return signals


def _top_share(grams: np.ndarray, ends: np.ndarray, n: int) -> int:
    """Characters covered by the most frequent n-gram (0 when none comes twice)."""
    if not len(grams):
        return 0
    _, first, counts = np.unique(grams, return_index=True, return_counts=True)
    best = int(np.argmax(counts))
    start = int(first[best])
    return int(counts[best] * (ends[start + n] - ends[start])) if counts[best] > 1 else 0


def _duplicate_chars(grams: np.ndarray, lengths: np.ndarray, n: int) -> int:
    """Characters inside n-grams seen before in the document, each counted once."""
    if not len(grams):
        return 0
    _, first = np.unique(grams, return_index=True)
    if len(first) == len(grams):
        return 0
    repeated = np.ones(len(grams), dtype=bool)
    repeated[first] = False
    covered = np.zeros(len(lengths) + 1, dtype=np.int64)
    starts = np.flatnonzero(repeated)
    np.add.at(covered, starts, 1)
    np.add.at(covered, starts + n, -1)
    return int(lengths[np.cumsum(covered[:-1]) > 0].sum())


def failed_rule(signals: dict[str, Any], limits: Limits) -> str:
    """The name of the first rule that a document fails, empty when it passes all."""
    for rule, value, low, high in _rules(signals, limits):
        if value is None:
            continue
        if (low is not None and value < low) or (high is not None and value > high):
            return rule
    return "lorem_ipsum" if signals["lorem_ipsum"] else ""


def _rules(signals: dict[str, Any], limits: Limits) -> list[tuple[str, Any, float | None, float | None]]:
    rules: list[tuple[str, Any, float | None, float | None]] = [
        ("words", signals["words"], limits.min_words, limits.max_words),
        ("unreadable", signals["unreadable"], None, limits.max_unreadable),
        ("word_length", signals["mean_word_chars"], limits.min_word_chars, limits.max_word_chars),
        ("symbols", signals["symbols"], None, limits.max_symbols),
        ("bullet_lines", signals["bullet_lines"], None, limits.max_bullet_lines),
        ("ellipsis_lines", signals["ellipsis_lines"], None, limits.max_ellipsis_lines),
        ("alpha_words", signals["alpha_words"], limits.min_alpha_words, None),
        ("stop_words", signals["stop_words"], limits.min_stop_words, None),
        ("duplicate_lines", signals["duplicate_lines"], None, limits.max_duplicate_lines),
        ("duplicate_line_chars", signals["duplicate_line_chars"], None, limits.max_duplicate_line_chars),
    ]
    if signals["words"] < limits.min_repetition_words:
        return rules
    if limits.max_top_ngrams:
        rules += [
            (f"top_{n}gram", signals[f"top_{n}gram"], None, high)
            for n, high in zip(NGRAM_TOP, limits.max_top_ngrams, strict=True)
        ]
    if limits.max_duplicate_ngrams:
        rules += [
            (f"duplicate_{n}gram", signals[f"duplicate_{n}gram"], None, high)
            for n, high in zip(NGRAM_DUPLICATE, limits.max_duplicate_ngrams, strict=True)
        ]
    return rules
