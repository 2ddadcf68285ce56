"""Resampling by n-grams against the paper's rule worked out caption by caption, and the filter."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import sqrt

import numpy as np
import pytest

from puna.vision.captions import CaptionFilter, Resampling, ngrams, refusals, resample


def runs(caption: str, longest: int) -> set[str]:
    words = caption.lower().split()
    return {" ".join(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)}


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_ngrams_are_the_distinct_runs_of_words(longest):
    captions = ["a red dog", "dog", "", "red dog red dog red", "a a a", "the dog red"]
    grams, ends = ngrams(captions, longest)
    parts = np.split(grams, ends[:-1])
    assert [len(part) for part in parts] == [len(runs(caption, longest)) for caption in captions]
    for (one, a), (other, b) in product(zip(captions, parts, strict=True), repeat=2):
        assert len(np.intersect1d(a, b)) == len(runs(one, longest) & runs(other, longest))
    assert ngrams([], longest)[0].tolist() == []


def test_rare_captions_stay_and_common_ones_are_thinned_as_the_rule_says():
    threshold, settings = 20, Resampling(threshold=20, words=2)
    captions = ["a red dog"] * 2000 + ["a blue cat"] * 100 + [f"a red dog number{i}" for i in range(30)] + ["two words"] * 19
    kept = resample(captions, settings, seed=3)
    often = Counter(gram for caption in captions for gram in runs(caption, 2))
    for caption, start, many in (("a red dog", 0, 2000), ("a blue cat", 2000, 100)):
        chance = 1.0
        for gram in runs(caption, 2):
            chance *= 1 - (1 if often[gram] < threshold else sqrt(threshold / often[gram]))
        expected, got = 1 - chance, kept[start : start + many].mean()
        assert abs(got - expected) < 4 * sqrt(expected * (1 - expected) / many)
    assert kept[2100:].all()  # each has a rare word, or is rare
    assert np.array_equal(kept, resample(captions, settings, seed=3))
    assert not np.array_equal(kept, resample(captions, settings, seed=4))


def test_filter_says_why():
    captions = [
        "A small dog sleeps on the warm sofa in the sun.",
        "Ein kleiner Hund schläft in der Sonne auf dem warmen Sofa.",
        "dog",
        "x " * 50,
    ]
    found = refusals(captions, CaptionFilter(min_words=2, max_words=40))
    assert found == ["", "language", "too short", "too long"]
    assert refusals(captions[:2], CaptionFilter(languages=())) == ["", ""]
    assert refusals(captions[:2], CaptionFilter(languages=("de",))) == ["language", ""]
    assert refusals([], CaptionFilter()) == []
