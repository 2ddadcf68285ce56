"""The command line: exit codes, one message per mistake, JSON for programs, and the verbs about the store."""

import json
import os
import re
import subprocess
import tomllib

import pytest

from puna.commands.stores import NEEDED
from puna.core.kinds import MARKS
from puna.core.modules import PACKAGE, load_stage

RECIPE = """name: small
seed: 1
chat: m
stages:
  a: {uses: fake_write, lines: [x, y]}
  b: {uses: fake_join, from: a}
  m: {uses: fake_train, from: b, steps: 3, pause: 0}
"""


@pytest.fixture
def puna(tmp_path, command, cli_environment):
    """`puna(words...)` runs the command in a directory with `small.yaml` and returns (exit code, stdout, stderr)."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "empty.yaml").write_text("")

    def go(*words):
        done = subprocess.run([*command, *words], cwd=tmp_path, env=cli_environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    return go


def test_help_is_instant(puna):
    puna("--help")
    times = []
    for _ in range(3):
        start = os.times()
        code, out, _ = puna("--help")
        end = os.times()
        times.append(end.children_user - start.children_user + end.children_system - start.children_system)
    assert code == 0 and min(times) < 0.5
    for verb in (
        "up",
        "status",
        "explain",
        "why",
        "diff",
        "verify",
        "gc",
        "run",
        "config",
        "plan",
        "doctor",
        "chat",
        "serve",
        "eval",
        "convert",
        "generate",
    ):
        assert f"\n  {verb} " in out


def test_up_and_the_verbs_after_it(puna, tmp_path):
    code, out, err = puna("up", "small.yaml", "--no-page")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("puna up small (seed 1): 3 stages, the longest chain 3")
    assert (
        "a  done" in out
        and lines[-1].startswith("done in ")
        and "3 stages made, 0 kept" in lines[-1]
        and lines[-2] == "chat:   puna chat      (in the browser: puna serve)"
    )

    code, out, _ = puna("status", "--json")
    assert code == 0 and [s["state"] for s in json.loads(out)["stages"]] == ["finished"] * 3
    assert "small: finished, 3 of 3 stages finished" in puna("status")[1]

    code, out, _ = puna("why", "b")
    assert code == 0 and re.match(r"b: finished: made \d{4}-\d\d-\d\d \d\d:\d\d in \d\.\d s\n", out)
    code, out, _ = puna("why", "b", "b.keep=1", "--json")
    assert json.loads(out)[0]["changes"] == [{"field": "settings.keep", "before": 100, "now": 1}]
    code, out, _ = puna("why", "m", "a.lines=[q]")
    assert "m: waits: its input b would run first" in out and "settings.lines: ['x', 'y'] -> ['q']" in out

    assert puna("verify")[:2] == (0, "3 artifacts verified, 0 damaged\n")
    (tmp_path / "runs/small/02-b/joined.txt").write_text("spoilt")
    code, out, _ = puna("verify", "small")
    assert code == 1 and "joined.txt: changed" in out and "1 damaged" in out

    assert puna("up", "small.yaml", "name=other", "b.keep=1", "--no-page", "--json")[0] == 0
    assert re.search(r"^a +lines +reused +\d\.\d s$", puna("status", "other")[1], re.MULTILINE)
    code, out, _ = puna("diff", "small", "other", "--json")
    states = {row["stage"]: row["state"] for row in json.loads(out)}
    assert states == {"a": "same", "b": "differs", "m": "same"} or states["a"] == "same"
    code, out, _ = puna("gc", "--dry-run")
    assert code == 0 and "would free 0 B in 0 places" in out


def test_up_json_is_lines_of_json(puna):
    code, out, _ = puna("up", "small.yaml", "--no-page", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and events[0]["state"] == "started" and events[-1] == {**events[-1], "event": "run", "state": "finished"}


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["up", "nowhere.yaml"], 2, "there is no such recipe"),
        (["up", "small.yaml", "a.line=3", "--no-page"], 2, "did you mean 'lines'"),
        (["up", "small.yaml", "a.fail=input", "--no-page"], 2, "the rows are wrong\n  where: rows.jsonl:3\n  fix:   mend row 3"),
        (["up", "small.yaml", "a.fail=bug", "--no-page"], 1, "failures/a.txt"),
        (["up", "small.yaml", "a.fail=full", "--no-page"], 1, "the disk is full"),
        (["status"], 2, "there is no run here"),
        (["why", "zz", "--recipe", "small.yaml"], 2, "the recipe has no stage 'zz'"),
        (["chat", "--prompt", "x"], 2, "there is no run here"),
        (["chat", "o/c1"], 2, "there is no model 'o/c1': no such directory, and there is no run 'o'"),
        (["chat", "-p", " "], 2, "the prompt is empty"),
        (["up", "empty.yaml"], 2, "fix:   begin with `name: mine`"),
        (["up", "small.yaml", "m.steps=many"], 2, "fix:   give a valid integer, or leave it out (the default is 30)"),
        (["run", "fake_writ", "--out", "o"], 2, "there is no stage file 'fake_writ'"),
        (["run", "fake_join", "--out", "o", "--input", "a"], 2, "name=DIRECTORY"),
        (["run", "fake_join", "--out", "o", "--input", "a=nowhere"], 2, "is no directory"),
        (["config", "small.yaml", "seed"], 2, "key.path=value"),
    ],
)
def test_mistakes_are_one_message(puna, words, code, what):
    got, _, err = puna(*words)
    assert got == code and what in err, err
    assert err.startswith("puna: ") or "\npuna: " in err


def test_errors_as_json(puna):
    code, out, _ = puna("up", "small.yaml", "seed=x", "--json")
    error = json.loads(out.splitlines()[-1])["error"]
    assert code == 2 and error["where"] == "override seed=x" and error["exit_code"] == 2


def test_config_shows_origins(puna, tmp_path):
    code, out, _ = puna("config", "small.yaml", "m.steps=5")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert "small.yaml:5" in lines["stages.a.lines"] and "default" in lines["stages.a.model.dim"]
    assert lines["stages.m.steps"].endswith("override m.steps=5")
    (tmp_path / "more.yaml").write_text(
        "name: more\nstages:\n  pages: {uses: data.collect}\n"
        "  docs: {uses: data.curate, from: pages, engine: ray, lines: {limit: 3}}\n"
    )
    lines = {line.split()[0]: line.split()[-1] for line in puna("config", "more.yaml")[1].splitlines()}
    origins = [
        lines[f"stages.docs.{key}"] for key in ("lines.limit", "lines.min_letters", "engine.name", "engine.retries", "redact")
    ]
    assert origins == ["more.yaml:4", "default", "more.yaml:4", "default", "default"]


def test_one_stage_alone(puna, tmp_path):
    assert puna("run", "fake_write", "--out", "first", "lines=[p, q]")[0] == 0
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "x.txt").write_text("r")
    code, _, err = puna("run", "fake_join", "--out", "second", "--input", "first=first", "--input", "lines=plain", "--json")
    assert code == 0, err
    assert (tmp_path / "second/joined.txt").read_text() == "P\nQ\nR"
    assert json.loads((tmp_path / "second/artifact.json").read_text())["inputs"][1]["name"] == "lines"
    assert "done" in puna("run", "fake_write", "--out", "third")[1]
    assert puna("run", "fake_write", "--out", "plain")[0] == 2
    assert puna("run", "fake_write", "--out", "bad", "fail=input")[0] == 2
    assert not list(tmp_path.glob("bad*"))
    assert "kept" in puna("run", "fake_write", "--out", "first", "lines=[p, q]")[1]


def test_run_of_a_stage_that_expands_runs_its_parts(puna, tmp_path):
    assert puna("run", "fake_write", "--out", "first", "lines=[p]")[0] == 0
    code, _, err = puna("run", "fake_rounds", "--out", "joined", "--input", "first=first", "rounds=3", "--json")
    assert code == 0, err
    record = json.loads((tmp_path / "joined/artifact.json").read_text())
    assert [row["name"] for row in record["inputs"]] == [f"fake_rounds.r{r}.write" for r in (1, 2, 3)]
    assert not (tmp_path / "joined.parts").exists()
    assert "kept" in puna("run", "fake_rounds", "--out", "joined", "--input", "first=first", "rounds=3")[1]
    assert "holds something else" in puna("run", "fake_rounds", "--out", "joined", "--input", "first=first", "rounds=2")[2]


def test_doctor_looks_for_what_the_package_is_installed_with(puna):
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert set(NEEDED) == {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    code, out, err = puna("doctor", "--json")
    assert code == 0, out + err
    facts = json.loads(out)
    assert facts["problems"] == [] and list(facts["packages"]) == list(NEEDED)


@pytest.mark.parametrize("words", [["doctor"], ["serve"], ["up"]])
def test_a_port_that_cannot_be_is_refused(puna, words):
    code, _, err = puna(*words, "--port", "99999")
    assert code == 2 and "--port" in err


def test_a_folder_that_is_no_artifact_is_named_with_the_stage_that_makes_one(puna, tmp_path):
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl" / "a.warc.gz").write_bytes(b"x")
    code, _, err = puna("run", "data.curate", "--out", "o", "--input", "pages=crawl")
    assert code == 2 and "this is no `pages` artifact" in err and "puna run data.collect --out DIR 'sources=[...]'" in err
    code, _, err = puna("run", "data.curate", "--out", "o", "--input", "page=crawl")
    assert code == 2 and "'page' is no kind of input" in err and "did you mean 'pages'" in err
    assert not list(tmp_path.glob("o*"))


@pytest.mark.parametrize(("kind", "mark"), MARKS.items())
def test_kinds_are_made_by_the_stage_that_is_named(kind, mark):
    assert kind == load_stage(mark[1]).KIND
