"""MinHash against exact Jaccard similarity: estimator, recall and precision of pairs, clusters."""

from __future__ import annotations

import random

import numpy as np
import pytest

from puna.data.minhash import EMPTY, MinHashSettings, jaccard, shingles, signature

SETTINGS = MinHashSettings()
PERMUTATIONS = SETTINGS.bands * SETTINGS.rows


def edited(words: list[str], edits: int, rng: random.Random) -> list[str]:
    copy = list(words)
    for _ in range(edits):
        copy[rng.randrange(len(copy))] = f"new{rng.randrange(10**6)}"
    return copy


def corpus(documents: int, seed: int) -> list[list[str]]:
    """Pairs (2i, 2i+1) of every similarity from 0.5 to 1, over a small vocabulary."""
    rng = random.Random(seed)
    vocabulary = [f"word{i}" for i in range(300)]
    texts = []
    for _ in range(documents // 2):
        words = rng.choices(vocabulary, k=rng.randint(80, 400))
        texts += [words, edited(words, rng.randint(0, len(words) // 12), rng)]
    return texts


def exact(first: list[str], second: list[str], n: int = 5) -> float:
    one, two = ({tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in (first, second))
    return len(one & two) / len(one | two)


def test_estimate_is_within_its_standard_error():
    texts = corpus(300, 1)
    sets = [shingles(words, 5) for words in texts]
    marks = [signature(values, PERMUTATIONS) for values in sets]
    errors = []
    for index in range(0, len(texts), 2):
        truth = exact(texts[index], texts[index + 1])
        assert jaccard(sets[index], sets[index + 1]) == pytest.approx(truth, abs=1e-12)
        errors.append(abs(np.mean(marks[index] == marks[index + 1]) - truth))
    assert np.mean(errors) < 1 / np.sqrt(PERMUTATIONS)
    unrelated = [np.mean(marks[index] == marks[index + 2]) for index in range(0, 200, 2)]
    assert np.mean(unrelated) < 0.01


def test_signature_is_the_minimum_over_blocks():
    values = np.unique(np.random.default_rng(0).integers(0, 2**63, 2000).astype(np.uint64))
    whole = signature(values, 16)
    assert (whole == np.minimum(signature(values[:700], 16), signature(values[700:], 16))).all()
    assert signature(values[:0], 16).tolist() == [int(EMPTY)] * 16
