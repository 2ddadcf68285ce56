"""Claims over several base models: the interval of a crossed design, the names of copies, what is missing."""

import json

import numpy as np
import pytest

from puna.core.errors import InputError
from puna.core.intervals import student95
from puna.core.stage import Artifact, local_context
from puna.evals import seeds
from puna.evals.one import ITEMS_FILE, write_items


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (10, 2.22814), (1000, 1.96234)])
def test_quantiles_of_student(degrees, quantile):
    assert student95(degrees) == pytest.approx(quantile, rel=1e-4)


def drawn(rng, n, k, mean=0.1, item=0.2, seed=0.05, rest=0.3):
    cells = mean + item * rng.normal(size=(n, 1)) + seed * rng.normal(size=(1, k)) + rest * rng.normal(size=(n, k))
    return [{str(i): float(cells[i, j]) for i in range(n)} for j in range(k)]


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [seeds.crossed(drawn(rng, 60, 3)) for _ in range(400)]
    covered = np.mean([one["low"] <= 0.1 <= one["high"] for one in found])
    assert 0.92 <= covered <= 0.995


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(2)
    apart = drawn(rng, 400, 3, item=0.0, seed=0.2, rest=0.1)
    of_seed = [np.mean(list(one.values())) for one in apart]
    test = seeds.crossed(apart)
    assert test["high"] - test["difference"] == pytest.approx(4.303 * np.std(of_seed, ddof=1) / 3**0.5, rel=0.02)


def test_seeds_that_agree_leave_the_noise_of_items():
    rng = np.random.default_rng(1)
    same = drawn(rng, 400, 1, seed=0.0, rest=0.0)[0]
    test = seeds.crossed([same, same, same])
    half = 1.96 * np.std(list(same.values()), ddof=1) / 20
    assert test["high"] - test["difference"] == pytest.approx(half, rel=0.02)
    assert test["each"][0] == test["each"][2] == test["difference"]


def test_items_that_not_all_seeds_have_do_not_count():
    test = seeds.crossed([{"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 1.0, "b": 0.0}])
    assert (test["n"], test["difference"], test["each"]) == (2, 0.5, [0.5, 0.5])
    assert seeds.crossed([{"a": 1.0}, {"b": 1.0}])["low"] == -1.0


def scored(tmp_path, name, prefix, passes, families="ffff", about=None):
    directory = tmp_path / name
    directory.mkdir()
    rows = [
        {"task_id": str(i), "model": prefix + model, "family": families[i], "capability": "c", "lang": "en", "text": "",
         "passed": p == "1", "finished": True}
        for model, text in passes.items()
        for i, p in enumerate(text)
    ]  # fmt: skip
    write_items(rows, directory / ITEMS_FILE)
    comparison = {"name": "chat against base", "better": f"{prefix}chat", "control": f"{prefix}base"} | (about or {})
    (directory / "scores.json").write_text(json.dumps({"comparisons": [comparison]}))
    return Artifact(name=name, kind="scores", path=directory, digest=name)


def rewarded(tmp_path, name, gains):
    (tmp_path / name).mkdir()
    (tmp_path / name / seeds.GAINS_FILE).write_text(json.dumps(gains))
    return Artifact(name=name, kind="reward", path=tmp_path / name, digest=name)


def run(tmp_path, artifacts, **settings):
    context = local_context(tmp_path / "out", inputs=artifacts)
    summary = seeds.run(seeds.Settings(**settings), context)
    assert json.loads((context.out / "seeds.json").read_text())["comparisons"] == json.loads(json.dumps(summary["comparisons"]))
    return {test["name"]: test for test in summary["comparisons"]}


def test_claims_are_pooled_by_the_names_of_the_first_seed(tmp_path):
    first = scored(tmp_path, "scores", "", {"chat": "1110", "base": "0010", "other": "0000"})
    second = scored(tmp_path, "b-scores", "b-", {"chat": "1010", "base": "0000", "other": "1010"})
    rewards = [
        rewarded(tmp_path, "chat.reward", {"x": 0.5, "y": 0.0}),
        rewarded(tmp_path, "b-chat.reward", {"x": 0.25, "y": 0.25}),
    ]
    mean = {"name": "chat against both", "better": "chat", "control": ["base", "other"]}
    tests = run(tmp_path, [first, second, *rewards], compare=[mean])
    assert tests["chat against base"]["each"] == [0.5, 0.5] and tests["chat against base"]["n"] == 4
    assert tests["chat against both"]["each"] == [0.625, 0.25]
    assert tests["best of n by chat.reward against a random one"]["each"] == [0.25, 0.25]


def test_a_claim_about_a_family_counts_its_items_alone(tmp_path):
    names = (("scores", ""), ("b-scores", "b-"))
    passes = {"chat": "1100", "base": "0011"}
    artifacts = [scored(tmp_path, name, prefix, passes, "ffgg", {"family": "g"}) for name, prefix in names]
    tests = run(tmp_path, artifacts, compare=[{"name": "f", "better": "chat", "control": "base", "family": "f"}])
    assert (tests["chat against base"]["difference"], tests["chat against base"]["n"]) == (-1.0, 2)
    assert (tests["f"]["difference"], tests["f"]["n"]) == (1.0, 2)


def test_what_is_missing_is_named(tmp_path):
    first = scored(tmp_path, "scores", "", {"chat": "11", "base": "00"})
    with pytest.raises(InputError, match="one seed shows nothing"):
        run(tmp_path, [first])
    other = scored(tmp_path, "b-scores", "b-", {"chat": "11"})
    with pytest.raises(InputError, match="'b-base' was not scored"):
        run(tmp_path, [first, other])
    with pytest.raises(InputError, match="'scores' is no copy of 'b-scores'"):
        run(tmp_path, [other, first])


def test_answers_with_a_score_count_by_it(tmp_path):
    artifacts = []
    for prefix, right in (("", 0.9), ("b-", 0.7)):
        artifact = scored(tmp_path, f"{prefix}scores", prefix, {"chat": "0000", "base": "0000"})
        rows = [
            {"task_id": str(i), "model": prefix + model, "family": "f", "capability": "c", "lang": "en", "text": "",
             "passed": False, "finished": True, "score": right if model == "chat" else 0.5}
            for model in ("chat", "base")
            for i in range(4)
        ]  # fmt: skip
        write_items(rows, artifact.path / ITEMS_FILE)
        artifacts.append(artifact)
    test = run(tmp_path, artifacts)["chat against base"]
    assert test["difference"] == pytest.approx(0.3) and test["each"] == pytest.approx([0.4, 0.2])
