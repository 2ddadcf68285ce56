"""From classifier scores to what is kept: ranks within a language, and kinds of knowledge brought down to a share.

Scores of one classifier do not mean the same in two languages, so multilingual documents are ranked by quality within their own
(paper section 3.1.1) and a share of each language is kept. Kinds of knowledge that the web has too much of are sampled down by
the classifier's kinds (paper section 3.1.2). Both look at the whole corpus and at three small columns of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xxhash

from puna.core.settings import Settings, Share

OTHERS = "*"  # the share of every language that is not named


class KeepSettings(Settings):
    """What classifiers take out of the corpus.

    Attributes:
        rank_by: the score, as CLASSIFIER.CLASS, that documents are ranked by within their language; None for no ranks.
        keep_share: by language the best share to keep; `*` for all others; 1 keeps all.
        kinds: the classifier whose likeliest class is a document's kind; None for no sampling down.
        max_share: by kind the largest share of the kept documents.
    """

    rank_by: str | None = None
    keep_share: dict[str, Share] = {OTHERS: 1.0}
    kinds: str | None = None
    max_share: dict[str, Share] = {}


def quality_rank(scores: np.ndarray, langs: Sequence[str]) -> np.ndarray:
    """Rank of each document's score within its language, from just above 0 (worst) to 1 (best); equal scores share their mean.

    Args:
        scores: float [documents], NaN for documents that take no part (they get NaN).
        langs: code of each document's language.

    Returns:
        float32 [documents].
    """
    ranks = np.full(len(scores), np.nan, dtype=np.float32)
    codes, names = _numbered(langs)
    for lang in range(len(names)):
        among = np.flatnonzero((codes == lang) & ~np.isnan(scores))
        if len(among):
            _, place, counts = np.unique(scores[among], return_inverse=True, return_counts=True)
            ranks[among] = ((np.cumsum(counts) - (counts - 1) / 2) / len(among))[place]
    return ranks


def keep_best(ranks: np.ndarray, langs: Sequence[str], shares: Mapping[str, float]) -> np.ndarray:
    """Which documents are among the best of their language. NaN is kept. Returns bool [documents].

    Args:
        ranks: of `quality_rank`.
        shares: by language, `*` for the others (1 where that is missing).
    """
    codes, names = _numbered(langs)
    share = np.array([shares.get(name, shares.get(OTHERS, 1.0)) for name in names], dtype=np.float32)
    return ~(ranks <= 1 - share[codes]) | (share[codes] >= 1)


def _numbered(values: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    names = sorted(set(values))
    number = {name: index for index, name in enumerate(names)}
    return np.fromiter((number[value] for value in values), dtype=np.int64, count=len(values)), names


def document_keys(ids: Sequence[str]) -> np.ndarray:
    """A hash of every id, by which documents are drawn. Returns uint64 [documents]."""
    return np.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in ids), dtype=np.uint64, count=len(ids))


def sample_down(kinds: np.ndarray, keys: np.ndarray, max_shares: Sequence[float]) -> np.ndarray:
    """Which documents stay when no kind may be more than its share of what stays.

    The documents with the smallest keys stay, so the choice does not depend on their order and grows with the corpus.

    Args:
        kinds: int [documents], -1 for documents that take no part (they stay and count for nothing).
        keys: uint64 [documents], of `document_keys`.
        max_shares: by kind; 1 for no limit.

    Returns:
        bool [documents].
    """
    counts = np.bincount(kinds[kinds >= 0], minlength=len(max_shares))
    wanted = allowed_counts(counts, np.asarray(max_shares, dtype=np.float64))
    stays = np.ones(len(kinds), dtype=bool)
    for kind in np.flatnonzero(wanted < counts).tolist():
        among = np.flatnonzero(kinds == kind)
        stays[among[np.argsort(keys[among], kind="stable")][wanted[kind] :]] = False
    return stays


def allowed_counts(counts: np.ndarray, max_shares: np.ndarray) -> np.ndarray:
    """The largest counts of which none is more than its share of their sum. Returns int64 [kinds].

    Kinds over their share are set to it, which makes the sum smaller and may put further kinds over theirs, until none is. If
    the shares add up to less than 1 and every kind is over its own, no counts but 0 fulfil them.
    """
    limited = np.zeros(len(counts), dtype=bool)
    while True:
        rest = 1 - max_shares[limited].sum()
        total = counts[~limited].sum() / rest if rest > 0 else 0.0
        over = ~limited & (counts > max_shares * total)
        if not over.any():
            return np.where(limited, np.floor(max_shares * total + 1e-9), counts).astype(np.int64)
        limited |= over
