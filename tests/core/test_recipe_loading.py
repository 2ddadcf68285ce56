"""Recipes: values and their origins, overrides, extension, and what a mistake is answered with."""

from pathlib import Path

import pytest

from puna.core.errors import InputError
from puna.core.explain import config_rows
from puna.core.graph import build_graph
from puna.core.recipe import load_recipe, recipe_from_data
from puna.core.source import load_text, parse_value

BASE = """name: base
seed: 3
stages:
  pages: {uses: fake_write, lines: [a, b]}
  joined:
    uses: fake_join
    from: pages
    keep: 5
"""


def write(folder: Path, text: str, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def graph_of(path, *overrides):
    return build_graph(load_recipe(path, overrides))


def problem(action) -> InputError:
    with pytest.raises(InputError) as caught:
        action()
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("2e-4", 2e-4),
        ("1.", 1.0),
        (".5", 0.5),
        ("010", "010"),
        ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"),
        ("true", True),
        ("", None),
        ("~", None),
        ("-7", -7),
        ("1_000", 1000),
        ("[a, 1]", ["a", 1]),
        ("{a: 1e3}", {"a": 1000.0}),
        ("-", "-"),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text, value):
    got = parse_value(text) if text != "-" else parse_value("'-'")
    assert got == value and type(got) is type(value)


def test_every_value_knows_its_line():
    data, origins = load_text(BASE, "r.yaml")
    assert data["stages"]["joined"] == {"uses": "fake_join", "from": "pages", "keep": 5}
    assert origins[("stages", "joined", "keep")] == "r.yaml:8"
    assert origins[("stages", "pages", "lines", 1)] == "r.yaml:4"


def test_merge_keys_and_anchors_work():
    data, _ = load_text("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", "r.yaml")
    assert data["b"] == {"p": 1, "q": 3}


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("name: a\nstages: [", "not valid YAML", "r.yaml:2"),
        ("name: a\nname: b", "stands twice", "r.yaml:2"),
        ("name: !!python/object:os.system x", "", "r.yaml:1"),
        ("name: a\nsed: 3\nstages: {p: {uses: fake_write}}", "no setting 'sed'", "r.yaml:2"),
        ("name: a\nstages:\n  p: {from: x}", "does not say which stage file", "r.yaml:3"),
        ("name: a\nseed: many\nstages: {p: {uses: fake_write}}", "'seed' is 'many' and should be a valid integer", "r.yaml:2"),
        ("name: a", "has no stages", "r.yaml"),
        ("- a", "a recipe is a map", "r.yaml"),
        ("stages: {p: {uses: fake_write}}", "needs the setting 'name'", "r.yaml"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, monkeypatch, text, what, where):
    monkeypatch.chdir(tmp_path)
    error = problem(lambda: load_recipe(write(tmp_path, text).name))
    assert what in error.what and error.where.startswith(where)


@pytest.mark.parametrize(
    ("override", "what", "fix"),
    [
        ("joined.kep=3", "stage 'joined' has no setting 'kep'", "did you mean 'keep'?"),
        ("pages.model.layer=3", "stage 'pages' has no setting 'model.layer'", "did you mean 'layers'?"),
        ("joined.keep=[1]", "'keep' is [1] and should be a valid integer", None),
        ("jioned.keep=3", "'jioned' is no value of the recipe", "did you mean 'joined'?"),
        ("joined.uses=fake_joinn", "there is no stage file 'fake_joinn'", None),
        ("joined.uses=data.colect", "there is no stage file 'data.colect'", "did you mean 'data.collect'"),
        ("joined.from=page", "takes its input from 'page', which is no stage", "did you mean 'pages'?"),
        ("joined", "has the form key.path=value", None),
        ("pages.lines.7=c", "'7' is no position in a list of 2", None),
        ("seed.a=c", "'seed' is a single value", None),
        ("joined.uses=json", "'json' is no stage file", None),
    ],
)
def test_mistakes_are_answered(tmp_path, override, what, fix):
    error = problem(lambda: graph_of(write(tmp_path, BASE), override))
    assert what in error.what
    assert fix is None or fix in error.fix
    assert error.where


def test_overrides_take_any_yaml_value(tmp_path):
    graph = graph_of(
        write(tmp_path, BASE), "pages.lines=[x, y, z]", "stages.joined.keep=9", "pages.model={layers: 4}", "pages.lines.0=q"
    )
    assert graph["pages"].settings.lines == ["q", "y", "z"]
    assert graph["pages"].settings.model.layers == 4 and graph["joined"].settings.keep == 9


def test_extends_merges_deeply_and_keeps_origins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, BASE, "base.yaml")
    top = "extends: base.yaml\nname: top\nstages:\n  pages: {model: {dim: 64}}\n  joined:\n  last: {uses: fake_join, from: all}\n"
    recipe = load_recipe(write(tmp_path, top, "top.yaml").name, ["pages.lines=[z]"])
    assert recipe.name == "top" and recipe.seed == 3 and list(recipe.stages) == ["pages", "last"]
    rows = {row["key"]: row for row in config_rows(recipe, build_graph(recipe))}
    assert rows["stages.pages.model.dim"] == {"key": "stages.pages.model.dim", "value": 64, "origin": "top.yaml:4"}
    assert rows["stages.pages.model.layers"]["origin"] == "default"
    assert rows["seed"]["origin"] == "base.yaml:2" and rows["name"]["origin"] == "top.yaml:2"
    assert rows["stages.pages.lines"]["origin"] == "override pages.lines=[z]"
    assert rows["stages.pages.uses"]["origin"] == "base.yaml:4"


def test_extending_in_a_circle_is_refused(tmp_path):
    write(tmp_path, "extends: b.yaml\nname: a", "a.yaml")
    write(tmp_path, "extends: a.yaml\nname: b", "b.yaml")
    assert "in a circle" in problem(lambda: load_recipe(tmp_path / "a.yaml")).what


def test_python_recipe(tmp_path):
    write(
        tmp_path,
        "def herd():\n    return {'name': 'py', 'stages': {'p': {'uses': 'fake_write', 'lines': ['a'] * 3}}}\n",
        "mine.py",
    )
    recipe = load_recipe(f"{tmp_path}/mine.py:herd", ["seed=4"])
    assert recipe.seed == 4 and build_graph(recipe)["p"].settings.lines == ["a"] * 3
    assert recipe.origin("stages", "p", "lines").endswith("mine.py:herd()")
    assert "has no function 'flock'" in problem(lambda: load_recipe(f"{tmp_path}/mine.py:flock")).what


def test_unknown_recipe_is_refused():
    assert "no such recipe" in problem(lambda: load_recipe("nowhere.yaml")).what


def stages(**entries):
    return recipe_from_data({"name": "t", "stages": entries}, "test")


@pytest.mark.parametrize(
    ("uses", "settings", "what", "fix"),
    [
        ("evals.needle", {"n": {"128": 0}}, "'n.128' is 0 and should be a number greater than 0", None),
        ("train.long_context", {"stages": [2], "steps": [0]}, "'steps.0' is 0 and should be a number greater than 0", None),
        ("train.long_context", {"stages": [2], "steps": "many"}, "'steps' is 'many' and should be a valid integer", None),
        ("data.collect", {"sources": [{"world": {"pags": 3}}]}, "no setting 'sources.0.world.pags'", "did you mean 'pages'?"),
        ("data.collect", {"sources": [{"path": "x", "formt": 3}]}, "no setting 'sources.0.formt'", "did you mean 'format'?"),
        ("data.collect", {"sources": [{"path": 3}]}, "'sources.0.path' is 3 and should be a valid string", None),
        ("data.collect", {"sources": [1]}, "'sources.0' is 1 and should be a map", "give a map"),
        ("post.collect", {"sources": [{"world": {"gld": 3}}]}, "no setting 'sources.0.world.gld'", "did you mean 'gold'?"),
        ("train.pretrain", {"steps": 1, "mix": list(range(3000))}, "21... and should be a map", None),
        ("train.pretrain", {"steps": 1, "optim": {"betas": [0.9]}}, "'optim.betas' is [0.9] and is too short", "give 2 values"),
    ],
)
def test_a_wrong_value_is_named_where_it_stands_and_in_the_words_of_a_recipe(uses, settings, what, fix):
    error = problem(lambda: build_graph(stages(s={"uses": uses, **settings})))
    assert what in error.what and len(error.what) < 160, error.what
    assert fix is None or error.fix == fix


def test_order_follows_inputs_and_all_means_everything_else():
    recipe = stages(
        report={"uses": "fake_join", "from": "all"},
        b={"uses": "fake_join", "from": "a"},
        a={"uses": "fake_write"},
        copy={"uses": "fake_join", "from": "report"},
    )
    graph = build_graph(recipe)
    assert list(graph) == ["a", "b", "report", "copy"]
    assert graph["report"].sources == ("a", "b")


def test_all_takes_parts_of_graph_stages_too():
    graph = build_graph(stages(chat={"uses": "fake_rounds", "rounds": 1}, report={"uses": "fake_join", "from": "all"}))
    assert graph["report"].sources == ("chat.r1.write", "chat")
    assert graph["chat.r1.write"].owner == "chat" and graph["chat"].sources == ("chat.r1.write",)


def test_cycles_and_unknown_parts_are_refused():
    error = problem(lambda: build_graph(stages(a={"uses": "fake_join", "from": "b"}, b={"uses": "fake_join", "from": "a"})))
    assert "in a circle" in error.what and "a <- b <- a" in error.where
    error = problem(lambda: build_graph(stages(c={"uses": "fake_rounds"}, d={"uses": "fake_join", "from": "c.r9.write"})))
    assert "c.r9.write" in error.what and "c.r" in error.fix
    error = problem(lambda: build_graph(stages(a={"uses": "fake_write"}, b={"uses": "fake_join", "from": ["a", "a"]})))
    assert "names a stage twice" in error.what


def test_a_bundled_recipe_is_extended_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cria").mkdir()  # a folder of that name is no recipe
    recipe = load_recipe(write(tmp_path, "extends: cria\nname: mine\nstages: {flagship: {steps: 5}}"))
    assert recipe.name == "mine" and recipe.stages["flagship"].settings["steps"] == 5 and "student" in recipe.stages
