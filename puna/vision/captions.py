"""Which image-text pairs to keep by their text (paper 7.1): a filter of language, length, similarity; resampling by n-grams.

Resampling (the paper's, after MetaCLIP): a pair stays if any n-gram of its caption is rare, in fewer than T captions; else each
of its n-grams is drawn with probability sqrt(T / f), f the captions that have it, and the pair stays if any is drawn. Captions
that say what thousands of others say become few, and no rare thing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from puna.core.rng import numpy_stream
from puna.core.settings import Settings

BATCH = 4096  # captions whose language is told at once


class CaptionFilter(Settings):
    """What a caption must be like.

    Attributes:
        languages: ISO 639 codes; none named takes all. Captions too short to tell ("und") pass.
        min_words, max_words: length.
        similarity: with an `image_encoder` among the inputs, the least cosine of picture and caption.
    """

    languages: tuple[str, ...] = ("en",)
    min_words: PositiveInt = 1
    max_words: PositiveInt = 256
    similarity: float = Field(default=0.0, ge=-1, le=1)


class Resampling(Settings):
    """Of n-gram resampling: `threshold` is the paper's T (it gives no number), `words` the longest n-gram."""

    threshold: PositiveInt = 20
    words: Literal[1, 2, 3] = 2


def refusals(captions: Sequence[str], settings: CaptionFilter) -> list[str]:
    """Why each caption is refused; empty for those that pass."""
    from puna.data.language import UNKNOWN, identify_batch
    from puna.data.words import scan

    found: list[str] = []
    for start in range(0, len(captions), BATCH):
        part = list(captions[start : start + BATCH])
        languages, _ = identify_batch(part)  # type: ignore[arg-type]
        for language, words in zip(languages, scan(part).counts.tolist(), strict=True):
            known = not settings.languages or language in (*settings.languages, UNKNOWN)
            length = settings.min_words <= words <= settings.max_words
            found.append(
                "" if known and length else "language" if not known else "too short" if words < settings.min_words else "too long"
            )
    return found


def resample(captions: Sequence[str], settings: Resampling, seed: int) -> np.ndarray:
    """Which captions stay, drawn from a stream of the seed. Returns bool [captions]."""
    grams, ends = ngrams(captions, settings.words)
    _, which, counts = np.unique(grams, return_inverse=True, return_counts=True)
    often = counts[which]
    chance = np.where(often < settings.threshold, 1.0, np.sqrt(settings.threshold / often))
    drawn = numpy_stream(seed, "resample").random(len(grams)) < chance
    before = np.concatenate([[0], np.cumsum(drawn)])
    starts = np.concatenate([[0], ends[:-1]])
    return before[ends] > before[starts]


def ngrams(captions: Sequence[str], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the distinct runs of 1 to `longest` words of each caption.

    Returns:
        uint64 [n-grams], those of one caption after another, and int64 [captions], where each caption's end.
    """
    from puna.data.engine import MIX
    from puna.data.words import scan

    words = scan(list(captions))
    counts, document = words.counts, np.repeat(np.arange(len(captions)), words.counts)
    found, owners, run = [words.hashes], [document], words.hashes
    for length in range(2, longest + 1):
        inside = document[: len(document) - length + 1] == document[length - 1 :]
        run = (run[: len(document) - length + 1] * MIX ^ words.hashes[length - 1 :]) * np.uint64(2 * length + 1)
        found.append(run[inside])
        owners.append(document[: len(inside)][inside])
    grams, owner = np.concatenate(found), np.concatenate(owners)
    order = np.lexsort((grams, owner))
    grams, owner = grams[order], owner[order]
    new = np.ones(len(grams), bool)
    new[1:] = (grams[1:] != grams[:-1]) | (owner[1:] != owner[:-1])
    return grams[new], np.searchsorted(owner[new], np.arange(len(counts)), side="right")
