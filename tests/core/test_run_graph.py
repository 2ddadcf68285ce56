"""Running a graph: reuse, early cut-off, side by side, failures, and what is written down."""

import json
from pathlib import Path

import pytest

from puna.core import store
from puna.core.explain import pointed
from puna.core.journal import read_status
from puna.core.modules import source_hash

CHAIN = {
    "a": {"uses": "fake_write", "lines": ["x", "y"]},
    "b": {"uses": "fake_join", "from": "a"},
    "c": {"uses": "fake_join", "from": ["a", "b"]},
}


def edited(name, **changes):
    return {**CHAIN, name: {**CHAIN[name], **changes}}


def test_runs_then_reuses_everything(run_recipe, tmp_path):
    first, _ = run_recipe(CHAIN)
    assert (first.state, first.exit_code, first.made) == ("finished", 0, ["a", "b", "c"])
    again, heard = run_recipe(CHAIN)
    assert (again.made, again.reused) == ([], ["a", "b", "c"])
    assert {n: a.digest for n, a in first.artifacts.items()} == {n: a.digest for n, a in again.artifacts.items()}
    link = tmp_path / "runs/test/02-b"
    assert link.is_symlink() and not str(link.readlink()).startswith("/")
    assert (link / "joined.txt").read_text() == "X\nY"
    assert [e["state"] for e in heard.events if e["event"] == "stage"] == ["reused"] * 3
    assert not list((tmp_path / "store").glob("*/*.partial")) + list((tmp_path / "store").glob("*/*.scratch"))


def test_a_stage_is_told_the_run_that_asked_for_it(run_recipe, tmp_path):
    outcome, _ = run_recipe({"a": {"uses": "fake_write"}})
    (row,) = map(json.loads, (outcome.artifacts["a"].path / "volatile/timing.jsonl").read_text().splitlines())
    assert row["run"]["name"] == "test" and row["run"]["recipe"]


def test_execution_fields_do_not_rerun_and_identity_fields_do(run_recipe):
    run_recipe(CHAIN)
    assert run_recipe(edited("b", workers=8))[0].made == []
    assert run_recipe(edited("a", model={"dim": 32}))[0].made == ["a"]
    assert run_recipe(edited("b", keep=1))[0].made == ["b", "c"]


def test_early_cut_off_when_an_input_is_made_again_with_equal_bytes(run_recipe):
    run_recipe(CHAIN)
    outcome, _ = run_recipe(edited("a", model={"layers": 9}))
    assert (outcome.made, outcome.reused) == (["a"], ["b", "c"])


def test_changed_licence_travels_down(run_recipe):
    first, _ = run_recipe(CHAIN)
    outcome, _ = run_recipe(edited("a", licence="CC-BY-NC-SA-4.0"))
    assert outcome.made == ["a", "b", "c"]
    assert first.artifacts["c"].record["obligations"] == ["attribution"]
    assert outcome.artifacts["c"].record["obligations"] == ["attribution", "non-commercial", "share-alike"]
    assert outcome.artifacts["c"].record["lineage"] == [{"source": "fake", "licence": "CC-BY-NC-SA-4.0", "rows": 2}]


def test_seed_and_name_change_the_streams(run_recipe):
    one, _ = run_recipe({"a": {"uses": "fake_write"}, "b": {"uses": "fake_write"}})
    two, _ = run_recipe({"a": {"uses": "fake_write"}}, seed=1)
    draws = [one.artifacts["a"], one.artifacts["b"], two.artifacts["a"]]
    assert len({a.summary()["draw"] for a in draws}) == 3


def test_same_bytes_in_another_place(run_recipe, tmp_path):
    here, _ = run_recipe(CHAIN, root=tmp_path / "here")
    there, _ = run_recipe(CHAIN, root=tmp_path / "there", name="other")
    for name in CHAIN:
        assert here.artifacts[name].digest == there.artifacts[name].digest
        assert str(tmp_path) not in (here.artifacts[name].path / store.RECORD).read_text()


def intervals(marker):
    return sorted(tuple(map(float, line.split()[1:])) for line in Path(marker).read_text().splitlines())


def test_independent_stages_run_side_by_side(run_recipe, tmp_path):
    marker = str(tmp_path / "times.txt")
    stages = {n: {"uses": "fake_write", "seconds": 0.5, "marker": marker} for n in ("a", "b")}
    run_recipe(stages)
    times = intervals(marker)
    assert times[1][0] < times[0][1], "the second began before the first ended"
    (tmp_path / "times.txt").unlink()
    run_recipe(stages, root=tmp_path / "serial", cores=1)
    times = intervals(marker)
    assert times[1][0] >= times[0][1] - 0.01, "one core: one after the other"


def test_the_longest_chain_starts_first(run_recipe):
    stages = {
        "short": {"uses": "fake_write"},
        "long": {"uses": "fake_write"},
        "next": {"uses": "fake_join", "from": "long"},
    }
    _, heard = run_recipe(stages, cores=1)
    assert next(e["stage"] for e in heard.events if e.get("state") == "running") == "long"


@pytest.mark.parametrize(
    ("how", "code", "what"),
    [
        ("input", 2, "the rows are wrong"),
        ("bug", 1, "ZeroDivisionError: one by nothing"),
        ("kill", 1, "was killed by signal 9"),
        ("full", 1, "the disk is full"),
        ("native-full", 1, "the disk is full"),
    ],
)
def test_a_failure_is_one_message_and_leaves_nothing_that_looks_whole(run_recipe, tmp_path, how, code, what):
    stages = {
        "bad": {"uses": "fake_write", "fail": how},
        "after": {"uses": "fake_join", "from": "bad"},
        "slow": {"uses": "fake_write", "seconds": 0.4},
    }
    outcome, _ = run_recipe(stages)
    assert (outcome.state, outcome.exit_code) == ("failed", code)
    assert what in outcome.error.what and outcome.error.where
    assert outcome.made == ["slow"], "what was running finished, what depends did not start"
    assert [a.name for a in store.artifacts(tmp_path)] == ["slow"]
    assert (tmp_path / "runs/test/failures/bad.txt").exists() == (how == "bug")
    states = {s["name"]: s["state"] for s in read_status(tmp_path / "runs/test")["stages"]}
    assert states == {"bad": "failed", "after": "waiting", "slow": "finished"}
    stages["bad"]["fail"] = ""
    mended, _ = run_recipe(stages)
    assert (mended.exit_code, mended.made, mended.reused) == (0, ["bad", "after"], ["slow"])


def test_events_and_status_are_on_disk(run_recipe, tmp_path):
    outcome, _ = run_recipe(CHAIN)
    events = [json.loads(line) for line in (tmp_path / "runs/test/events.jsonl").open()]
    assert [(e["event"], e["state"]) for e in (events[0], events[-1])] == [("run", "started"), ("run", "finished")]
    assert {e["stage"] for e in events if e["event"] == "progress"} == {"a"}
    status = read_status(tmp_path / "runs/test")
    assert status["state"] == "finished" and status["peak_memory_mb"] > 10
    entry = status["stages"][2]
    assert (entry["name"], entry["uses"], entry["kind"], entry["from"]) == ("c", "fake_join", "joined", ["a", "b"])
    assert entry["path"] == "03-c" and entry["ended"] >= entry["started"] and entry["summary"] == {"joined": 5}
    record = outcome.artifacts["b"].record
    assert record["settings"] == {"keep": 100, "workers": 1} and record["identity"]["settings"] == {"keep": 100}
    assert record["status"] == "complete" and record["wall_s"] >= 0 and record["peak_rss_mb"] > 1


def test_changed_code_warns_and_strict_rebuilds(run_recipe, monkeypatch):
    from puna.core import run

    first, _ = run_recipe(CHAIN)
    monkeypatch.setattr(run, "source_hash", lambda module: "edited" if module.__name__ == "fake_write" else source_hash(module))
    again, heard = run_recipe(CHAIN)
    assert again.made == [] and heard.notes() == ["code has changed since this was made: a; --strict makes it again"]
    rebuilt, _ = run_recipe(CHAIN, strict=True)
    assert (rebuilt.made, rebuilt.reused) == (["a"], ["b", "c"]), "equal bytes again, so nothing below moves"
    assert rebuilt.artifacts["a"].digest == first.artifacts["a"].digest


def test_two_runs_at_once_refuse(run_recipe, tmp_path):
    from puna.core.errors import InputError
    from puna.core.lease import Lease

    held = Lease(tmp_path / "runs/test/lease.json")
    assert held.take()
    with pytest.raises(InputError, match="is in use by process"):
        run_recipe(CHAIN)
    held.free()
    assert run_recipe(CHAIN)[0].exit_code == 0


def test_stale_pointers_go(run_recipe, tmp_path):
    run_recipe(CHAIN)
    run_recipe({"z": {"uses": "fake_write"}})
    assert list(pointed(tmp_path / "runs/test")) == ["z"]


def test_a_graph_stage_is_cached_in_parts(run_recipe, tmp_path):
    stages = {"chat": {"uses": "fake_rounds", "rounds": 2}, "peek": {"uses": "fake_join", "from": "chat.r1.write"}}
    outcome, _ = run_recipe(stages)
    assert set(outcome.made) == {"chat.r1.write", "chat.r2.write", "chat", "peek"}
    assert outcome.artifacts["chat"].kind == "joined"
    more, _ = run_recipe({**stages, "chat": {"uses": "fake_rounds", "rounds": 3}})
    assert set(more.made) == {"chat.r3.write", "chat"}
