"""What a run says of its own speed: rates and utilisation by hand, who is slow, goodput across restarts, traces on request."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent))
from loop_cases import SHAPE, batches, straggling, trained
from stage_corpus import write_tokens

from puna.core.errors import Preempted
from puna.core.stage import local_artifact, local_context
from puna.model.llama import Llama
from puna.plan.flops import training_flops_per_token
from puna.plan.speed import peak_tflops_of
from puna.train import meter, pretrain
from puna.train.loop import train
from puna.train.meter import Measuring, Meter
from puna.train.objectives import CrossEntropy
from puna.train.optim import OptimSettings
from puna.train.schedule import Schedule
from puna.train.world import World


def timing(out):
    return [json.loads(line) for line in (out / "volatile" / "timing.jsonl").read_text().splitlines()]


def goodput(out):
    return json.loads((out / "volatile" / "goodput.json").read_text())


class Hours:
    """A clock that only goes on when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        for name in ("time", "monotonic"):
            monkeypatch.setattr(meter.time, name, lambda: self.now)


def test_a_row_by_hand(tmp_path, monkeypatch):
    """Two steps of 2 s after 1 s of reading each, then 5 s of checkpoint; the peak is given."""
    hours = Hours(monkeypatch)
    ctx = local_context(tmp_path / "a")
    seen = []
    ctx.report = seen.append
    found = Meter(ctx, World(), "train", "cpu", SHAPE, Measuring(peak_tflops=0.001))

    def read(step):
        hours.now += 1
        return batches()(step)

    for step in range(2):
        found.read(read, step)
        found.before_message()
        hours.now += 2
        found.stepped(300, kept=step == 0)
    with found.during("checkpoint"):
        hours.now += 5
    found.log(7)
    (row,) = timing(tmp_path / "a")
    assert (row["step"], row["seconds"], row["tokens_per_s"]) == (7, 11.0, 100.0)
    assert (row["data_wait_s"], row["checkpoint_s"], row["evaluation_s"]) == (2.0, 5.0, 0.0)
    assert row["mfu"] == pytest.approx(100 * training_flops_per_token(SHAPE, 32) / 1e9, rel=1e-3)
    assert row["mfu_convention"].endswith("attention counted whole; peak 0.001 TFLOP/s as given")
    assert row["peak_memory_mb"] > 100 and "slowest" not in row
    assert {k: v for k, v in seen[-1].items() if k not in ("event", "stage")} == row and seen[-1]["event"] == "timing"
    assert found.state() == {"step": 2.0, "data": 2.0, "checkpoint": 5.0, "evaluation": 0.0}  # the second step was left out


def test_goodput_counts_no_step_twice(tmp_path, monkeypatch):
    """Killed after four steps of which a checkpoint holds three; an hour later the last two are done."""
    hours = Hours(monkeypatch)

    def steps(found, count):
        for step in range(count):
            found.read(batches(), step)
            hours.now += 10
            found.stepped(1, kept=True)

    first = Meter(local_context(tmp_path / "a"), World(), "train", "cpu", None, Measuring())
    steps(first, 3)
    saved = json.loads(json.dumps(first.state()))
    steps(first, 1)
    hours.now += 3600
    ctx = local_context(tmp_path / "a")
    again = Meter(ctx, World(), "train", "cpu", None, Measuring())
    again.load(saved)
    steps(again, 2)
    again.finish()
    found = goodput(tmp_path / "a")
    assert (found["useful_s"], found["elapsed_s"], found["goodput"]) == (50.0, 3660.0, round(50 / 3660, 4))
    assert found["calls"]["train"]["starts"] == 2
    assert "goodput 1.4%, 50.0 s of steps kept in 3660.0 s, 2 starts" in (ctx.out / "volatile" / "notes.txt").read_text()


def test_goodput_of_a_stopped_run_and_nothing_of_it_in_what_repeats(tmp_path):
    began = time.time()
    trained(tmp_path / "whole", steps=9)
    asked = iter(range(100))
    with pytest.raises(Preempted):
        trained(tmp_path / "cut", steps=9, stopping=lambda: next(asked) >= 5)
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    trained(tmp_path / "cut", steps=9)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    found = goodput(tmp_path / "cut")
    assert found["calls"]["train"]["starts"] == 2 and found["began"] >= began
    assert 0 < found["useful_s"] < found["elapsed_s"] <= time.time() - began
    assert goodput(tmp_path / "whole")["calls"]["train"]["starts"] == 1
    assert not (tmp_path / "whole" / "volatile" / "notes.txt").exists()  # a short run without an accident says nothing


def test_peaks_by_the_name_of_the_device():
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA A100-SXM4-80GB", "Something new")
    assert [peak_tflops_of(name) for name in names] == [989.0, 756.0, 989.0, 312.0, None]


def test_a_processor_is_measured_and_the_share_is_one(tmp_path):
    trained(tmp_path / "a", steps=3)
    (row,) = timing(tmp_path / "a")
    assert 0 < row["mfu"] < 1 and "of this processor" in row["mfu_convention"]


def test_the_slow_one_is_named(tmp_path):
    """Two processes, one of which reads 20 ms longer and computes more in every step."""
    mp.spawn(straggling, args=(str(tmp_path),), nprocs=2)
    for row in timing(tmp_path / "out-0"):
        assert row["slowest"] == 1
        assert row["work_s_min"] < row["work_s_mean"] < row["work_s_max"]
        assert row["work_s_max"] - row["work_s_min"] > 0.5 * 3 * 0.04
        assert row["data_wait_s"] >= 3 * 0.02
    assert not (tmp_path / "out-1" / "volatile").exists()


def test_profile_of_some_steps(tmp_path):
    model, plain, _ = trained(tmp_path / "plain", steps=6)
    again, result, _ = trained(tmp_path / "a", steps=6, measuring=Measuring(profile=(2, 2)))
    folder = tmp_path / "a" / "volatile" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["ops.txt", "rank-0.json"]
    events = json.loads((folder / "rank-0.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "aten::embedding" for event in events) == 2
    table = (folder / "ops.txt").read_text()
    assert table.startswith("train: steps 2 to 3, process 0 of 1") and "aten::mm" in table
    assert result.rows == plain.rows  # the traced steps have the same numbers
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A pre-training stage on two groups, its length ending within a log interval."""
    folder = tmp_path_factory.mktemp("stage")
    ctx = local_context(folder / "out", inputs=[local_artifact(write_tokens(folder / "tokens"), "tokens")], name="stage")
    watch = {"log_every": 4, "evaluate_every": 0, "profile_steps": [1, 1], "peak_tflops": 0.5}
    settings = pretrain.Settings(model={"layers": 1, "dim": 16, "heads": 2, "kv_heads": 1}, steps=6, batch_tokens=256,
                                 seq_len=32, mix={"code": 0.75, "general": 0.25}, optim={"name": "adamw", "lr": 1e-3},
                                 watch=watch)  # fmt: skip
    pretrain.run(settings, ctx)
    return folder, settings


def test_settings_reach_the_meter_and_are_no_identity(stage):
    folder, settings = stage
    assert settings.watch.measuring() == Measuring(0.5, (1, 1))
    assert settings.identity()["watch"].keys().isdisjoint({"profile_steps", "peak_tflops", "device"})
    assert (folder / "out" / "volatile" / "profile" / "rank-0.json").exists()
    assert [row["step"] for row in timing(folder / "out")] == [4, 6]
    assert all("peak 0.5 TFLOP/s as given" in row["mfu_convention"] for row in timing(folder / "out"))


def test_loss_of_each_stream(stage):
    """Against the loss of every row by plain autograd on a model that stands still."""
    folder, settings = stage
    from puna.train.corpus import open_corpus
    from puna.train.schedule import Batching

    corpus = open_corpus(folder / "tokens")
    schedule = Schedule(steps=2, batching=Batching(batch_tokens=256, seq_len=32, mix=settings.mix))
    stream = corpus.stream(schedule, 5, micro_rows=3)
    assert stream.names == ["code", "general"]
    model = Llama(pretrain.ModelShape(layers=1, dim=16, heads=2, kv_heads=1).config(corpus.tokenizer.vocab_size, 32), seed=1)
    optim = OptimSettings(name="adamw", lr=0.0, weight_decay=0.0)
    found = {}
    for chunk in (None, 7):
        ctx = local_context(tmp := folder / f"chunk-{chunk}")
        assert tmp.exists()
        result = train(model, CrossEntropy(chunk, stream.names), stream, schedule, optim, ctx, log_every=2)
        (found[chunk],) = result.rows
    sums = {name: [0.0, 0] for name in stream.names}
    for step in range(2):
        groups = iter(stream.group_of(step))
        for batch in stream(step):
            for row in range(len(batch.ids_BT)):
                one = batch.rows(row, row + 1)
                with torch.no_grad():
                    logits = model(one.ids_BT, positions_BT=one.positions_BT, mask=one.mask())
                loss = torch.nn.functional.cross_entropy(logits[0], one.targets_BT[0], reduction="sum")
                entry = sums[next(groups)]
                entry[0], entry[1] = entry[0] + float(loss), entry[1] + len(one.supervised())
    expected = {f"loss/{name}": total / count for name, (total, count) in sums.items()}
    assert {key: found[None][key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert found[None]["loss"] == pytest.approx(sum(s for s, _ in sums.values()) / sum(n for _, n in sums.values()), rel=1e-5)
    assert found[7] == pytest.approx(found[None], rel=1e-5)


def test_a_stream_that_gave_no_row_has_no_loss(tmp_path):
    """And batches of no stream count in the loss alone."""
    model = Llama(SHAPE, seed=3)
    objective = CrossEntropy(streams=["a", "b"])

    def read(step):
        first, second = batches(micro_rows=4)(step)
        first.extra["stream_B"] = torch.ones(4, dtype=torch.int64)
        return [first, second]

    result = train(model, objective, read, Schedule(steps=1), OptimSettings(), local_context(tmp_path / "a"), log_every=1)
    (row,) = result.rows
    assert "loss/a" not in row
    (first, _), model = read(0), Llama(SHAPE, seed=3)
    alone = float(CrossEntropy().sums(model, first)[0]["ce"].detach()) / CrossEntropy().counts(first)["ce"]
    assert row["loss/b"] == pytest.approx(alone, rel=1e-5) and row["loss/b"] != pytest.approx(row["loss"], rel=1e-4)
