"""Answering tasks: what counts, what does not, and scores over several models, with counts made by hand."""

import json

import pytest

from puna.core.errors import InputError
from puna.core.graph import Source
from puna.core.stage import local_artifact, local_context
from puna.evals import command, one, scores
from puna.evals.command import evaluate
from puna.evals.comparison import Comparison
from puna.evals.one import read_items, write_items
from puna.evals.stats import paired, wilson
from puna.evals.tasks import Answer, run_tasks
from puna.infer.engine import Completion, Request
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import render
from puna.tokenizer.dialog import MessageRow, Provenance, Task, write_rows

TOKENIZER = Tokenizer.from_ranks({bytes([i]): i for i in range(256)})


def task(number: int, prompt: str = "How many?", **changes) -> Task:
    row = {
        "id": f"t{number}", "prompt": [MessageRow(role="user", content=f"{prompt} {number}")], "verifier": "number",
        "reference": number, "family": "math" if number % 2 else "count", "capability": "maths",
        "lang": "en" if number < 3 else "de",
        "provenance": Provenance(source="test", licence="CC0-1.0"),
    }  # fmt: skip
    return Task(**{**row, **changes})


class Scripted:
    """Stands in for an engine: says what it was told to."""

    def __init__(self, completions: list[list[Completion]], max_seq_len: int = 200):
        self.completions, self.max_seq_len, self.requests = completions, max_seq_len, []

    def generate(self, requests: list[Request], progress=None) -> list[list[Completion]]:
        self.requests = list(requests)
        return self.completions


def says(text: str, finished: bool = True) -> Completion:
    return Completion(TOKENIZER.encode(text), finished, TOKENIZER.eot_id if finished else None, -1.0)


def test_only_finished_right_answers_pass():
    engine = Scripted([[says("it is 1")], [says("it is 7")], [says("it is 3", finished=False)]])
    answers = run_tasks(engine, TOKENIZER, [task(1), task(2), task(3)], max_tokens=9, seed=4)
    assert [(a.task_id, a.passed, a.finished) for a in answers] == [("t1", True, True), ("t2", False, True), ("t3", False, False)]
    assert answers[0].text == "it is 1" and answers[0].ids == TOKENIZER.encode("it is 1")
    assert engine.requests[0].prompt_ids == render(TOKENIZER, task(1).prompt, generation_prompt=True).ids
    assert {r.max_tokens for r in engine.requests} == {9} and len({r.seed for r in engine.requests}) == 3


def test_tool_calls_are_parsed():
    call = '{"name": "add", "parameters": {"a": 7, "b": 5}}'
    ids = [TOKENIZER.python_tag_id, *TOKENIZER.encode(call)]
    engine = Scripted([[Completion(ids, True, TOKENIZER.eom_id, 0.0)]])
    tool = task(1, verifier="tool_call", reference=json.loads(call))
    (answer,) = run_tasks(engine, TOKENIZER, [tool])
    assert answer.passed and answer.text == "<|python_tag|>" + call


def test_a_prompt_without_room_fails_and_the_others_stay_in_place():
    engine = Scripted([[says("1"), says("2")], [says("3"), says("3")]])
    answers = run_tasks(engine, TOKENIZER, [task(1), task(2, prompt="x" * 300), task(3)], n=2)
    assert [(a.task_id, a.passed) for a in answers] == [
        ("t1", True), ("t1", False), ("t2", False), ("t2", False), ("t3", True), ("t3", True),
    ]  # fmt: skip
    assert len(engine.requests) == 2


# ---- stages


@pytest.fixture
def world(tmp_path):
    """Two random models and ten tasks, as artifacts."""
    artifacts = []
    for name, seed in (("first", 1), ("second", 2)):
        config = ModelConfig(vocab_size=TOKENIZER.vocab_size, dim=16, layers=1, heads=2, kv_heads=1, ffn_dim=32, max_seq_len=128)
        save_model(Llama(config, seed=seed), tmp_path / name, tokenizer=TOKENIZER)
        artifacts.append(local_artifact(tmp_path / name, "model"))
    (tmp_path / "tasks").mkdir()
    write_rows(tmp_path / "tasks" / "test.jsonl", [task(i) for i in range(10)])
    return [*artifacts, local_artifact(tmp_path / "tasks", "tasks")]


def items(model: str, passed: str) -> list[dict]:
    rows = [task(i) for i in range(len(passed))]
    return [
        {
            "task_id": t.id, "model": model, "family": t.family, "capability": t.capability, "lang": t.lang, "text": "?",
            "passed": p == "1", "finished": p != "u",
        }
        for t, p in zip(rows, passed, strict=True)
    ]  # fmt: skip


def part(path, model: str, passed: str):
    path.mkdir()
    write_items(items(model, passed), path / "items.parquet")
    (path / "model.json").write_text(json.dumps({"model": model}))
    return local_artifact(path, "answers")


def test_scores_add_up(tmp_path):
    parts = [part(tmp_path / "a", "rs", "11110110u0"), part(tmp_path / "b", "control", "1100000000")]
    settings = scores.Settings(compare=[Comparison(name="RS", better="rs", control="control")])
    summary = scores.run(settings, local_context(tmp_path / "out", inputs=parts))
    result = json.loads((tmp_path / "out" / "scores.json").read_text())
    model = result["models"]["rs"]
    assert model["overall"] == {"passed": 6, "n": 10, "accuracy": 0.6, "low": wilson(6, 10)[0], "high": wilson(6, 10)[1]}
    assert model["unfinished"] == 1
    assert {k: (v["passed"], v["n"]) for k, v in model["family"].items()} == {"count": (3, 5), "math": (3, 5)}
    assert {k: (v["passed"], v["n"]) for k, v in model["lang"].items()} == {"de": (3, 7), "en": (3, 3)}
    (comparison,) = result["comparisons"]
    expected = paired([c == "1" for c in "11110110u0"], [c == "1" for c in "1100000000"])
    assert comparison["difference"] == expected.difference == pytest.approx(0.4) and comparison["p"] == expected.p == 0.125
    assert summary["accuracy"]["control"]["passed"] == 2 and len(read_items(tmp_path / "out" / "items.parquet")) == 20


def test_direct_and_expanded_stages_agree(world, tmp_path):
    direct = local_context(tmp_path / "direct", inputs=world, seed=3)
    settings = scores.Settings(limit=8, max_tokens=12, temperature=1.0)
    scores.run(settings, direct)
    kinds = [Source(a.name, a.kind) for a in world]
    stages = scores.expand("exam", settings, kinds)
    assert list(stages) == ["exam.first", "exam.second", "exam"]
    parts = []
    for name, stage in list(stages.items())[:-1]:
        inputs = [a for a in world if a.name in stage["from"]]
        own = {k: v for k, v in stage.items() if k not in ("uses", "from")}
        ctx = local_context(tmp_path / name, name=name, inputs=inputs, seed=3)
        assert one.run(one.Settings(**own), ctx)["n"] == 8
        parts.append(local_artifact(tmp_path / name, "answers"))
    assert stages["exam"]["from"] == ["exam.first", "exam.second"]
    scores.run(settings, local_context(tmp_path / "joined", inputs=parts, seed=3))
    for file in ("scores.json", "items.parquet"):
        assert (tmp_path / "direct" / file).read_bytes() == (tmp_path / "joined" / file).read_bytes()
    texts = [item["text"] for item in read_items(tmp_path / "joined" / "items.parquet")]
    assert len(texts) == 16 and texts[:8] != texts[8:]


def test_wrong_names_and_missing_inputs(tmp_path):
    settings = scores.Settings(compare=[Comparison(name="x", better="a", control="b")])
    with pytest.raises(InputError, match="compare names 'b'"):
        scores.expand("exam", settings, [Source("a", "model"), Source("t", "tasks")])
    with pytest.raises(InputError, match="one stage that makes tasks"):
        scores.expand("exam", scores.Settings(), [Source("a", "model")])
    with pytest.raises(InputError, match="no model to score"):
        scores.run(scores.Settings(), local_context(tmp_path / "out"))


def test_no_tasks_is_a_note_and_not_a_failure(world, tmp_path):
    (world[2].path / "test.jsonl").write_text("")
    notes = []
    ctx = local_context(tmp_path / "out", inputs=world)
    ctx.report = notes.append
    scores.run(scores.Settings(), ctx)
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["models"]["first"]["overall"]["accuracy"] is None
    assert "no verifiable task" in notes[0]["text"]


def test_evaluate_prints_a_table_and_json(world, capsys):
    rows = [task(number) for number in range(10)]
    result = evaluate(world[0].path, rows[:4], source="mine")
    assert "overall" in capsys.readouterr().out and result["overall"]["n"] == 4
    evaluate(world[0].path, rows, source="mine", as_json=True)
    assert json.loads(capsys.readouterr().out)["lang"]["de"]["n"] == 7


def test_evaluate_estimates_pass_at_k_from_several_samples(world, monkeypatch, capsys):
    right = {0: [True, False, False, False], 1: [False, True, True, False], 2: [False] * 4}
    rows = [task(number) for number in range(3)]

    def drawn(engine, tokenizer, tasks, *, n, **drawing):
        assert drawing["temperature"] == 0.8 and n == 4
        return [Answer(row.id, "", passed) for i, row in enumerate(tasks) for passed in right[i]]

    monkeypatch.setattr(command, "run_tasks", drawn)
    result = evaluate(world[0].path, rows, source="mine", samples=4, temperature=0.8)
    assert result["overall"]["passed"] == 1  # of the first samples
    expected = {"1": (1 / 4 + 2 / 4) / 3, "2": (1 / 2 + 5 / 6) / 3, "4": 2 / 3}
    assert {k: value["accuracy"] for k, value in result["pass_at"].items()} == pytest.approx(expected)
    assert all(value["low"] <= value["accuracy"] <= value["high"] and value["n"] == 3 for value in result["pass_at"].values())
    assert "pass@4" in capsys.readouterr().out
