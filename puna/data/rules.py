"""From signals to reasons, whole columns at a time: which rule drops each document, in the order in which the rules apply.

A decision is a number per document, an index into `REASONS`; 0 keeps. Limits are settings by group of the mix, so a limit becomes
an array with one value per document and a rule one comparison. A signal that is not defined (NaN) fails no rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from puna.data.columns import numpy_column
from puna.data.language import UNKNOWN
from puna.data.signals import NGRAM_DUPLICATE, NGRAM_TOP, Limits
from puna.data.spam import SpamLimits

if TYPE_CHECKING:
    import pyarrow as pa

Bound = tuple[str, int | None] | None  # a field of Limits, and the place in it where the field is a tuple

# rule, signal, lower limit, upper limit
RULES: tuple[tuple[str, str, Bound, Bound], ...] = (
    ("words", "words", ("min_words", None), ("max_words", None)),
    ("unreadable", "unreadable", None, ("max_unreadable", None)),
    ("word_length", "mean_word_chars", ("min_word_chars", None), ("max_word_chars", None)),
    ("symbols", "symbols", None, ("max_symbols", None)),
    ("bullet_lines", "bullet_lines", None, ("max_bullet_lines", None)),
    ("ellipsis_lines", "ellipsis_lines", None, ("max_ellipsis_lines", None)),
    ("alpha_words", "alpha_words", ("min_alpha_words", None), None),
    ("stop_words", "stop_words", ("min_stop_words", None), None),
    ("duplicate_lines", "duplicate_lines", None, ("max_duplicate_lines", None)),
    ("duplicate_line_chars", "duplicate_line_chars", None, ("max_duplicate_line_chars", None)),
)
# these hold from `min_repetition_words` words
REPETITION: tuple[tuple[str, str, Bound, Bound], ...] = (
    *((f"top_{n}gram", f"top_{n}gram", None, ("max_top_ngrams", place)) for place, n in enumerate(NGRAM_TOP)),
    *((f"duplicate_{n}gram", f"duplicate_{n}gram", None, ("max_duplicate_ngrams", place)) for place, n in enumerate(NGRAM_DUPLICATE)),
)
FLAGS = ("lorem_ipsum",)  # signals that drop a document where they are set
SPAM_KINDS = ("advert", "adult", "link_farm", "stuffing")
REASONS = (
    "",
    "empty",
    "url_duplicate",
    *(f"spam:{kind}" for kind in SPAM_KINDS),
    "language",
    "exact_duplicate",
    "near_duplicate",
    *(f"quality:{name}" for name in (*(rule[0] for rule in (*RULES, *REPETITION)), *FLAGS)),
)
CODE = {reason: code for code, reason in enumerate(REASONS)}
STEPS = tuple(dict.fromkeys(reason.partition(":")[0] for reason in REASONS if reason))  # in the order of the rules


def reason_column(codes: np.ndarray) -> pa.DictionaryArray:
    """Reasons as a dictionary column, the same dictionary in every shard."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), pa.array(REASONS))


def reason_codes(table: pa.Table) -> np.ndarray:
    """The codes of a table's `reason` column. Returns int8 [documents]."""
    return table["reason"].combine_chunks().indices.to_numpy().copy()


def spam_reasons(facts: pa.Table, limits: SpamLimits) -> np.ndarray:
    """Which kind of spam each document is. Returns int8 [documents], codes of `REASONS`."""
    value = {name: numpy_column(facts, name) for name in SPAM_SIGNALS}
    farm = (value["links"] >= limits.farm_links) & (value["link_share"] >= limits.farm_link_share)
    tests = (
        (value["advert_share"] >= limits.advert_share) & (value["advert_terms"] >= limits.advert_terms),
        (value["dirty_share"] >= limits.dirty_share) & (value["dirty_terms"] >= limits.dirty_terms),
        farm & (value["advert_share"] >= limits.farm_advert_share),
        value["stuffing"] >= limits.stuffing_share,
    )
    codes = np.zeros(len(facts), dtype=np.int8)
    for kind, hit in zip(SPAM_KINDS, tests, strict=True):
        mark(codes, hit, f"spam:{kind}")
    return codes


SPAM_SIGNALS = ("advert_share", "advert_terms", "dirty_share", "dirty_terms", "stuffing", "links", "link_share")


def language_reasons(facts: pa.Table, languages: tuple[str, ...], certain: float) -> np.ndarray:
    """Which documents are surely in a language that is not wanted. Returns bool [documents]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pc.is_in(facts["lang"], value_set=pa.array([*languages, UNKNOWN], pa.string())).to_numpy()
    return ~wanted & (numpy_column(facts, "lang_p") >= certain)


def mark(codes: np.ndarray, hit: np.ndarray, reason: str) -> None:
    """Give a reason to the documents that are hit and have none yet."""
    codes[hit & (codes == 0)] = CODE[reason]


def quality_reasons(signals: pa.Table, groups: np.ndarray, limits_of: Callable[[str], Limits]) -> np.ndarray:
    """The first quality rule that each document fails.

    Args:
        signals: one row per document.
        groups: of the mix, one name per document.
        limits_of: limits of a group.

    Returns:
        int8 [documents], codes of `REASONS`.
    """
    names, which = np.unique(groups, return_inverse=True)
    limits = [limits_of(str(name)) for name in names]
    codes = np.zeros(len(signals), dtype=np.int8)
    with np.errstate(invalid="ignore"):
        for rule in RULES:
            mark(codes, _outside(rule, signals, limits, which), f"quality:{rule[0]}")
        enough = numpy_column(signals, "words") >= np.array([of.min_repetition_words for of in limits])[which]
        for rule in REPETITION:
            mark(codes, _outside(rule, signals, limits, which) & enough, f"quality:{rule[0]}")
    for name in FLAGS:
        mark(codes, numpy_column(signals, name) == 1, f"quality:{name}")
    return codes


def _outside(rule: tuple[str, str, Bound, Bound], signals: pa.Table, limits: list[Limits], which: np.ndarray) -> np.ndarray:
    _, column, low, high = rule
    values = numpy_column(signals, column).astype(np.float64)
    outside = np.zeros(len(values), dtype=bool)
    if low is not None:
        outside |= values < _bound(low, limits)[which]
    if high is not None:
        outside |= values > _bound(high, limits)[which]
    return outside


def _bound(bound: tuple[str, int | None], limits: list[Limits]) -> np.ndarray:
    """One limit of every group, NaN (which nothing exceeds) where it is switched off. Returns float64 [groups]."""
    name, place = bound
    values = (getattr(of, name) for of in limits)
    return np.array([np.nan if v is None else v if place is None else v[place] for v in values], dtype=np.float64)
