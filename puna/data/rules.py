"""From signals to reasons, whole columns at a time: which rule drops each document, in the order in which the rules apply.

A decision is a number per document, an index into `REASONS`; 0 keeps. A signal that is not defined (NaN) fails no rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from puna.core.errors import InputError
from puna.data.columns import numpy_column
from puna.data.kl import KlLimits
from puna.data.language import UNKNOWN
from puna.data.signals import COLUMNS, NGRAM_DUPLICATE, NGRAM_TOP, RULES, Limits, failed_rules
from puna.data.spam import SpamLimits

if TYPE_CHECKING:
    import pyarrow as pa

SPAM_SIGNALS = ("advert_share", "advert_terms", "dirty_share", "dirty_terms", "stuffing", "links", "link_share")
SPAM_KINDS = ("advert", "adult", "link_farm", "stuffing")
QUALITY = (
    *(rule[0] for rule in RULES),
    *(f"top_{n}gram" for n in NGRAM_TOP),
    *(f"duplicate_{n}gram" for n in NGRAM_DUPLICATE),
    "lorem_ipsum",
    "unusual_words",
    "score",
)
REASONS = (
    "",
    "blocked",
    "empty",
    "url_duplicate",
    *(f"spam:{kind}" for kind in SPAM_KINDS),
    "language",
    "exact_duplicate",
    "near_duplicate",
    "contaminated",
    *(f"quality:{name}" for name in QUALITY),
    "rank",
    "kind",
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


def language_reasons(facts: pa.Table, languages: tuple[str, ...], certain: float) -> np.ndarray:
    """Which documents are surely in a language that is not wanted. Returns bool [documents]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pc.is_in(facts["lang"], value_set=pa.array([*languages, UNKNOWN], pa.string())).to_numpy()
    return ~wanted & (numpy_column(facts, "lang_p") >= certain)


def mark(codes: np.ndarray, hit: np.ndarray, reason: str) -> None:
    """Give a reason to the documents that are hit and have none yet."""
    codes[hit & (codes == 0)] = CODE[reason]


def quality_reasons(signals: pa.Table, facts: pa.Table, limits: Mapping[str, Limits]) -> np.ndarray:
    """The first quality rule that each document fails.

    Args:
        signals, facts: one row per document.
        limits: of every group of the mix.

    Returns:
        int8 [documents], codes of `REASONS`.
    """
    columns = {name: numpy_column(signals, name) for name in COLUMNS}
    failed = failed_rules(columns, facts["group"], facts["lang"], limits)
    codes = np.zeros(len(signals), dtype=np.int8)
    for rule in set(failed.tolist()) - {""}:
        codes[failed == rule] = CODE[f"quality:{rule}"]
    return codes


def word_reasons(signals: pa.Table, limits: KlLimits) -> np.ndarray:
    """Which documents use words unlike those of the corpus. Returns bool [documents]."""
    if limits.max_deviations is None:
        return np.zeros(len(signals), dtype=bool)
    with np.errstate(invalid="ignore"):
        unusual = numpy_column(signals, "kl_deviations") > limits.max_deviations
    return unusual & (numpy_column(signals, "words") >= limits.min_words)


def score_reasons(signals: pa.Table, least: Mapping[str, float]) -> np.ndarray:
    """Which documents a classifier scores below a limit.

    Args:
        least: smallest probability by `CLASSIFIER.CLASS`.

    Raises:
        InputError: no such score was computed.
    """
    low = np.zeros(len(signals), dtype=bool)
    for name, limit in least.items():
        if f"score.{name}" not in signals.column_names:
            known = [column.removeprefix("score.") for column in signals.column_names if column.startswith("score.")]
            raise InputError(
                f"no classifier gave a score '{name}'",
                where=f"known: {', '.join(known) or 'none'}",
                fix="name the classifier under `from`, and the score as CLASSIFIER.CLASS",
            )
        low |= numpy_column(signals, f"score.{name}") < limit
    return low
