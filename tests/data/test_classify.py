"""The stage that trains classifiers: files, a judge behind a loopback server, resume, reports against direct counting."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from puna.core import chat_api
from puna.core.errors import InputError, Preempted, RunError
from puna.core.intervals import wilson
from puna.core.stage import local_artifact, local_context
from puna.data import classify
from puna.data.classify_judge import Judge, load_prompt
from puna.data.classify_scores import Classifier, auc, grade_values, load_classifier, report, score_columns
from puna.data.columns import DOCUMENT_COLUMNS, write_shard_table
from puna.data.linear import LinearSettings, train_linear

DATA = Path(__file__).parents[2].parent / "shared" / "data"
PROSE = "The river rises in the hills above the town and flows past mill number {} on its long way to the sea."
CODE = "def area_{0}(width, height):\n    # rectangle {0}\n    return width * height + {0}"


def write_documents(root: Path, texts: list[str]) -> Path:
    (root / "documents").mkdir(parents=True)
    rows = [dict.fromkeys(DOCUMENT_COLUMNS, "") | {"id": f"d{i:04d}", "text": text} for i, text in enumerate(texts)]
    half = len(rows) // 2
    write_shard_table(root / "documents" / "00000.parquet", rows[:half], DOCUMENT_COLUMNS)
    write_shard_table(root / "documents" / "00001.parquet", rows[half:], DOCUMENT_COLUMNS)
    return root


def run(out: Path, source: Path | None = None, ctx=None, **settings) -> dict:
    ctx = ctx or local_context(out, inputs=[local_artifact(source, "documents")] if source else [])
    return classify.run(classify.Settings(**settings), ctx)


@contextmanager
def judge_server(answer, states=()) -> Iterator[tuple[str, list[dict]]]:
    """A chat API on the loopback that answers by a function; `states` are HTTP states to give before good answers."""
    asked: list[dict] = []
    refusals = iter(states)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state = next(refusals, 200)
            if state == 200:
                asked.append(body | {"path": self.path, "authorization": self.headers.get("Authorization")})
            reply = {"choices": [{"message": {"content": answer(body["messages"][-1]["content"])}}]}
            payload = json.dumps(reply | {"usage": {"prompt_tokens": 100, "completion_tokens": 2}}).encode()
            self.send_response(state)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def by_form(prompt: str) -> str:
    return "Code." if "def area" in prompt else "other" if "mill number 7 " not in prompt else "code or other"


@pytest.fixture
def documents(tmp_path) -> Path:
    texts = [PROSE.format(i) for i in range(60)] + [CODE.format(i) for i in range(60)]
    return write_documents(tmp_path / "docs", texts)


def test_labels_of_files_train_a_classifier_that_scores_columns(tmp_path):
    rows = [{"text": PROSE.format(i), "label": "prose"} for i in range(50)]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + "torn{\n" + '{"text": ""}\n{"text": "x"}\n'
    )
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"body": CODE.format(i), "stars": i}) + "\n" for i in range(50)))
    labels = [str(tmp_path / "a.jsonl"), {"path": str(tmp_path / "b.jsonl"), "label": "code", "licence": "MIT"}]
    ctx = local_context(tmp_path / "form")
    summary = run(tmp_path / "form", ctx=ctx, labels=labels, positive="code")
    assert summary["classes"] == {"code": 50, "prose": 50}
    assert summary["bad_rows"] == {"no JSON object": 1, "no text": 1, "no label": 1}
    assert [row["origin"] for row in map(json.loads, (tmp_path / "form" / "bad_rows.jsonl").open())] == [
        f"a.jsonl:{n}" for n in (51, 52, 53)
    ]
    assert {(row["source"], row["licence"], row["rows"]) for row in ctx.lineage} == {
        ("a.jsonl", "unknown", 50),
        ("b.jsonl", "MIT", 50),
    }
    found = summary["held_out"]
    assert found["accuracy"]["value"] == 1.0 and found["n"] + summary["trained_on"] == 100 and 5 <= found["n"] <= 40
    assert found["accuracy"]["interval"] == [round(value, 6) for value in wilson(found["n"], found["n"])]
    classifier = load_classifier(tmp_path / "form", "form")
    columns = score_columns(pa.array([PROSE.format(99), CODE.format(99)]), [classifier])
    assert list(columns) == ["score.form.code", "score.form.prose"] and columns["score.form.code"].dtype == np.float32
    assert columns["score.form.code"][0] < 0.2 and columns["score.form.code"][1] > 0.8
    held = [row["held_out"] for row in map(json.loads, (tmp_path / "form" / "labels.jsonl").open())]
    assert sum(held) == found["n"]
    assert "no held-out" not in (tmp_path / "form" / "volatile" / "notes.txt").read_text()


def test_a_class_without_held_out_texts_is_told(tmp_path):
    texts = [(PROSE.format(i), "prose") for i in range(40)] + [(CODE.format(i), "code") for i in range(40)]
    rows = [{"text": text, "label": label} for text, label in [*texts, ("x = 1", "one line")]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "form", labels=str(tmp_path / "a.jsonl"))
    held = [row["label"] for row in map(json.loads, (tmp_path / "form" / "labels.jsonl").open()) if row["held_out"]]
    assert {"prose", "code"} == set(held)
    notes = (tmp_path / "form" / "volatile" / "notes.txt").read_text().splitlines()
    assert [note for note in notes if "no held-out" in note] == [
        "no held-out text of one line: the report says nothing of how well it is met"
    ]


def test_two_runs_give_the_same_bytes_and_kinds_give_a_column_each(tmp_path):
    rows = [{"text": f"{word} " * 8 + str(i), "label": word} for i in range(30) for word in ("sum", "loop", "sea")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("one", "two"):
        run(tmp_path / name, labels=str(tmp_path / "a.jsonl"))
    for file in ("linear.safetensors", "linear.json", "report.json", "labels.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    columns = score_columns(pa.array(["sea sea sea"]), [load_classifier(tmp_path / "one", "kind")])
    assert list(columns) == ["score.kind.loop", "score.kind.sea", "score.kind.sum"]
    assert sum(column[0] for column in columns.values()) == pytest.approx(1, abs=1e-5)
    assert columns["score.kind.sea"][0] > 0.8


def test_a_judge_labels_a_sample_and_its_cost_is_counted(tmp_path, documents, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with judge_server(by_form) as (url, asked):
        judge = Judge(
            url=url, model="teacher", prompt="code", documents=100, price_in=2.0, price_out=10.0, key_variable="JUDGE_KEY"
        )
        ctx = local_context(tmp_path / "form", inputs=[local_artifact(documents, "documents")])
        summary = run(tmp_path / "form", ctx=ctx, judge=judge)
    assert len(asked) == 100 and {body["path"] for body in asked} == {"/v1/chat/completions"}
    assert asked[0]["model"] == "teacher" and asked[0]["temperature"] == 0 and asked[0]["authorization"] == "Bearer secret"
    assert summary["judge"] == {"model": "teacher", "requests": 100, "tokens_in": 10_000, "tokens_out": 200, "cost": 0.022}
    assert summary["positive"] == "code" and summary["held_out"]["accuracy"]["value"] == 1.0
    assert sum(summary["classes"].values()) + summary["bad_rows"].get("the answer names no single class", 0) == 100
    assert [row["source"] for row in ctx.lineage] == ["teacher"]
    assert "secret" not in "".join(path.read_text() for path in (tmp_path / "form").glob("*.json*"))


def test_a_stopped_judge_asks_nothing_twice(tmp_path, documents):
    with judge_server(by_form) as (url, asked):
        settings = {"judge": Judge(url=url, model="teacher", prompt="code", documents=80, parallel=2)}
        ctx = local_context(tmp_path / "form", inputs=[local_artifact(documents, "documents")])
        calls = iter([False] * 30 + [True])
        ctx.stopping = lambda: next(calls, False)
        with pytest.raises(Preempted):
            run(tmp_path / "form", ctx=ctx, **settings)
        before = len(asked)
        with (tmp_path / "form.scratch" / "judge.jsonl").open("a") as journal:
            journal.write('{"key": "cut sho')
        assert 31 <= before <= 33
        run(tmp_path / "form", ctx=ctx, **settings)
        texts = [body["messages"][1]["content"] for body in asked]
        assert len(set(texts)) == 80 and len(texts) <= 80 + settings["judge"].parallel
        count = len(asked)
        run(tmp_path / "form", ctx=ctx, **settings)
        assert len(asked) == count


def test_a_judge_that_stumbles_is_asked_again_and_one_that_fails_is_named(tmp_path, documents, monkeypatch):
    monkeypatch.setattr(chat_api, "FIRST_WAIT_S", 0.001)
    with judge_server(by_form, states=[503, 429, 500]) as (url, _):
        run(tmp_path / "a", documents, judge=Judge(url=url, model="m", prompt="code", documents=30, parallel=1))
    with judge_server(by_form, states=[401]) as (url, _), pytest.raises(InputError, match="refused the request"):
        run(tmp_path / "b", documents, judge=Judge(url=url, model="m", prompt="code", documents=30, parallel=1))
    with pytest.raises(RunError, match="does not answer"):
        run(tmp_path / "c", documents, judge=Judge(url=url, model="m", prompt="code", documents=3, tries=2, timeout_s=1))
    with pytest.raises(InputError, match="needs the address"):
        run(tmp_path / "d", documents, judge=Judge(model="m"))


def test_documents_stand_for_a_class_of_their_own(tmp_path, documents):
    (tmp_path / "referred.jsonl").write_text("".join(json.dumps({"text": CODE.format(i)}) + "\n" for i in range(200, 260)))
    labels = [{"path": str(tmp_path / "referred.jsonl"), "label": "referred"}]
    summary = run(tmp_path / "out", documents, labels=labels, documents_label="web", documents=40, positive="referred")
    assert summary["classes"] == {"referred": 60, "web": 40}


@pytest.mark.parametrize("name", ["quality", "maths", "code", "knowledge", "rank"])
def test_prompts_name_their_classes_and_read_answers(name):
    prompt = load_prompt(name)
    assert "<<<\n{body} & {text}\n>>>" in prompt.messages("{body} & {text}")[1]["content"]
    assert all(prompt.label(f"Answer: **{each.capitalize()}**.") == each for each in prompt.classes)
    assert prompt.label("I cannot tell") is None and prompt.label(" ".join(prompt.classes)) is None
    assert all(each in prompt.user for each in prompt.classes)


def test_bad_prompts_labels_and_settings_are_refused(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"classes": ["a", "b"], "system": "", "user": "no place"}))
    for prompt, told in ((str(tmp_path / "p.json"), "two classes"), ("unheard", "no prompt")):
        with pytest.raises(InputError, match=told):
            load_prompt(prompt)
    with pytest.raises(ValueError, match="labels come from"):
        classify.Settings()
    with pytest.raises(InputError, match="cannot be read"):
        run(tmp_path / "out", labels=str(tmp_path / "none.jsonl"))
    (tmp_path / "one.jsonl").write_text('{"text": "a b c", "label": "x"}\n' * 20)
    with pytest.raises(InputError, match="two classes"):
        run(tmp_path / "out", labels=str(tmp_path / "one.jsonl"))
    with pytest.raises(InputError, match="positive class"):
        run(tmp_path / "out", labels=str(tmp_path / "one.jsonl"), positive="y")


def test_the_report_equals_direct_counting():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 200)
    scores = np.clip(labels * 0.3 + rng.random(200) * 0.7, 0, 1).round(2).astype(np.float32)  # rounded: ties
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels == 1] for b in scores[labels == 0]]
    area = auc(scores, labels == 1)
    assert area["value"] == pytest.approx(float(np.mean(pairs)), abs=1e-6)
    assert area["interval"][0] < area["value"] < area["interval"][1] <= 1
    found = report(np.stack([1 - scores, scores], axis=1), labels, ["no", "yes"], "yes")
    row = next(row for row in found["thresholds"]["yes"] if row["threshold"] == 0.6)
    kept = scores >= np.float32(0.6)
    assert row["precision"]["value"] == pytest.approx(labels[kept].mean(), abs=1e-6) and row["precision"]["n"] == kept.sum()
    assert row["recall"]["value"] == pytest.approx(kept[labels == 1].mean(), abs=1e-6)
    assert sum(sum(row.values()) for row in found["confusion"].values()) == 200 == found["n"]
    assert auc(scores, np.ones(200, dtype=bool))["value"] is None


def test_grades_give_an_expected_grade():
    assert grade_values(["0", "1", "2", "3", "4"]).tolist() == [0, 0.25, 0.5, 0.75, 1] and grade_values(["a", "2"]) is None
    texts = pa.array(["bad " * 9, "fair " * 9, "good " * 9])
    model = train_linear(texts, np.array([0, 1, 2]), ["0", "1", "4"], LinearSettings(buckets_log2=10, epochs=20))
    columns = score_columns(texts, [Classifier("rank", model)])
    assert list(columns) == ["score.rank.0", "score.rank.1", "score.rank.4", "score.rank.grade"]
    expected = columns["score.rank.1"] / 4 + columns["score.rank.4"]
    assert columns["score.rank.grade"] == pytest.approx(expected, abs=1e-6)
    assert columns["score.rank.grade"].argsort().tolist() == [0, 1, 2]
