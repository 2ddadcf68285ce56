"""A training stage in several processes: the same numbers as in one, whatever is killed, hangs or is stopped on the way."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from stage_corpus import write_tokens

from puna.core.errors import InputError, Preempted, RunError
from puna.core.stage import local_artifact, local_context
from puna.model.checkpoint import load_model
from puna.train import pretrain
from puna.train.ranks import FOLDER

pytestmark = pytest.mark.cores

SETTINGS = {
    "model": {"layers": 2, "dim": 32, "heads": 4, "kv_heads": 2}, "steps": 12, "batch_tokens": 512, "seq_len": 64,
    "optim": {"name": "adamw", "lr": 5e-3}, "watch": {"log_every": 1, "evaluate_every": 4, "checkpoint_seconds": 0.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("artifact") / "tokens")


def trained(out, tokens, stopping=None, events=None, **parallel):
    ctx = local_context(out, inputs=[local_artifact(tokens, "tokens")], name="stage")
    ctx.stopping = stopping or ctx.stopping
    ctx.report = (lambda event: None) if events is None else events.append
    ctx.cores = 2
    return pretrain.run(pretrain.Settings(**SETTINGS, parallel=parallel), ctx)


@pytest.fixture(scope="module")
def alone(tokens, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "model"
    trained(out, tokens)
    return out


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(out, other):
    found, expected = rows(out), rows(other)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, twin in zip(found, expected, strict=True):
        for name in {"loss", "grad_norm", "held_loss"} & twin.keys():
            assert row[name] == pytest.approx(twin[name], rel=2e-5), (row["step"], name)


def test_equals_one_process_and_reports(tmp_path, tokens, alone):
    events = []
    summary = trained(tmp_path / "model", tokens, events=events, dp=2)
    assert_same_run(tmp_path / "model", alone)
    assert summary["steps"] == 12 and load_model(tmp_path / "model").config.dim == 32
    timing = [json.loads(line) for line in (tmp_path / "model" / "volatile" / "timing.jsonl").read_text().splitlines()]
    assert len(timing) == 12 and all(row["slowest"] in (0, 1) and 0 < row["work_s_min"] <= row["work_s_max"] for row in timing)
    assert any(event["event"] == "progress" for event in events) and events[-1]["event"] in ("metric", "progress")


@pytest.mark.parametrize("fault", ["kill:1@6", "kill:0@5:saving", "kill:1@7:committing"])
def test_a_killed_process_is_started_again_and_nothing_differs(tmp_path, tokens, alone, fault):
    trained(tmp_path / "model", tokens, dp=2, drill=[fault], restarts=1)
    assert (tmp_path / "model.scratch" / FOLDER / f"drill-{fault.replace(':', '-')}").exists()
    assert_same_run(tmp_path / "model", alone)


def test_a_hang_is_ended_and_named(tmp_path, tokens):
    with pytest.raises(RunError) as error:
        trained(tmp_path / "model", tokens, dp=2, drill=["hang:1@6"], restarts=0, hang_seconds=8)
    assert "process 1" in error.value.what and "step 6" in error.value.what


def test_a_stop_saves_and_the_next_call_goes_on_in_another_layout(tmp_path, tokens, alone):
    seen = []
    with pytest.raises(Preempted):
        trained(tmp_path / "model", tokens, events=seen, stopping=lambda: any(e["event"] == "metric" for e in seen), dp=2)
    assert len(seen) < 40
    trained(tmp_path / "model", tokens, tp=2)
    assert_same_run(tmp_path / "model", alone)


def test_bad_layout_is_one_clear_error(tmp_path, tokens):
    with pytest.raises(InputError, match="tp 3 does not divide"):
        trained(tmp_path / "model", tokens, tp=3)


PROGRAM = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_survival import trained
trained(Path({out!r}), Path({tokens!r}), dp=2, drill=["hang:1@8"], hang_seconds=300)  # it is killed while it hangs
"""


def test_all_killed_and_the_newest_checkpoint_damaged(tmp_path, tokens, alone):
    out = tmp_path / "model"
    program = PROGRAM.format(here=str(Path(__file__).parent), out=str(out), tokens=str(tokens))
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    scratch = tmp_path / "model.scratch" / "train"
    until(lambda: len(list(scratch.glob("step-*[0-9]"))) >= 2 or process.poll() is not None)
    pids = [json.loads(path.read_text())["pid"] for path in scratch.parent.glob(f"{FOLDER}/alive-*.json")]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))  # nothing outlives the stage
    newest = max(scratch.glob("step-*[0-9]"), key=lambda path: int(path.name[5:]))
    file = next(newest.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    notes = []
    trained(out, tokens, events=notes, dp=2)
    assert any("damaged" in event.get("text", "") for event in notes)
    assert_same_run(out, alone)


def test_one_process_compiles_and_recomputes_as_asked(tmp_path, tokens, alone, monkeypatch):
    placed = []
    from puna.train.parallel import placed as module

    class Seen(module.Placed):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            placed.append(self.layout.recompute)

    monkeypatch.setattr(module, "Placed", Seen)
    trained(tmp_path / "model", tokens, recompute="selective")
    assert placed == ["selective"]
    assert_same_run(tmp_path / "model", alone)


def test_two_nodes_meet(tmp_path, tokens, alone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = f"127.0.0.1:{free.getsockname()[1]}"
    joined = []

    class Joins(list):
        def append(self, event):
            command = event.get("text", "").partition("start there: ")[2].split()
            if command:
                joined.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))

    trained(tmp_path / "model", tokens, events=Joins(), dp=2, nodes=2, meet=meet)
    assert joined[0].wait(timeout=60) == 0
    assert_same_run(tmp_path / "model", alone)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_low_precision_learns_what_full_precision_does(tmp_path, tokens, alone, precision):
    if precision == "fp8":
        pytest.importorskip("torchao", reason="FP8 training is not tested without torchao")
    ctx = local_context(tmp_path / "model", inputs=[local_artifact(tokens, "tokens")], name="stage")
    pretrain.run(pretrain.Settings(**SETTINGS, precision=precision), ctx)
    found, expected = rows(tmp_path / "model"), rows(alone)
    assert found != expected
    for row, twin in zip(found, expected, strict=True):
        assert row.get("loss", 0) == pytest.approx(twin.get("loss", 0), rel=0.02)
    assert load_model(tmp_path / "model").lm_head.weight.dtype == torch.float32


def until(done, seconds=90):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)
