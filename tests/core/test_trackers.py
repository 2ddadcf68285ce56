"""Mirrors of a run's curves: the same numbers in event files and in a project, nothing without being asked, and no harm done."""

import json
import subprocess
import sys
import types

import pytest

from puna.core.errors import InputError
from puna.core.trackers import Mirrored, TensorBoard, trackers

EVENTS = [
    {"event": "stage", "stage": "flagship", "state": "running"},
    {"event": "metric", "stage": "flagship", "step": 10, "loss": 2.5, "tokens": 640, "time": 100.0},
    {"event": "timing", "stage": "flagship", "phase": "train", "step": 10, "mfu": 0.25, "mfu_convention": "6 N", "time": 100.5},
    {"event": "metric", "stage": "long", "phase": "256", "step": 3, "loss": 1.5, "loss/code": 1.25, "time": 101.0},
    {"event": "metric", "stage": "long", "step": 3, "prompt": "Mia", "good": True, "time": 101.0},
    {"event": "timing", "stage": "tokens", "seconds": 3.0},
    {"event": "progress", "stage": "long", "done": 3, "total": 9, "loss": 1.5},
]
EXPECTED = {
    ("flagship", "loss", 10): 2.5,
    ("flagship", "tokens", 10): 640.0,
    ("flagship", "timing/mfu", 10): 0.25,
    ("long", "256/loss", 3): 1.5,
    ("long", "256/loss/code", 3): 1.25,
}


class Heard(list):
    """A listener that keeps what it hears."""

    closed = False

    def event(self, event):
        self.append(event)

    def close(self):
        self.closed = True


def mirrored(found):
    heard = Heard()
    listener = Mirrored(heard, found)
    for event in EVENTS:
        listener.event(event)
    listener.close()
    assert [event for event in heard if event["event"] != "note"] == EVENTS and heard.closed
    return heard


@pytest.fixture
def fake_wandb(monkeypatch):
    """A module that writes down what it is asked for."""
    log = types.SimpleNamespace(init=None, defined={}, rows=[], finished=False)

    class Run:
        def define_metric(self, name, step_metric=None):
            log.defined[name] = step_metric

        def log(self, row):
            log.rows.append(row)

        def finish(self):
            log.finished = True

    def init(**given):
        log.init = given
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return log


def test_wandb_gets_every_number_under_its_stage(fake_wandb):
    mirrored(trackers(None, "herd", "cria"))
    assert fake_wandb.init == {"project": "herd", "name": "cria"} and fake_wandb.finished
    assert fake_wandb.defined["flagship/*"] == "flagship/step" and fake_wandb.defined["long/*"] == "long/step"
    found = {}
    for row in fake_wandb.rows:
        ((stage, step),) = [(key.removesuffix("/step"), value) for key, value in row.items() if key.endswith("/step")]
        found |= {(stage, key.removeprefix(f"{stage}/"), step): v for key, v in row.items() if key != f"{stage}/step"}
    assert found == EXPECTED


def test_tensorboard_reads_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install 'puna[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    mirrored(trackers(tmp_path / "board", None, "cria"))
    found, times = {}, set()
    for stage in ("flagship", "long"):
        read = EventAccumulator(str(tmp_path / "board" / stage), size_guidance={"scalars": 0}).Reload()
        for tag in read.Tags()["scalars"]:
            found |= {(stage, tag, event.step): event.value for event in read.Scalars(tag)}
            times |= {event.wall_time for event in read.Scalars(tag)}
    assert found == EXPECTED and times == {100.0, 100.5, 101.0}
    assert not (tmp_path / "board" / "tokens").exists()


def test_a_tracker_that_fails_is_left_out_once(fake_wandb):
    class Broken(TensorBoard):
        def __init__(self):
            self.asked = 0

        def row(self, *words):
            self.asked += 1
            raise OSError("disk full")

    broken = Broken()
    heard = mirrored([broken, *trackers(None, "herd", "cria")])
    (note,) = [event for event in heard if event["event"] == "note"]
    assert note["text"] == "Broken failed and is left out: OSError: disk full" and broken.asked == 1
    assert len(fake_wandb.rows) == 3  # the other one goes on


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_its_fix(package, monkeypatch, tmp_path):
    for name in {package, *(name for name in sys.modules if name.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as error:
        trackers(tmp_path if package == "tensorboard" else None, "herd" if package == "wandb" else None, "cria")
    assert (error.value.what, error.value.fix) == (f"{package} is not installed", f"pip install 'puna[{package}]'")


def test_up_and_run_pass_rows_on(command, cli_environment, tmp_path):
    """With a module in the place of wandb; without the option nothing of it is imported."""
    log = tmp_path / "log.jsonl"
    (tmp_path / "wandb.py").write_text(
        "import json\nclass Run:\n    define_metric = finish = lambda *a, **k: None\n"
        f"    def log(self, row): print(json.dumps(row), file=open({str(log)!r}, 'a'))\n"
        "def init(**given): return Run()\n"
    )
    (tmp_path / "small.yaml").write_text(
        "name: small\nseed: 1\nchat: m\nstages:\n  m: {uses: fake_train, from: [], steps: 3, pause: 0}\n"
    )
    path = f"{tmp_path}:{cli_environment.get('PYTHONPATH', '')}"

    def puna(*words):
        done = subprocess.run([*command, *words], cwd=tmp_path, env={**cli_environment, "PYTHONPATH": path}, capture_output=True,
                              text=True, timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    assert puna("up", "small.yaml", "--no-page", "--dir", "plain") == []
    rows = puna("up", "small.yaml", "--no-page", "--dir", "mirrored", "--wandb", "herd")
    assert [row["m/step"] for row in rows] == [1, 2, 3] and all(row["m/loss"] >= 0 for row in rows)
    again = puna("run", "fake_train", "--out", "alone", "steps=2", "pause=0", "--wandb", "herd")
    assert [row["fake_train/step"] for row in again[3:]] == [1, 2]
