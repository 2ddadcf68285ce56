"""Divergence from the corpus: against the formula, whatever the batches, and planted outliers among real texts."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from puna.data.kl import ALL, BUCKETS_LOG2, KlLimits, add_counts, count_words, distribution
from puna.data.usual_words import JUDGED, usual_by_length
from puna.data.words import scan, words_of

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TEXTS = ["the cat sat on the mat and the dog sat too", "a dog and a cat", "the mat", "der Hund und die Katze", ""]
LANGS = ["en", "en", "en", "de", "en"]
ANY = KlLimits(min_language_words=1)


def test_divergence_equals_the_formula():
    words = scan(TEXTS)
    kl = distribution(count_words(words, LANGS), ANY).divergence(words, LANGS)
    for text, lang, found in zip(TEXTS, LANGS, kl.tolist(), strict=True):
        corpus = Counter(word for other, of in zip(TEXTS, LANGS, strict=True) if of == lang for word in words_of(other))
        own = Counter(words_of(text))
        rest, total, count = corpus - own, sum((corpus - own).values()) + len(corpus) + 1, sum(own.values())
        expected = sum(n / count * math.log((n / count) / ((rest[word] + 1) / total)) for word, n in own.items())
        assert (math.isnan(found) and not text) or found == pytest.approx(expected, rel=1e-5)


def test_counts_add_up_over_batches_and_small_languages_share_the_common_distribution():
    whole = count_words(scan(TEXTS), LANGS)
    parts = add_counts(count_words(scan(TEXTS[:2]), LANGS[:2]), count_words(scan(TEXTS[2:]), LANGS[2:]))
    assert all(np.array_equal(whole[lang], parts[lang]) for lang in ("de", "en")) and set(whole) == set(parts)
    assert whole["en"].shape == (1 << BUCKETS_LOG2,) and whole["en"].sum() == 18
    assert distribution(whole, KlLimits(min_language_words=10)).langs == (ALL, "en")
    few = distribution(whole, KlLimits(min_language_words=99))
    words = scan(TEXTS)
    assert np.array_equal(few.divergence(words, LANGS), few.divergence(words, ["xx"] * 5), equal_nan=True)


def judged(kl: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(kl), dtype=JUDGED)
    rows["kl"], rows["words"] = kl, lengths
    return usual_by_length(rows).deviations(kl, lengths)


def test_deviations_compare_with_documents_of_the_same_length():
    rng = np.random.default_rng(2)
    lengths = rng.integers(20, 2000, 1000)
    kl = (8 - np.log(lengths) + rng.normal(0, 0.2, 1000)).astype(np.float32)
    longest = int(np.argmax(lengths))
    kl[longest] += 3  # still below many short ones
    found = judged(kl, lengths)
    assert np.argmax(found) == longest and found[longest] > 6 and kl[longest] < kl.max()


@pytest.mark.skipif(not DATA.exists(), reason="the real sample files are not at ../shared/data")
def test_planted_gibberish_foreign_and_log_documents_are_the_outliers():
    plays = (DATA / "text_en" / "tinyshakespeare.txt").read_text()
    texts = [plays[start : start + 1000] for start in range(0, len(plays), 1000)]
    rng = random.Random(4)
    gibberish = [" ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(120))]
    german = (DATA / "parallel_de_en" / "bible.de").read_text().split("\n")
    log = "\n".join(f"{i:02d}:{i} ERROR pid={i * 7919} 0x{i * 104729:x} rc={i}" for i in range(40))
    words = scan([*texts, *gibberish, " ".join(german[:6]), log])
    langs = ["en"] * len(words.ends)
    kl = distribution(count_words(words, langs), KlLimits()).divergence(words, langs)
    found = judged(kl, words.counts) > KlLimits().max_deviations
    assert found.nonzero()[0].tolist() == [len(texts), len(texts) + 1, len(texts) + 2]
