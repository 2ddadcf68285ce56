"""Batch jobs: a line per row in order, equal to the engine's own answers, and to the byte however the job is run or killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file
from small_model import TOKENIZER, lively

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.data.engines import processes
from puna.infer.batch import Job, generate
from puna.infer.batch_rows import PromptRow
from puna.infer.engine import Engine, Request
from puna.infer.reward_scores import Reward
from puna.model.checkpoint import load_model, save_model
from puna.tokenizer.chat import Message, parse, render

pytestmark = pytest.mark.cores

ROWS = [
    {"prompt": f"text {i}"} if i % 3 else {"messages": [{"role": "user", "content": "?" * i}], "id": f"m{i}"} for i in range(11)
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("batch") / "model"
    save_model(lively(max_seq_len=256), path, tokenizer=TOKENIZER)
    return path


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    path = tmp_path_factory.mktemp("batch") / "reward"
    save_model(lively(layers=1), path, tokenizer=TOKENIZER)
    weights = torch.randn(1, 32, generator=torch.Generator().manual_seed(3))
    save_file({"weight": weights, "bias": torch.tensor([0.25])}, path / "reward_head.safetensors")
    (path / "reward.json").write_text('{"skipped": false}')
    return path


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The job of most tests and its output."""
    folder = tmp_path_factory.mktemp("whole")
    job = Job(model, written(folder / "prompts.jsonl", ROWS), n=3, max_tokens=12, seed=5, window=3)
    assert generate(job, folder / "out.jsonl") == {"rows": 11, "kept": 0}
    return job, folder / "out.jsonl"


def interrupted(whole, folder, size):
    """A copy of the output of which so many bytes were written."""
    out = folder / "out.jsonl"
    out.write_bytes(whole[1].read_bytes()[:size])
    (folder / "out.jsonl.job.json").write_bytes(whole[1].with_name("out.jsonl.job.json").read_bytes())
    return out


def test_a_line_per_row_in_order_as_the_engine_says_it(whole, model):
    found = lines(whole[1])
    assert [line["id"] for line in found] == [f"m{i}" if i % 3 == 0 else i + 1 for i in range(11)]
    engine = Engine(load_model(model).eval(), stop_ids=TOKENIZER.stop_ids)
    for number, (row, line) in enumerate(zip(ROWS, found, strict=True), start=1):
        if "prompt" in row:
            ids = [TOKENIZER.bos_id, *TOKENIZER.encode(row["prompt"])]
        else:
            ids = render(TOKENIZER, [Message("user", row["messages"][0]["content"])], generation_prompt=True).ids
        seed = derive_seed(5, "generate", number)
        [expected] = engine.generate([Request(ids, n=3, temperature=1.0, max_tokens=12, seed=seed)])
        assert [sample["tokens"] for sample in line["samples"]] == [len(c.ids) + c.finished for c in expected]
        assert [sample["text"] for sample in line["samples"]] == [TOKENIZER.decode(c.ids, skip_special=True) for c in expected]
        assert [sample["finish_reason"] == "stop" for sample in line["samples"]] == [c.finished for c in expected]
        assert [sample["logprob"] for sample in line["samples"]] == pytest.approx([c.logprob for c in expected], abs=1e-3)


def test_rows_set_what_they_name(model, tmp_path):
    rows = [
        {"prompt": "a", "seed": 4, "n": 2},
        {"prompt": "a", "seed": 4, "n": 2},
        {"prompt": "a", "max_tokens": 1, "temperature": 0},
    ]
    generate(Job(model, written(tmp_path / "in", rows), max_tokens=8), tmp_path / "out")
    first, second, third = (line["samples"] for line in lines(tmp_path / "out"))
    assert first == second and len(first) == 2 and [sample["tokens"] for sample in third] == [1]


def test_rows_with_a_form(model, tmp_path):
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"], "additionalProperties": False}
    rows = [{"prompt": "a", "guided_json": schema}, {"messages": [{"role": "user", "content": "?"}], "guided_regex": "[0-9]{3}"}]
    generate(Job(model, written(tmp_path / "in", rows), n=4, max_tokens=30), tmp_path / "out")
    first, second = ([sample["text"] for sample in line["samples"]] for line in lines(tmp_path / "out"))
    assert all(json.loads(text) in ({"x": 1}, {"x": 2}) for text in first)
    assert all(re.fullmatch("[0-9]{3}", text) for text in second)
    with pytest.raises(InputError, match="'not'"):
        generate(Job(model, written(tmp_path / "no", [{"prompt": "a", "guided_json": {"not": {}}}])), tmp_path / "none")


@pytest.mark.parametrize("cut", [0, 1, 300, -1, -400])
def test_a_cut_output_is_completed_to_the_same_bytes(whole, tmp_path, cut):
    out = interrupted(whole, tmp_path, cut)
    generate(whole[0], out)
    assert out.read_bytes() == whole[1].read_bytes()
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_finished_windows_are_not_computed_again(whole, tmp_path, monkeypatch):
    job = whole[0]
    second_window = sum(map(len, whole[1].read_bytes().splitlines(keepends=True)[:6]))
    out = interrupted(whole, tmp_path, second_window + 9)
    from puna.infer import batch

    asked = []
    monkeypatch.setattr(batch, "_lines", lambda job, rows: asked.append([row[0] for row in rows]) or [{}] * len(rows))
    assert generate(job, out) == {"rows": 11, "kept": 6}
    assert asked == [[7, 8, 9], [10, 11]]
    assert generate(job, out) == {"rows": 11, "kept": 11} and len(asked) == 2


def test_killed_and_run_again(whole, tmp_path, model):
    job, output = whole[0], whole[1].read_bytes()
    out = tmp_path / "out.jsonl"
    options = ["--n", "3", "--max-tokens", "12", "--seed", "5", "--window", "3", "--threads", "1"]
    words = [sys.executable, "-c", "from puna.cli import main; main()", "generate", model, job.prompts, out, *options]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size) and running.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    generate(job, out)
    assert out.read_bytes() == output


@pytest.mark.slow
def test_replicas_leave_the_same_bytes(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "POOL_START_S", 0.0)  # what is over soon would not leave this process
    generate(whole[0], tmp_path / "out.jsonl", replicas=2, threads=1)
    assert (tmp_path / "out.jsonl").read_bytes() == whole[1].read_bytes()


@pytest.mark.slow
def test_ray_leaves_the_same_bytes(whole, tmp_path):
    pytest.importorskip("ray")
    job, output = whole[0], whole[1].read_bytes()
    generate(job, tmp_path / "out.jsonl", replicas=2, ray=True)
    assert (tmp_path / "out.jsonl").read_bytes() == output


def test_another_job_is_not_mixed_in(whole, tmp_path):
    job = whole[0]
    out = interrupted(whole, tmp_path, 0)
    with pytest.raises(InputError, match="not the output of this job"):
        generate(Job(job.model, job.prompts, n=3, max_tokens=12, seed=6, window=3), out)
    (tmp_path / "mine.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="not the output of this job"):
        generate(job, tmp_path / "mine.jsonl")


BAD = [
    ({"prompt": "x", "n": True}, "true or false"),
    ("{", "JSON"), ({"text": "x"}, "either a prompt or messages"), ({"prompt": ""}, "empty"), ({"prompt": "x", "n": 0}, "n:"),
    ({"prompt": "x" * 300}, "301 tokens"), ({"messages": [{"role": "robot", "content": ""}]}, "role"),
    ({"prompt": "x", "tempreature": 3}, "'temperature' may be meant"), ({"prompt": "x", "n": 10**8}, "n:"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "named"), BAD, ids=str)
def test_bad_rows_are_named_before_anything_runs(model, tmp_path, row, named):
    text = row if isinstance(row, str) else json.dumps(row)
    (tmp_path / "in").write_text(json.dumps(ROWS[1]) + "\n\n" + text + "\n" + json.dumps(ROWS[2]) + "\n")
    with pytest.raises(InputError, match=named) as refused:
        generate(Job(model, tmp_path / "in", max_tokens=2), tmp_path / "out")
    assert refused.value.where == f"{tmp_path / 'in'}:3" and not (tmp_path / "out").exists()
    generate(Job(model, tmp_path / "in", max_tokens=2), tmp_path / "out", skip_bad=True)
    assert [line["id"] for line in lines(tmp_path / "out")] == [1, 4]
    [bad] = lines(tmp_path / "out.bad.jsonl")
    assert bad["line"] == 3 and named in bad["reason"]


def test_rows_of_other_tools_mean_what_ours_mean(model, tmp_path):
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    theirs = [
        {"question": " 3 figs and 1,000 more?", "answer": "3+1000\n#### 1,003"},
        {"messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": "u"},
                      {"role": "assistant", "content": None, "tool_calls": [call]},
                      {"role": "tool", "tool_call_id": "1", "content": "4"}]},
    ]  # fmt: skip
    ours = [
        {"prompt": [{"role": "user", "content": "3 figs and 1,000 more?"}], "verifier": "number", "reference": "1003"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
                      {"role": "assistant", "tool_calls": '{"name": "add", "parameters": {"a": 1}}'},
                      {"role": "ipython", "content": "4"}]},
    ]  # fmt: skip
    for other, own in zip(theirs, ours, strict=True):
        assert PromptRow.model_validate(other).dialog == PromptRow.model_validate(own).dialog
    found = [PromptRow.model_validate(rows[0]) for rows in (theirs, ours)]
    assert {(row.verifier, row.reference) for row in found} == {("number", "1003")}
    generate(Job(model, written(tmp_path / "in", theirs[:1]), max_tokens=2, score="verify"), tmp_path / "out")
    assert lines(tmp_path / "out")[0]["samples"][0]["score"] == 0.0


def test_verdicts_and_the_best(model, tmp_path):
    task = {"prompt": [{"role": "user", "content": "7 + 3"}], "verifier": "contains", "reference": ["e"], "n": 12}
    given = written(tmp_path / "in", [task, {**task, "reference": []}, {**task, "reference": ["no such text"]}])
    found = generate(Job(model, given, max_tokens=40, score="verify"), tmp_path / "all")
    generate(Job(model, given, max_tokens=40, score="verify", best=True), tmp_path / "best")
    drawn = [line["samples"] for line in lines(tmp_path / "all")]
    for sample in drawn[0]:
        assert sample["score"] == float("e" in sample["text"] and sample["finish_reason"] == "stop")
    assert {sample["score"] for sample in drawn[2]} == {0.0}
    scores = [sample["score"] for samples in drawn for sample in samples]
    assert found["scored"] == len(scores) == 36 and found["mean_score"] == pytest.approx(sum(scores) / 36)
    for samples, line in zip(drawn, lines(tmp_path / "best"), strict=True):
        assert line["samples"] == [max(samples, key=lambda sample: sample["score"])]
    with pytest.raises(InputError, match="verifier"):
        generate(Job(model, written(tmp_path / "other", ROWS[:1]), score="verify"), tmp_path / "o")


def test_reward_scores_are_the_reward_models(model, reward, tmp_path):
    dialog = [{"role": "user", "content": "why?"}]
    given = written(tmp_path / "in", [{"messages": dialog, "n": 4}, {"messages": dialog, "n": 1, "max_tokens": 200, "seed": 1}])
    generate(Job(model, given, max_tokens=10, score=f"reward:{reward}"), tmp_path / "out")
    ids = render(TOKENIZER, [Message("user", "why?")], generation_prompt=True).ids
    request = Request(ids, n=4, temperature=1.0, max_tokens=10, seed=derive_seed(0, "generate", 1))
    answers = Engine(load_model(model).eval(), stop_ids=TOKENIZER.stop_ids).generate([request])[0]
    said = [parse(TOKENIZER, c.ids + ([] if c.stop_id is None else [c.stop_id])) for c in answers]
    scores = Reward(reward).scores([render(TOKENIZER, [Message("user", "why?"), message]) for message in said])
    first, second = lines(tmp_path / "out")
    assert [sample["score"] for sample in first["samples"]] == pytest.approx(scores, abs=1e-4)
    long = second["samples"][0]
    assert (long["score"] is None) == (len(ids) + long["tokens"] > 128)


@pytest.mark.parametrize(("wrong", "named"), [
    ({"score": "nicest"}, "nicest"), ({"best": True}, "needs a score"), ({"n": 10**8}, "samples of each row"),
    ({"device": "tpu"}, "no device 'tpu'"), ({"device": "cuda"}, "no GPU"), ({"kernels": "fast"}, "no kernels 'fast'"),
])  # fmt: skip
def test_senseless_jobs_are_refused(model, tmp_path, wrong, named, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=named):
        generate(Job(model, written(tmp_path / "in", ROWS), **wrong), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
