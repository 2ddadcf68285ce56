"""MinHash signatures of batches against exact Jaccard similarity of sets of word tuples."""

from __future__ import annotations

import random

import curation_reference as reference
import numpy as np
import pytest

from puna.data.minhash import EMPTY, MinHashSettings, jaccard, signatures
from puna.data.near_duplicates import bands, candidate_pairs
from puna.data.words import scan, words_of

SETTINGS = MinHashSettings()
PERMUTATIONS = SETTINGS.bands * SETTINGS.rows


def edited(words: list[str], edits: int, rng: random.Random) -> list[str]:
    copy = list(words)
    for _ in range(edits):
        copy[rng.randrange(len(copy))] = f"new{rng.randrange(10**6)}"
    return copy


def pairs(count: int, seed: int, vocabulary: list[str]) -> list[list[str]]:
    """Documents 2i and 2i + 1 are alike, with similarities from 0.3 to 1."""
    rng = random.Random(seed)
    documents = []
    for _ in range(count):
        words = rng.choices(vocabulary, k=rng.randint(80, 400))
        documents += [words, edited(words, rng.randint(0, len(words) // 8), rng)]
    return documents


def vocabulary_of(source: str) -> list[str]:
    if source == "made up":
        return [f"word{i}" for i in range(300)]
    texts = reference.udhr()
    if not texts:
        pytest.skip("../shared/data/udhr is not here")
    return sorted(set(words_of(texts["de"])))


def exact(first: list[str], second: list[str], n: int = 5) -> float:
    one, two = ({tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in (first, second))
    return len(one & two) / len(one | two)


@pytest.mark.parametrize("source", ["made up", "German"])
def test_estimate_is_within_its_standard_error(source):
    documents = pairs(300, 1, vocabulary_of(source))
    marks, shingles, ends = signatures(scan([" ".join(words) for words in documents]), SETTINGS)
    sets = np.split(shingles, ends[:-1])
    truth = np.array([exact(documents[i], documents[i + 1]) for i in range(0, len(documents), 2)])
    assert [jaccard(sets[i], sets[i + 1]) for i in range(0, len(documents), 2)] == pytest.approx(truth, abs=1e-12)
    estimate = (marks[0::2] == marks[1::2]).mean(axis=1)
    # a mean of 112 coin flips of probability J is off by sqrt(J (1 - J) / 112) on average squared, and never by a bias
    assert np.abs(estimate - truth).mean() < 1 / np.sqrt(PERMUTATIONS)
    assert np.sqrt(((estimate - truth) ** 2).mean()) < 1.15 * np.sqrt((truth * (1 - truth)).mean() / PERMUTATIONS)
    assert abs((estimate - truth).mean()) < 0.01
    assert (marks[0:-2:2] == marks[2::2]).mean() < 0.01


def test_recall_and_precision_of_verified_pairs():
    documents = pairs(800, 2, vocabulary_of("made up"))
    marks, shingles, ends = signatures(scan([" ".join(words) for words in documents]), SETTINGS)
    sets = np.split(shingles, ends[:-1])
    candidates = candidate_pairs(bands(marks, np.zeros(len(ends), dtype=np.int64), np.arange(len(ends)), SETTINGS))
    couples = zip(candidates["first"].tolist(), candidates["second"].tolist(), strict=True)
    found = {couple for couple in couples if jaccard(sets[couple[0]], sets[couple[1]]) >= SETTINGS.threshold}
    truth = {(i, i + 1): exact(documents[i], documents[i + 1]) for i in range(0, len(documents), 2)}
    alike = [couple for couple, similarity in truth.items() if similarity > 0.85]
    assert len(alike) > 50 and np.mean([couple in found for couple in alike]) >= 0.95
    assert all(truth.get(couple, 0.0) >= SETTINGS.threshold for couple in found)


def test_sets_are_sorted_and_distinct_and_short_documents_have_no_signature():
    texts = ["a b c d e " * 10, "only four words here", "", " ".join(f"w{i}" for i in range(30))]
    marks, shingles, ends = signatures(scan(texts), SETTINGS)
    sets = np.split(shingles, ends[:-1])
    assert list(map(len, sets)) == [5, 0, 0, 26]
    assert all((np.diff(values) > 0).all() for values in sets)
    assert (marks[:3] == EMPTY).all() and (marks[3] != EMPTY).any()


def test_scripts_without_spaces_are_taken_by_runs_of_letters():
    texts = reference.udhr()
    if not texts:
        pytest.skip("../shared/data/udhr is not here")
    thai = texts["th"][:3000]
    changed = thai[:1500] + "กขค" + thai[1500:]
    marks, shingles, ends = signatures(scan([thai, changed]), SETTINGS)
    letters = [words_of(text) for text in (thai, changed)]
    assert jaccard(*np.split(shingles, ends[:-1])) == pytest.approx(exact(*letters, n=SETTINGS.shingle_letters))
    assert (marks[0] == marks[1]).mean() > 0.9


def test_a_document_has_the_same_signature_in_any_batch():
    documents = [" ".join(words) for words in pairs(20, 3, vocabulary_of("made up"))]
    whole, shingles, ends = signatures(scan(documents), SETTINGS)
    sets = np.split(shingles, ends[:-1])
    for place in (0, 7, 39):
        alone, values, _ = signatures(scan([documents[place]]), SETTINGS)
        assert alone[0].tolist() == whole[place].tolist() and values.tolist() == sets[place].tolist()
