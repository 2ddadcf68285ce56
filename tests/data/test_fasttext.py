"""Models in fastText's format: probabilities equal those of the original tool, and files that are none are refused.

`fasttext/hs.bin` and `softmax.bin` were trained with fastText 0.9.2 on eight sentences in three languages
(dimension 4, 64 buckets, characters 2-3 and 1-2, word pairs in the second); the figures below are what it predicted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from curating import collected, curated

from puna.core.errors import InputError
from puna.data import facts
from puna.data.columns import read_shard_table
from puna.data.fasttext import huffman, load_fasttext
from puna.data.language import UNKNOWN, identify_batch

MODELS = Path(__file__).parent / "fasttext"
TEXTS = ["the river and the bridge", "der Fluss und die Brücke", "ริมแม่น้ำ สะพาน", "unseen wörds ok", "", "a"]
PREDICTED = {
    "hs": {
        "en": [0.98478, 0.10274, 0.07400, 0.09369, 0.00630, 0.30573],
        "de": [0.00375, 0.88048, 0.02605, 0.10756, 0.00874, 0.68677],
        "th": [0.01150, 0.01681, 0.89999, 0.79879, 0.98500, 0.00752],
    },
    "softmax": {
        "en": [0.98047, 0.03773, 0.03082, 0.10053, 0.00054, 0.37145],
        "de": [0.01877, 0.96079, 0.00041, 0.21387, 0.00355, 0.12368],
        "th": [0.00079, 0.00151, 0.96880, 0.68563, 0.99594, 0.50490],
    },
}


@pytest.mark.parametrize("name", ["hs", "softmax"])
def test_probabilities_equal_those_of_the_original_tool(name):
    model = load_fasttext(MODELS / f"{name}.bin")
    assert sorted(model.labels) == ["de", "en", "th"]
    scores = model.score_batch(pa.array(TEXTS))
    for column, label in enumerate(model.labels):
        # it rounds with a table of 512 logistic values while it trains, and adds 1e-5 where it reports
        assert scores[:, column] == pytest.approx(PREDICTED[name][label], abs=3e-5)
    two_lines = pa.array([TEXTS[0].replace(" and", "\n and")])
    assert model.score_batch(two_lines)[0] == pytest.approx(scores[0], abs=1e-6)


def test_it_can_identify_languages():
    codes, chances = identify_batch(
        pa.array(["the old mill stands by the river, x = f(y)", "34 + 5 = 39", None]), MODELS / "softmax.bin"
    )
    assert codes == ["en", UNKNOWN, UNKNOWN] and chances[0] > 0.9 and chances[1:].tolist() == [0, 0]


def test_curation_takes_a_model_by_path_and_its_content_counts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "the old mill stands by the river and grinds flour"}\n')
    collected(tmp_path / "pages", sources=[str(tmp_path / "a.jsonl")])
    loose = {"min_words": 1, "min_stop_words": None}
    curated(tmp_path / "pages", tmp_path / "docs", workers=1, general=loose, language_model=str(MODELS / "softmax.bin"))
    (row,) = read_shard_table(tmp_path / "docs.facts" / "facts" / "00000.parquet", ["lang", "lang_p"])
    assert row["lang"] == "en" and row["lang_p"] == pytest.approx(
        float(identify_batch(pa.array(["the old mill stands by the river and grinds flour"]), MODELS / "softmax.bin")[1][0])
    )
    digests = [facts.outside(facts.Settings(language_model=str(MODELS / f"{name}.bin"))) for name in PREDICTED]
    assert digests[0] != digests[1] and facts.outside(facts.Settings()) == {}
    with pytest.raises(InputError, match="cannot be read"):
        facts.outside(facts.Settings(language_model=str(tmp_path / "none.bin")))


def test_the_tree_gives_short_codes_to_frequent_labels():
    parents, rights = huffman(np.array([50, 20, 10, 5]))
    depths = []
    for label in range(4):
        node, depth = label, 0
        while parents[node] >= 0:
            node, depth = parents[node], depth + 1
        depths.append(depth)
    assert depths == [1, 2, 3, 3] and parents[-1] == -1 and rights.sum() == 3


@pytest.mark.parametrize("change", [lambda data: b"", lambda data: data[:-5], lambda data: b"\0" * 4 + data[4:],
                                    lambda data: data[:36] + b"\1\0\0\0" + data[40:], lambda data: data[:200]])  # fmt: skip
def test_other_files_are_refused(tmp_path, change):
    path = tmp_path / "model.bin"
    path.write_bytes(change((MODELS / "hs.bin").read_bytes()))
    with pytest.raises(InputError, match="no fastText classifier"):
        load_fasttext(path)
