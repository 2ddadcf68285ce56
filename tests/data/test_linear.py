"""The linear classifier: features against a slow reference, scores against plain numpy, files, determinism and real texts."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import InputError
from puna.data.kernels.linear import FNV_BASIS, FNV_PRIME, PAIR, SPREAD, features, room
from puna.data.linear import LinearSettings, load_linear, train_linear
from puna.data.words import utf8_of

DATA = Path(__file__).parents[2].parent / "shared" / "data"
MASK = (1 << 64) - 1
SMALL = LinearSettings(buckets_log2=12)


def fnv(data: bytes) -> int:
    state = int(FNV_BASIS)
    for byte in data:
        state = (state ^ byte) * int(FNV_PRIME) & MASK
    return state


def bucket(state: int) -> int:
    return ((state ^ state >> 32) * int(SPREAD) & MASK) >> 52


def slow_features(text: str, least: int, most: int) -> Counter:
    """Definition: fold ASCII and digits, cut into words, numbers and signs, list words, pairs and marked n-grams."""
    folded = re.sub("[0-9]", "0", "".join(c.lower() if c.isascii() else c for c in text))
    words = re.findall(r"[a-z\x80-\U0010ffff]+|0+|[^\x00-\x20\x7f]", folded)
    found, before = [], int(FNV_BASIS)
    for word in words:
        state = fnv(word.encode())
        found += [state * int(PAIR) & MASK, before * int(SPREAD) + state * int(PAIR) & MASK]
        before = state
        if word[0] not in "0" and (word[0].isalpha() or ord(word[0]) > 127):
            marked = "\x02" + word + "\x03"
            found += [
                fnv(marked[i : i + n].encode())
                for i in range(len(marked))
                for n in range(least, most + 1)
                if i + n <= len(marked) and (n > 1 or marked[i] not in "\x02\x03")
            ]
    return Counter(map(bucket, found))


def kernel_features(text: str, least: int, most: int) -> Counter:
    data, ends = utf8_of(pa.array([text]))
    out = np.empty(room(int(ends[1]), least, most), dtype=np.uint32)
    return Counter(out[: features(data, 0, ends[1], True, least, most, np.uint64(52), out)].tolist())


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.sampled_from([(3, 5), (1, 4), (2, 2)]))
def test_features_equal_their_definition(text, sizes):
    assert kernel_features(text, *sizes) == slow_features(text, *sizes)


def toy() -> tuple[pa.Array, np.ndarray]:
    rng = np.random.default_rng(3)
    words = [["river", "hill", "sheep", "mill", "snow"], ["loop", "index", "array", "stack", "byte"], ["sum", "angle", "proof"]]
    labels = rng.integers(0, 3, 300)
    return pa.array([" ".join(rng.choice(words[k] + ["the", "and"], 12)) for k in labels]), labels


def test_scores_equal_the_mean_of_weights():
    texts, labels = toy()
    model = train_linear(texts, labels, ["a", "b", "c"], SMALL)
    scores = model.score_batch(texts[:20])
    assert scores.dtype == np.float32 and scores.shape == (20, 3)
    for text, row in zip(texts[:20].to_pylist(), scores, strict=True):
        found = slow_features(text, 3, 5)
        mean = sum(model.weights[k].astype(float) * count for k, count in found.items()) / sum(found.values())
        expected = np.exp(mean + model.bias - np.max(mean + model.bias))
        assert row == pytest.approx(expected / expected.sum(), abs=2e-5)


def test_training_is_repeatable_and_the_seed_counts():
    texts, labels = toy()
    first, again, other = (train_linear(texts, labels, ["a", "b", "c"], SMALL, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.weights, again.weights) and not np.array_equal(first.weights, other.weights)
    assert first.about["losses"] == sorted(first.about["losses"], reverse=True)


def test_a_saved_model_scores_the_same_and_a_broken_one_is_refused(tmp_path):
    texts, labels = toy()
    model = train_linear(texts, labels, ["a", "b", "c"], SMALL)
    model.save(tmp_path)
    loaded = load_linear(tmp_path)
    assert loaded.classes == ["a", "b", "c"] and loaded.about == model.about
    assert np.array_equal(loaded.score_batch(texts), model.score_batch(texts))
    meta = json.loads((tmp_path / "linear.json").read_text())
    (tmp_path / "linear.json").write_text(json.dumps(meta | {"classes": ["a", "b"]}))
    with pytest.raises(InputError, match="no classifier"):
        load_linear(tmp_path)
    (tmp_path / "linear.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="no classifier"):
        load_linear(tmp_path)


def test_every_arrow_form_of_the_same_texts_scores_the_same():
    texts, labels = toy()
    model = train_linear(texts, labels, ["a", "b", "c"], SMALL)
    whole = model.score_batch(texts)
    assert np.array_equal(model.score_batch(texts[7:40]), whole[7:40])
    assert np.array_equal(model.score_batch(texts.cast(pa.large_string())), whole)
    assert np.array_equal(model.score_batch(pa.chunked_array([texts[:9], texts[9:]])), whole)
    shares = np.exp(model.bias) / np.exp(model.bias).sum()
    for empty in model.score_batch(pa.array([None, "", " \n"], pa.string())):
        assert empty == pytest.approx(shares, abs=1e-6)
    assert model.score_batch(pa.array([], pa.string())).shape == (0, 3)


def test_only_the_beginning_of_a_long_text_counts():
    texts, labels = toy()
    model = train_linear(texts, labels, ["a", "b", "c"], LinearSettings(buckets_log2=12, max_bytes=40))
    assert np.array_equal(model.score_batch(pa.array(["river hill " * 4])), model.score_batch(pa.array(["river hill " * 900])))


def test_labels_that_cannot_be_learned_are_refused():
    with pytest.raises(InputError, match="two classes"):
        train_linear(pa.array(["x", "y"]), np.array([0, 0]), ["a", "b"], SMALL)
    with pytest.raises(ValueError, match="least_chars"):
        LinearSettings(least_chars=5, most_chars=3)


@pytest.mark.skipif(not DATA.exists(), reason="the real sample files are not at ../shared/data")
def test_kinds_of_knowledge_and_refusals_on_held_out_real_texts():
    rows = [(json.loads(line)["answer"], 0) for line in (DATA / "gsm8k" / "train.jsonl").open()][:400]
    rows += [(json.loads(line)["code"], 1) for line in (DATA / "mbpp" / "mbpp_601_974.jsonl").open()]
    rows += [(json.loads(line)["response"], 2) for line in (DATA / "instr_mix" / "dolly_hhrlhf_train_small.jsonl").open()][:400]
    assert held_out_accuracy(rows, 3) >= 0.97
    completions = DATA / "safety_xstest" / "completions" / "xstest_v2_completions_llama2orig.csv"
    kinds = [(row["completion"], int(row["final_label"].startswith("1"))) for row in csv.DictReader(completions.open())]
    assert held_out_accuracy(kinds, 2) >= 0.8


def held_out_accuracy(rows: list[tuple[str, int]], classes: int) -> float:
    order = np.random.default_rng(0).permutation(len(rows))
    texts, labels = pa.array([rows[i][0] for i in order]), np.array([rows[i][1] for i in order])
    cut = len(rows) * 3 // 4
    model = train_linear(texts[:cut], labels[:cut], [str(k) for k in range(classes)], LinearSettings())
    return float((model.score_batch(texts[cut:]).argmax(axis=1) == labels[cut:]).mean())
