"""Mix studies: the law is recovered, rows and seeds are redrawn alike, and a whole study runs on a tiny corpus."""

import json

import numpy as np
import pytest
from study_corpus import SHAPE, make_tokens, run_stage, tokens_artifact

from puna.core.errors import InputError
from puna.core.graph import Source, build_graph
from puna.core.recipe import recipe_from_data
from puna.model.checkpoint import load_model
from puna.train.corpus import held_losses, open_corpus
from puna.train.studies import law, mix, ranking, trial
from puna.train.studies.rows import losses, read_rows, redrawn_losses, row_losses, simultaneous, training_noise

SIZES = [{"layers": 1, "dim": d, "heads": 2, "kv_heads": 1, "steps": s} for d, s in ((8, 12), (12, 20), (24, 30))]
STUDY = {
    "mixes": {"own": None, "codey": {"general": 0.1, "code": 0.9}, "plain": {"general": 1.0}},
    "sizes": SIZES, "target": {"layers": 2, "dim": 24, "heads": 2, "kv_heads": 1, "steps": 50},
    "batch_tokens": 128, "seq_len": 32, "held_rows": 12, "draws": 200, "seeds": 2, "optim": {"lr": 2e-2},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["saturating", "power"])
def test_a_law_without_noise_is_recovered_and_extrapolated(kind):
    flops = np.array([1e9, 4e9, 2e10, 1e11])
    floors = np.array([1.2, 1.5, 0.9]) if kind == "saturating" else np.zeros(3)
    truth = law.Law(floors, np.array([1.0, 0.7, 1.4]), np.full(3, 0.23), 1e10)
    found = law.fit(flops, truth.predict(flops), kind)
    assert found.predict(1e13) == pytest.approx(truth.predict(1e13), abs=0.01)
    assert found.exponent == pytest.approx([0.23] * 3, rel=0.02)
    assert found.predict(flops) == pytest.approx(truth.predict(flops), abs=2e-3)


def test_many_tables_at_once_are_fitted_as_one_by_one():
    flops = np.array([1e9, 3e9, 2e10])
    tables = 2 + np.random.default_rng(0).normal(0, 0.1, (5, 2, 3)) - np.array([0, 0.3, 0.7])
    for kind in ("saturating", "power"):
        together = law.fit(flops, tables, kind).predict(1e12)
        assert together == pytest.approx(np.stack([law.fit(flops, table, kind).predict(1e12) for table in tables]))
    assert (law.fit(flops, tables, "saturating").floor >= 0).all() and (law.fit(flops, tables, "saturating").scale >= 0).all()


def test_no_better_fit_hides_between_the_exponents():
    """A plain random search over floor, scale and exponent finds nothing better."""
    rng = np.random.default_rng(3)
    flops, table = np.array([1e9, 4e9, 2e10, 9e10]), np.array([[3.1, 2.6, 2.35, 2.2]])
    found = law.fit(flops, table, "saturating")
    error = ((found.predict(flops) - table) ** 2).sum()
    x = flops / found.unit
    for floor, scale, exponent in rng.uniform([0, 0, 0.01], [3, 3, 2], (20000, 3)):
        assert ((floor + scale * x**-exponent - table) ** 2).sum() > error - 1e-5


def test_rows_are_redrawn_alike_for_all_runs():
    rng = np.random.default_rng(1)
    base = np.stack([rng.uniform(50, 150, 40), rng.integers(20, 60, 40)], axis=1)
    worse = base + np.array([3.0, 0])
    runs, goal = [{"a": base, "b": base[:7]}, {"a": worse, "b": worse[:7]}], {"a": 0.25, "b": 0.75}
    point = losses(runs, goal)
    by_hand = 0.25 * base[:, 0].sum() / base[:, 1].sum() + 0.75 * base[:7, 0].sum() / base[:7, 1].sum()
    assert point[0] == pytest.approx(by_hand)
    draws = redrawn_losses(runs, goal, seed=5, draws=4000)
    assert draws.mean(axis=0) == pytest.approx(point, abs=0.05)
    change = draws[:, 1] - draws[:, 0]  # a constant per row: the rows' own spread cancels
    assert change.min() > 0 and change.std() < 0.1 * draws[:, 0].std()
    with pytest.raises(InputError, match="different held-out rows"):
        redrawn_losses([runs[0], {"a": base[:, [0, 0]], "b": base}], goal, 5, 100)


def test_noise_is_pooled_and_intervals_hold_together():
    rng = np.random.default_rng(2)
    cells = 3 + rng.normal(0, 0.2, (2000, 4, 3)) + rng.normal(0, 0.5, (2000, 1, 3)) + rng.normal(0, 9, (2000, 4, 1))
    noise = training_noise(cells)
    assert noise.own == pytest.approx(0.2, rel=0.05) and noise.shared == pytest.approx(0.5, rel=0.05)
    assert (noise.own_degrees, noise.shared_degrees) == (12000, 4000) and training_noise(np.ones((1, 5, 1))).own_degrees == 0
    added = noise.draws(20000, 2, 2, rng)
    assert (added[:, :, 0] - added[:, :, 1]).std() == pytest.approx(0.2 * np.sqrt(2 / 3), rel=0.05)
    assert added.std() == pytest.approx(np.sqrt((0.04 + 0.25) / 3), rel=0.05)
    assert not training_noise(np.ones((1, 5, 1))).draws(10, 1, 5, rng).any()
    missed = alone = 0
    for _ in range(300):
        truth = np.zeros(10)
        points = truth + rng.normal(0, 1, 10)
        low, high = simultaneous(points, points + rng.normal(0, 1, (400, 10)))
        missed += bool(((low > 0) | (high < 0)).any())
        alone += bool((np.abs(points) > 1.96).any())
    assert missed / 300 < 0.1 and alone / 300 > 0.3


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_tokens(tmp_path_factory.mktemp("mixes") / "tokens", documents=200)


def test_row_losses_add_up_to_the_held_out_loss(tmp_path, tokens):
    settings = {"study": "mixes", "model": SHAPE, "steps": 10, "batch_tokens": 256, "seq_len": 32, "held_rows": 12}
    made = run_stage(trial, tmp_path / "t", [tokens_artifact(tokens)], **settings)
    model, batches = load_model(made.path), open_corpus(tokens).held_batches(32, 12)
    rows = row_losses(model, batches)
    whole = held_losses(model, batches)
    for group in ("code", "general"):
        assert rows[group][:, 0].sum() / rows[group][:, 1].sum() == pytest.approx(whole[f"held_loss/{group}"], rel=1e-5)
        assert read_rows(made.path)[group] == pytest.approx(rows[group], rel=1e-6)
        assert len(rows[group]) == 12


def run_study(root, tokens, **settings):
    """Expand a study and run every sub-stage in order; returns the artifacts by name."""
    made = {"tokens": tokens_artifact(tokens)}
    merged = mix.Settings.model_validate({**STUDY, **settings})
    modules = {"train.studies.trial": trial, "train.studies.ranking": ranking, "train.studies.mix": mix}
    for name, entry in mix.expand("mixes", merged, [Source("tokens", "tokens")]).items():
        inputs = entry.pop("from")
        inputs = [made[n] for n in ([inputs] if isinstance(inputs, str) else inputs)]
        made[name] = run_stage(modules[entry.pop("uses")], root / name, inputs, name=name, **entry)
    return made


def test_a_whole_study(tmp_path, tokens):
    made = run_study(tmp_path, tokens)
    found = json.loads((made["mixes"].path / "mixes.json").read_text())
    assert len(made) == 1 + 3 * 3 * 2 + 1 + 2 + 1
    facts = json.loads((made["mixes.plain.s2-r1"].path / "trial.json").read_text())
    assert facts["epochs"] == {
        "general": pytest.approx(facts["tokens"] / len(open_corpus(tokens).train["general"].tokens), rel=1e-5)
    }
    assert found["order"][-1] == "plain" and found["mixes"]["own"]["weights"] == {"general": 0.5, "code": 0.5}
    assert next(row for row in found["against_control"] if row["mix"] == "plain")["verdict"] == "worse"
    assert found["seed_degrees"] == 6 and found["seed_noise"] > 0 and found["held_rows"] == {"code": 12, "general": 12}
    assert sum(m["best_in"] for m in found["mixes"].values()) == pytest.approx(1, abs=1e-3)
    target = {run["mix"]: run for run in found["target"]["runs"]}
    assert list(target) == found["check"] and "own" in target
    for run in target.values():
        assert run["low"] <= run["error"] <= run["high"] and run["flops"] == pytest.approx(found["target_flops"])
        assert run["error"] == pytest.approx(run["predicted"] - run["loss"], abs=1e-4)
    rows = read_rows(made["mixes.best"].path)
    assert found["target"]["runs"][0]["loss"] == pytest.approx(losses([rows], found["goal"])[0], rel=1e-5)
    notes = (made["mixes"].path / "volatile" / "notes.txt").read_text()
    assert notes.startswith(f"1. {found['order'][0]}: predicted") and "cover held-out rows and seeds" in notes


def test_arms_share_first_weights_and_differ_in_mix_only(tmp_path, tokens):
    settings = {"study": "mixes", "model": SHAPE, "steps": 1, "batch_tokens": 256, "seq_len": 32, "optim": {"lr": 0.0}}
    names = {"mixes.a.s1-r1": {}, "mixes.b.s1-r1": {"mix": {"code": 1.0}}, "mixes.a.s1-r2": {"replicate": 2}}
    given = [tokens_artifact(tokens)]
    made = [run_stage(trial, tmp_path / name, given, name=name, **settings, **more) for name, more in names.items()]
    weights = [(arm.path / "model.safetensors").read_bytes() for arm in made]
    assert weights[0] == weights[1] != weights[2]


def test_one_seed_says_what_it_does_not_cover_and_four_sizes_are_backtested(tmp_path, tokens):
    sizes = [*SIZES, {"layers": 2, "dim": 24, "heads": 2, "kv_heads": 1, "steps": 40}]
    made = run_study(tmp_path, tokens, seeds=1, sizes=sizes, train_target=False, mixes={"own": None, "plain": {"general": 1.0}})
    found = json.loads((made["mixes"].path / "mixes.json").read_text())
    assert found["seed_noise"] is None and "target" not in found and found["not_told_apart"] == []
    assert found["backtest"]["flops"] == max(found["ladder_flops"]) and found["backtest"]["largest_error"] < 0.5
    assert "held-out rows only (one seed)" in (made["mixes"].path / "volatile" / "notes.txt").read_text()


@pytest.mark.parametrize(
    ("change", "what"),
    [({"mixes": {"own": None}}, "at least two mixes"), ({"mixes": {"a.b": None, "c": None}}, "cannot name a mix"),
     ({"control": "x"}, "control must be one of"), ({"sizes": SIZES[:2]}, "needs at least 3 sizes")],
)  # fmt: skip
def test_mistaken_studies_are_named(change, what):
    with pytest.raises(ValueError, match=what):
        mix.Settings.model_validate({**STUDY, **change})


def test_a_recipe_becomes_independent_arms():
    data = {"name": "r", "stages": {
        "pages": {"uses": "data.collect", "sources": ["world"]}, "documents": {"uses": "data.curate", "from": "pages"},
        "tokenizer": {"uses": "tokenizer.train", "from": "documents"},
        "tokens": {"uses": "data.shards", "from": ["documents", "tokenizer"]},
        "mixes": {"uses": "train.studies.mix", "from": "tokens", **STUDY},
    }}  # fmt: skip
    graph = build_graph(recipe_from_data(data, "test"))
    arms = [node for name, node in graph.items() if node.uses == "train.studies.trial"]
    assert len(arms) == 20 and all(node.sources == ("tokens",) for node in arms if node.name[6:10] not in ("best", "othe"))
    assert graph["mixes.best"].sources == ("tokens", "mixes.ranking") and graph["mixes"].kind == "study"
    with pytest.raises(InputError, match="takes one stage that makes token shards"):
        mix.expand("m", mix.Settings.model_validate(STUDY), [Source("a", "model")])
