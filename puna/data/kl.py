"""Documents whose words are not those of the corpus: divergence of a document's token distribution (paper section 3.1.1).

The paper drops documents with too many outlier tokens by the Kullback-Leibler divergence of their token distribution from the
corpus'. Words are hashed into buckets and counted in a first pass, by language, since a distribution over all languages would
call each one an outlier; a document is compared with the others and not with itself. The divergence of a short text is large
whatever it says (ten words cannot look like a language), so it is judged against documents of about its own length: how many
scaled median deviations it lies above their median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

from puna.core.settings import Settings
from puna.data.words import Words

BUCKETS_LOG2 = 18
ALL = "*"  # the distribution of all languages together
LIKE_LENGTH = 200  # documents that make up one band of lengths
MAD_TO_SIGMA = 1.4826  # of a normal distribution
LEAST_SPREAD = 0.05  # nats; equal documents must not make a trifle an outlier


class KlLimits(Settings):
    """When a document is an outlier.

    Attributes:
        max_deviations: scaled median deviations above the median of documents of its length; None switches the rule off. By
            default 8: real texts reach 7 within one kind of text, planted gibberish and logs 25 and more.
        min_words: shorter documents are not judged.
        min_language_words: a language with fewer words in the corpus is compared with all languages together.
    """

    max_deviations: NonNegativeFloat | None = 8.0
    min_words: NonNegativeInt = 50
    min_language_words: NonNegativeInt = 20_000


def count_words(words: Words, langs: Sequence[str]) -> dict[str, np.ndarray]:
    """Words of a batch by bucket: int64 [buckets] for each language that occurs. Batches add up (`add_counts`)."""
    from puna.data.kernels.tokens import count_buckets

    found: dict[str, np.ndarray] = {}
    ends = words.ends.tolist()
    for begin, end, lang in zip([0, *ends], ends, langs, strict=False):
        if lang not in found:
            found[lang] = np.zeros(1 << BUCKETS_LOG2, dtype=np.int64)
        count_buckets(words.hashes[begin:end], np.uint64(64 - BUCKETS_LOG2), found[lang])
    return found


def add_counts(total: dict[str, np.ndarray], more: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sum of two counts by language."""
    both = {lang: total[lang] + more[lang] for lang in total.keys() & more.keys()}
    return dict(sorted((total | more | both).items()))


@dataclass(frozen=True)
class Distribution:
    """Words of a corpus by language.

    Attributes:
        langs: names of the rows; the first is `ALL`.
        counts: int64 [languages, buckets].
    """

    langs: tuple[str, ...]
    counts: np.ndarray

    def divergence(self, words: Words, langs: Sequence[str]) -> np.ndarray:
        """Divergence of each document from the other documents of its language, in nats.

        Probabilities of the corpus have add-one smoothing over the buckets that occur and one for all others.

        Args:
            words: of documents that are among the counted ones; each is compared with the rest.

        Returns:
            float32 [documents], NaN for a document without words.
        """
        from puna.data.kernels.tokens import divergences

        rows = {lang: row for row, lang in enumerate(self.langs)}
        which = np.array([rows.get(lang, 0) for lang in langs], dtype=np.int32)
        totals = self.counts.sum(axis=1) + np.count_nonzero(self.counts, axis=1) + 1
        out = np.empty(len(words.ends), dtype=np.float32)
        divergences(words.hashes, words.ends, which, np.uint64(64 - BUCKETS_LOG2), self.counts, totals, out)
        return out


def distribution(counts: dict[str, np.ndarray], limits: KlLimits) -> Distribution:
    """The distributions of a corpus from its counted words; languages with too few words are left to `ALL`."""
    everything = np.zeros(1 << BUCKETS_LOG2, dtype=np.int64)
    for row in counts.values():
        everything += row
    own = [lang for lang in sorted(counts) if counts[lang].sum() >= limits.min_language_words]
    return Distribution((ALL, *own), np.stack([everything, *(counts[lang] for lang in own)]))
