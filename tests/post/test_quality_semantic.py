"""Vectors and semantic de-duplication against all pairs compared, and against a plain greedy choice."""

from __future__ import annotations

import numpy as np
import pytest
from post_toys import toy_model, toy_tokenizer
from test_quality_rules import dialog

from puna.post.quality.embed import HashedEmbedder, ModelEmbedder, write_embeddings
from puna.post.quality.semantic import SemanticSettings, deduplicate


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def planted(rows: int, copies: int, noise: float = 0.02) -> np.ndarray:
    """Random unit vectors of 32 dimensions around 12 centres; the last `copies` are near the first ones."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 32))
    found = centres[rng.integers(0, 12, rows)] + rng.standard_normal((rows, 32))
    near = found[:copies] + noise * rng.standard_normal((copies, 32))
    return unit(np.concatenate([found, near]))


def greedy(vectors: np.ndarray, worth: np.ndarray, limit: float) -> np.ndarray:
    """Which rows a plain greedy choice over all pairs keeps."""
    kept: list[int] = []
    exact = vectors.astype(np.float32)
    for row in sorted(range(len(exact)), key=lambda i: (-worth[i], i)):
        if not kept or (exact[kept] @ exact[row]).max() < limit:
            kept.append(row)
    return np.isin(np.arange(len(exact)), kept)


def test_in_one_cluster_the_choice_is_that_of_all_pairs():
    vectors = planted(1500, 200)
    worth = np.random.default_rng(1).integers(0, 4, len(vectors)).astype(float)
    found = deduplicate(vectors, worth, SemanticSettings(similarity=0.8, rows_per_cluster=5000), 0)
    kept = greedy(vectors, worth, 0.8)
    assert ((found.of < 0) == kept).all() and 100 < (~kept).sum() < 1200
    assert found.missed == {"sampled": 500, "missed": 0} and found.clusters == 1
    left = np.flatnonzero(found.of >= 0)
    exact = vectors.astype(np.float32)
    similarity = (exact[left] * exact[found.of[left]]).sum(1)
    assert similarity == pytest.approx(found.similarity[left], abs=1e-5) and (similarity >= 0.8).all()
    assert (worth[found.of[left]] >= worth[left]).all()


def test_clusters_find_planted_copies_and_what_they_miss_is_measured():
    vectors = planted(4000, 600)
    found = deduplicate(vectors, np.ones(len(vectors)), SemanticSettings(similarity=0.95, rows_per_cluster=200), 0)
    assert found.clusters > 15
    assert (found.of[4000:] == np.arange(600)).mean() > 0.98  # of equal worth the earlier stays
    assert (found.of[:4000] < 0).mean() > 0.99
    once = SemanticSettings(similarity=0.6, rows_per_cluster=100, nearest=1)
    more = once.model_copy(update={"nearest": 3})
    missed = [deduplicate(vectors, np.ones(len(vectors)), settings, 0).missed["missed"] for settings in (once, more)]
    assert missed[0] > missed[1]


def test_only_the_rows_among_are_compared_and_numbers_count_from_them():
    vectors = unit(np.array([[1, 0], [1, 0.01], [0, 1], [1, 0.02]], dtype=float))
    found = deduplicate(vectors, np.array([1.0, 2, 3, 4]), SemanticSettings(), 0, np.array([0, 2, 3]))
    assert found.of.tolist() == [2, -1, -1]
    empty = deduplicate(vectors, np.ones(4), SemanticSettings(), 0, np.zeros(0, dtype=np.int64))
    assert len(empty.of) == 0 and empty.missed == {"sampled": 0, "missed": 0}


TEXTS = [
    ("Ana has 5 pen, buys 3 and gives 2. How many now?", "5+3=8. 8-2=6. Answer: 6"),
    ("Ana has 5 cup, buys 3 and gives 2. How many now?", "5+3=8. 8-2=6. Answer: 6"),
    ("Leo has 9 pen, buys 1 and gives 4. How many now?", "9+1=10. 10-4=6. Answer: 6"),
    ("Write backwards: a b d.", "Answer: d b a"),
    ("Write backwards: c f g.", "Answer: g f c"),
]


def test_hashed_vectors_tell_one_changed_word_from_another_exercise(tmp_path):
    rows = [dialog(*texts) for texts in TEXTS] + [dialog("Say in Deutsch: house.", f"Haus {i}") for i in range(40)]
    embedder = HashedEmbedder(256, 0)
    embedder.learn(rows)
    write_embeddings(tmp_path / "v.npy", embedder, [rows[:7], rows[7:]], len(rows))
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.dtype == np.float16 and np.linalg.norm(vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=2e-3)
    similar = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    assert similar[0, 1] > 0.75 and similar[0, 2] < 0.6 and similar[3, 4] < 0.7 and abs(similar[0, 3]) < 0.3
    write_embeddings(tmp_path / "w.npy", embedder, [rows], len(rows))
    assert np.load(tmp_path / "w.npy") == pytest.approx(vectors, abs=1e-3)  # parts do not matter


def test_a_model_s_vector_is_the_mean_of_its_hidden_states_alone_or_in_company():
    model, tokenizer = toy_model(), toy_tokenizer()
    embedder = ModelEmbedder(model, tokenizer)
    rows = [dialog(*texts) for texts in (("a", "b"), ("longer question", "longer answer"), ("y" * 300, "z"))]
    together = embedder.vectors(rows)
    for i, row in enumerate(rows):
        assert embedder.vectors([row])[0].numpy() == pytest.approx(together[i].detach().numpy(), abs=1e-5)
    assert together.shape == (3, model.config.dim)
