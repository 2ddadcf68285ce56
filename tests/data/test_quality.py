"""Ranks within a language and sampling down: against direct counting, ties, order and impossible shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.data.quality import allowed_counts, document_keys, keep_best, quality_rank, sample_down


def test_ranks_are_within_a_language_and_ties_share_their_mean():
    scores = np.array([0.1, 0.9, 0.5, 0.5, np.nan, 7.0, 3.0])
    langs = ["en", "en", "en", "en", "en", "hi", "hi"]
    ranks = quality_rank(scores, langs)
    assert ranks.dtype == np.float32
    assert ranks[[0, 1, 2, 3, 5, 6]].tolist() == [0.25, 1.0, 0.625, 0.625, 1.0, 0.5] and np.isnan(ranks[4])


@given(st.lists(st.tuples(st.sampled_from(["en", "de", "th"]), st.floats(0, 1)), max_size=60))
def test_ranks_equal_their_definition(rows):
    scores, langs = np.array([score for _, score in rows]), [lang for lang, _ in rows]
    for rank, lang, score in zip(quality_rank(scores, langs).tolist(), langs, scores, strict=True):
        own = scores[[other == lang for other in langs]]
        assert rank == pytest.approx(((own < score).sum() + ((own == score).sum() + 1) / 2) / len(own), abs=1e-6)


def test_the_best_share_of_each_language_is_kept():
    langs = ["en"] * 100 + ["hi"] * 50 + ["th"] * 10
    scores = np.random.default_rng(1).random(160)
    scores[159] = np.nan
    kept = keep_best(quality_rank(scores, langs), langs, {"en": 0.2, "hi": 0.5, "*": 1.0})
    assert [int(kept[:100].sum()), int(kept[100:150].sum()), int(kept[150:].sum())] == [20, 25, 10]
    assert scores[:100][kept[:100]].min() > scores[:100][~kept[:100]].max()
    assert keep_best(quality_rank(scores, langs), langs, {}).all()


@settings(max_examples=300)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=6), st.data())
def test_allowed_counts_fulfil_the_shares_and_take_no_more_than_needed(counts, data):
    shares = np.array(data.draw(st.lists(st.sampled_from([0.05, 0.2, 0.5, 1.0]), min_size=len(counts), max_size=len(counts))))
    found = allowed_counts(np.array(counts), shares)
    assert (found <= counts).all() and (found >= 0).all()
    assert (found <= shares * (found.sum() + len(counts)) + 1e-6).all()  # rounding down takes less than one of each kind
    if (np.array(counts) <= shares * sum(counts)).all():
        assert found.tolist() == counts


def test_sampling_down_is_by_id_and_leaves_the_rest():
    kinds = np.array([0] * 800 + [1] * 100 + [2] * 100 + [-1] * 50)
    keys = document_keys([f"d{i}" for i in range(1050)])
    stays = sample_down(kinds, keys, [0.2, 1.0, 1.0])
    assert [int(stays[kinds == kind].sum()) for kind in (0, 1, 2, -1)] == [50, 100, 100, 50]
    order = np.random.default_rng(3).permutation(1050)
    assert np.array_equal(sample_down(kinds[order], keys[order], [0.2, 1.0, 1.0]), stays[order])
    assert not sample_down(np.array([0, 0, 1]), keys[:3], [0.1, 0.1]).any()
