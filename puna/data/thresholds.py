"""Which number each signal of a document is held against: the limits of curation one by one, as people ask for them.

Deciding works on whole columns and needs no names (`puna.data.rules`); explaining a document and drawing a threshold into a
histogram need the same limits as rows. They are read from the same settings, so there is one source of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from puna.core.settings import Settings
from puna.data.decontaminate import ITEM_SHARE, DecontaminationSettings, share_columns
from puna.data.kl import KlLimits
from puna.data.signals import Limits, applied_rules
from puna.data.spam import SpamLimits


class Threshold(Settings):
    """One limit of one signal; it is made of settings and travels with them to other machines.

    Attributes:
        rule: reason a document is dropped for, such as `quality:words`.
        signal: column that is looked at.
        least, most: a value under or over it fails; `below`: a value that reaches it fails.
        from_words: the rule holds for documents of so many words.
        together: signals that must reach their limits too before the rule drops anything.
    """

    rule: str
    signal: str
    least: float | None = None
    most: float | None = None
    below: float | None = None
    from_words: int = 0
    together: tuple[str, ...] = ()

    @property
    def sides(self) -> list[tuple[str, float]]:
        """The limits that are set, by name."""
        named = (("least", self.least), ("most", self.most), ("below", self.below))
        return [(side, float(value)) for side, value in named if value is not None]

    def beyond(self, value: float | None) -> bool:
        """Whether a value is on the wrong side; one that is not defined never is."""
        if value is None or math.isnan(value):
            return False
        return any(outside(side, limit, np.array([value]))[0] for side, limit in self.sides)

    def words(self) -> str:
        """The limit as it is said: `20 to 100,000`, `at most 0.3`, `below 0.12`."""
        if self.least is not None and self.most is not None:
            return f"{self.least:,g} to {self.most:,g}"
        said = {"least": "at least", "most": "at most", "below": "below"}
        return "; ".join(f"{said[side]} {value:,g}" for side, value in self.sides)


def outside(side: str, limit: float, values: np.ndarray) -> np.ndarray:
    """Which values fail one side of a threshold (NaN fails none). Returns bool [values]."""
    if side == "least":
        return values < limit
    return values > limit if side == "most" else values >= limit


def quality_thresholds(limits: Limits) -> list[Threshold]:
    """Limits of the quality rules that are switched on, in the order in which they are asked."""
    found = []
    for rule, signal, least, most, among in applied_rules(limits, np.zeros(1, dtype=bool)):
        if least is not None or most is not None:
            from_words = 0 if among[0] else limits.min_repetition_words
            found.append(Threshold(rule=f"quality:{rule}", signal=signal, least=least, most=most, from_words=from_words))
    return found


def spam_thresholds(limits: SpamLimits) -> list[Threshold]:
    """Limits of the spam rules; a rule drops what reaches all of its limits."""
    rules: dict[str, dict[str, float]] = {
        "spam:advert": {"advert_share": limits.advert_share, "advert_terms": limits.advert_terms},
        "spam:adult": {"dirty_share": limits.dirty_share, "dirty_terms": limits.dirty_terms},
        "spam:link_farm": {
            "links": limits.farm_links, "link_share": limits.farm_link_share, "advert_share": limits.farm_advert_share
        },
        "spam:stuffing": {"stuffing": limits.stuffing_share},
    }  # fmt: skip
    return [
        Threshold(rule=rule, signal=signal, below=value, together=tuple(name for name in parts if name != signal))
        for rule, parts in rules.items()
        for signal, value in parts.items()
    ]


def other_thresholds(language_p: float, similarity: float) -> list[Threshold]:
    """Below `language_p` an unwanted language is no reason; near-duplicates reach `similarity` (exact Jaccard)."""
    return [
        Threshold(rule="language", signal="lang_p", below=language_p),
        Threshold(rule="near_duplicate", signal="similarity", below=similarity),
    ]


def word_thresholds(limits: KlLimits) -> list[Threshold]:
    """How unlike the corpus the words of a document may be; nothing where the rule is off."""
    if limits.max_deviations is None:
        return []
    return [
        Threshold(rule="quality:unusual_words", signal="kl_deviations", most=limits.max_deviations, from_words=limits.min_words)
    ]


def score_thresholds(least: Mapping[str, float]) -> list[Threshold]:
    """Least probabilities by `CLASSIFIER.CLASS`."""
    return [Threshold(rule="quality:score", signal=f"score.{name}", least=value) for name, value in least.items()]


def shared_thresholds(settings: DecontaminationSettings) -> list[Threshold]:
    """What a document may share with evaluation files; nothing without files."""
    if not settings.files:
        return []
    shares = zip(share_columns(settings.ngrams), settings.max_shares, strict=True)
    found = [Threshold(rule="contaminated", signal=name, most=value) for name, value in shares]
    return [*found, Threshold(rule="contaminated", signal=ITEM_SHARE, most=settings.max_item_share)]
