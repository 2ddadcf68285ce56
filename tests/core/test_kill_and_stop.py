"""Kill it anywhere, stop it anywhere: the next run goes on, ends with the same digests, and nothing is left running."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from puna.core import store
from puna.core.forkserver import ForkServer
from puna.core.journal import read_status

pytestmark = pytest.mark.cores

STAGES = {
    "a": {"uses": "fake_write", "lines": ["x", "y", "z"], "seconds": 0.15},
    "t": {"uses": "fake_train", "from": "a", "steps": 20, "pause": 0.02},
    "u": {"uses": "fake_train", "steps": 12, "pause": 0.02},
    "b": {"uses": "fake_join", "from": ["a", "u"]},
    "end": {"uses": "fake_join", "from": "all"},
}


@pytest.fixture
def start(tmp_path, command, cli_environment):
    """Start `puna up` on a recipe in a process of its own."""

    def go(stages, *words, folder="run", name="kill"):
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        (root / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "stages": stages}, sort_keys=False))
        line = [*command, "up", str(root / f"{name}.yaml"), "--no-page", "--dir", str(root), *words]
        return subprocess.Popen(line, env=cli_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return go


def digests(root: Path) -> dict[str, str]:
    return {a.name: a.digest for a in store.artifacts(root)}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(word) for word in task.read_text().split()]
    return found


def wait_until(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


def test_killed_at_random_moments_ends_with_the_same_digests(start, tmp_path):
    assert start(STAGES, folder="calm").wait(30) == 0
    expected = digests(tmp_path / "calm")
    assert set(expected) == set(STAGES)
    draw = random.Random(5)
    killed, seen = 0, []
    for _ in range(12):
        process = start(STAGES)
        time.sleep(draw.uniform(0.15, 0.7))
        group = family(process.pid)
        victim = draw.choice(group)  # the run itself, its fork server, or a worker
        try:
            os.kill(victim, signal.SIGKILL)
            killed += 1
        except ProcessLookupError:
            pass
        process.wait(30)
        seen += group
        for artifact in store.artifacts(tmp_path / "run"):
            assert store.changed_files(artifact) == [], "what has a record is whole"
    last = start(STAGES)
    assert last.wait(30) == 0, last.stderr.read()
    assert digests(tmp_path / "run") == expected and killed >= 6
    wait_until(lambda: not any(map(alive, seen)))
    left = [p.name for p in (tmp_path / "run/store").glob("*/*") if p.name.endswith((store.PARTIAL, store.SCRATCH))]
    assert left == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_saves_and_continues_from_there(start, tmp_path, number, code):
    stages = {"t": {"uses": "fake_train", "steps": 40, "pause": 0.03}}
    assert start(stages, folder="calm").wait(30) == 0
    process = start(stages)
    events = tmp_path / "run/runs/kill/events.jsonl"
    wait_until(lambda: events.exists() and '"step": 7' in events.read_text())
    process.send_signal(number)
    assert process.wait(10) == code
    assert "puna up continues" in process.stderr.read()
    assert digests(tmp_path / "run") == {}
    assert read_status(tmp_path / "run/runs/kill")["state"] == "preempted"
    assert start(stages).wait(30) == 0
    assert digests(tmp_path / "run") == digests(tmp_path / "calm")
    made = next(store.artifacts(tmp_path / "run")).path
    assert json.loads((made / "volatile/timing.jsonl").read_text())["resumed_at"] >= 7
    assert len((made / "metrics.jsonl").read_text().splitlines()) == 40


def test_a_stage_that_never_asks_ends_at_once(start, tmp_path):
    process = start({"a": {"uses": "fake_write", "lines": ["x"], "seconds": 60}})
    events = tmp_path / "run/runs/kill/events.jsonl"
    wait_until(lambda: events.exists() and '"running"' in events.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143


def test_a_worker_that_has_not_begun_is_stopped(tmp_path):
    server = ForkServer(tmp_path / "server.txt", preload=("slow_to_begin",))
    ours, theirs = os.pipe()
    try:
        server.start(json.dumps({"name": "a"}), tmp_path / "a.txt", theirs)
        [started] = server.messages()
        server.signal(started["started"], signal.SIGTERM)
        [ended] = server.messages()
    finally:
        server.close()
        os.close(ours)
        os.close(theirs)
    assert ended["exited"] == started["started"] and ended["status"] == -signal.SIGTERM


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_no_orphans_when_run_server_or_worker_is_killed(start, tmp_path, victim):
    """A stage with a pool of its own: every process of it dies with whichever of the three is killed."""
    pids = tmp_path / "pids.txt"
    process = start({"p": {"uses": "fake_pool", "pids": str(pids)}})
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 3)
    pool = [int(word) for word in pids.read_text().split()]
    server = int(Path(f"/proc/{pool[-1]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill([process.pid, server, pool[-1]][victim], signal.SIGKILL)
    process.wait(10)
    wait_until(lambda: not any(map(alive, [*pool, server])), seconds=3)
    assert digests(tmp_path / "run") == {}


def test_two_runs_that_make_the_same_artifact_share_it(start, tmp_path):
    stages = {"a": {"uses": "fake_write", "lines": ["x"], "seconds": 0.8, "marker": str(tmp_path / "made.txt")}}
    both = [start(stages, name="one"), start(stages, name="two")]
    assert [process.wait(30) for process in both] == [0, 0]
    assert len((tmp_path / "made.txt").read_text().splitlines()) == 1


def test_gc_keeps_what_an_interrupted_run_goes_on_from(start, tmp_path, command, cli_environment):
    stages = {"t": {"uses": "fake_train", "steps": 200, "pause": 0.02}}
    process = start(stages)
    root = tmp_path / "run"
    wait_until(lambda: list(root.glob("store/fake_train/*.scratch/state.json")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    (scratch,) = root.glob("store/fake_train/*.scratch")
    other = scratch.with_name("nobody-01234567.scratch")
    other.mkdir()

    line = [*command, "gc", "--dir", str(root)]
    done = subprocess.run(line, env=cli_environment, capture_output=True, text=True)
    assert done.returncode == 0 and not other.exists() and (scratch / "state.json").exists()
    assert f"{scratch.name} is kept: the run 'kill' goes on from it" in done.stdout

    old, stages["t"]["steps"] = scratch, 201  # a changed recipe does not go on from the old work
    process = start(stages)
    wait_until(lambda: len(list(root.glob("store/fake_train/*.scratch/state.json"))) == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    done = subprocess.run(line, env=cli_environment, capture_output=True, text=True)
    (scratch,) = root.glob("store/fake_train/*.scratch")
    assert done.returncode == 0 and scratch != old and done.stdout.count("is kept") == 1

    stages["t"]["pause"] = 0.0
    assert start(stages).wait(20) == 0
    (timing,) = root.glob("runs/kill/*-t/volatile/timing.jsonl")
    assert json.loads(timing.read_text())["resumed_at"] > 0
