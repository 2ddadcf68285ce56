"""Ranks and sampled kinds over shards: the same whatever the shards, among kept documents only, and named errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from puna.core.errors import InputError
from puna.data.quality import KeepSettings, quality_rank
from puna.data.ranks import rank_documents, read_ranks

RNG = np.random.default_rng(8)
N = 300
LANGS = RNG.choice(["en", "hi"], N).tolist()
SCORES = RNG.random(N)
ARTS = RNG.random(N) < 0.7
CODES = (RNG.random(N) < 0.2).astype(np.int8) * 5
SCORES[CODES > 0] = np.nan  # dropped before they were scored
KEEP = KeepSettings(rank_by="good.yes", keep_share={"en": 0.5}, kinds="kind", max_share={"arts": 0.25})


def run(folder: Path, cuts: list[int], keep: KeepSettings = KEEP) -> tuple[np.ndarray, ...]:
    folder.mkdir()
    bounds = {f"{start:05d}.parquet": (start, end) for start, end in zip([0, *cuts], [*cuts, N], strict=True)}
    arts = np.where(CODES > 0, np.nan, ARTS.astype(float))
    columns = {"score.good.yes": SCORES, "score.kind.arts": arts, "score.kind.other": 1 - arts}

    def decided(name: str):
        start, end = bounds[name]
        facts = pa.table({"id": [f"d{i}" for i in range(start, end)], "lang": LANGS[start:end]})
        return (
            facts,
            pa.table({key: pa.array(column[start:end], from_pandas=True) for key, column in columns.items()}),
            CODES[start:end],
        )

    rank_documents(list(bounds), decided, keep, folder)
    return tuple(map(np.concatenate, zip(*(read_ranks(folder, name) for name in bounds), strict=True)))


def test_ranks_do_not_depend_on_the_shards(tmp_path):
    whole, parts = run(tmp_path / "one", []), run(tmp_path / "many", [10, 11, 150])
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(whole, parts, strict=True))


def test_shares_hold_among_what_other_rules_keep(tmp_path):
    rank, below, surplus = run(tmp_path / "a", [100])
    left = CODES == 0
    assert np.isnan(rank[~left]).all() and not below[~left].any() and not surplus[~left].any()
    english = left & (np.array(LANGS) == "en")
    assert below[english].sum() == english.sum() // 2
    assert not below[left & ~english].any() and not (below & surplus).any()
    kept = left & ~below & ~surplus
    assert (kept & ARTS).sum() == int(0.25 / 0.75 * (kept & ~ARTS).sum())
    assert np.array_equal(rank, quality_rank(SCORES, LANGS), equal_nan=True)


def test_without_settings_nothing_is_taken(tmp_path):
    rank, below, surplus = run(tmp_path / "a", [], KeepSettings())
    assert np.isnan(rank).all() and not below.any() and not surplus.any()


@pytest.mark.parametrize(("keep", "told"), [
    (KeepSettings(rank_by="bad.yes"), "score 'bad.yes'"),
    (KeepSettings(kinds="none"), "score 'none'"),
    (KeepSettings(kinds="kind", max_share={"sport": 0.1}), "no kind of the classifier: sport"),
])  # fmt: skip
def test_names_that_are_not_there_are_refused(tmp_path, keep, told):
    with pytest.raises(InputError, match=told):
        run(tmp_path / "a", [], keep)
