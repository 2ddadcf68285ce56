"""The annotation page: what it shows, what it writes, what it refuses, and how it goes on."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

pytest.importorskip("httpx")
from fastapi.testclient import TestClient
from scripted import byte_tokenizer

from puna.infer.engine import Completion
from puna.post.annotations import left_of
from puna.post.comparisons import Comparison, read_comparisons, read_prompts
from puna.post.paired_models import Drawing, PairedModels
from puna.serve.annotate import build_app
from puna.tokenizer.chat import Message, render, with_tools
from puna.tokenizer.dialog import Preference, read_rows

TOKENIZER = byte_tokenizer()
TOOLS = '[{"type": "function", "function": {"name": "add"}}]'
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
CALL = '{"name": "add", "parameters": {"a": 7}}'


def comparisons(tmp_path: Path, *rows: dict) -> list[Comparison]:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_comparisons(path, None, "MIT", seed=0).comparisons


def pairs(tmp_path: Path, count: int = 3) -> list[Comparison]:
    return comparisons(tmp_path, *({"prompt": f"q{i}", "candidates": [f"a{i}", f"b{i}"]} for i in range(count)))


def client(found: list[Comparison], out: Path, **options) -> TestClient:
    return TestClient(build_app(found, out, **options), base_url="http://127.0.0.1")


def state(c: TestClient, name: str = "ann") -> dict:
    return c.get("/api/state", params={"annotator": name}).json()


def decide(c: TestClient, shown: dict, side: str = "left", strength: str = "better", **more):
    body = {"annotator": shown["annotator"], "item": shown["item"]["id"], "side": side, "strength": strength, **more}
    return c.post("/api/decide", json=body)


def rows(out: Path, name: str = "ann") -> list[Preference]:
    return list(read_rows(out / f"{name}.jsonl", Preference))


def test_a_decision_is_a_preference_row_and_the_next_comparison_comes(tmp_path):
    with client(pairs(tmp_path), tmp_path / "out", seed=5) as c:
        first = state(c)
        assert (first["done"], first["total"], first["can_undo"]) == (0, 3, False)
        assert [m["content"] for m in first["item"]["context"]] == ["q0"]
        second = decide(c, first, "right", "slightly", seconds=3.21).json()
        assert (second["done"], second["item"]["context"][0]["content"]) == (1, "q1")
        (row,) = rows(tmp_path / "out")
        left = row.provenance.checks["left"]
        assert row.candidates[left].messages[0].content == first["item"]["left"]["message"]["content"]
        assert row.ranking == [1 - left, left] and (row.strength, row.kind) == ("slightly", "human")
        assert (row.provenance.judge, row.provenance.licence, row.provenance.source) == ("ann", "MIT", "pairs.jsonl")
        assert (row.provenance.checks["order_seed"], row.provenance.checks["seconds"]) == (5, 3.2)


def test_an_edit_is_above_the_chosen_answer_and_an_unchanged_one_is_none(tmp_path):
    with client(pairs(tmp_path), tmp_path / "out") as c:
        first = state(c)
        second = decide(c, first, edited={"role": "assistant", "content": "mended"}).json()
        decide(c, second, edited=second["item"]["left"]["message"])
        edited, plain = rows(tmp_path / "out")
        texts = [edited.candidates[i].messages[0].content for i in edited.ranking]
        assert texts == ["mended", first["item"]["left"]["message"]["content"], first["item"]["right"]["message"]["content"]]
        assert edited.candidates[2].origin == "annotator:ann" and len(plain.candidates) == 2
        assert decide(c, state(c), edited={"role": "user", "content": "x"}).status_code == 400


def test_progress_skips_and_undo_survive_a_restart(tmp_path):
    found, out = pairs(tmp_path, 4), tmp_path / "out"
    with client(found, out) as c:
        second = decide(c, state(c)).json()
        third = c.post("/api/skip", json={"annotator": "ann", "item": second["item"]["id"]}).json()
        decide(c, third)
    with client(found, out) as c:
        last = state(c)
        assert (last["done"], last["skipped"], last["item"]["context"][0]["content"]) == (2, 1, "q3")
        back = [c.post("/api/undo", json={"annotator": "ann"}).json() for _ in range(3)]
        assert [s["item"]["context"][0]["content"] for s in back] == ["q2", "q1", "q0"]
        assert [(s["done"], s["skipped"], s["can_undo"]) for s in back] == [(1, 1, True), (1, 0, True), (0, 0, False)]
        assert rows(out) == [] and c.post("/api/undo", json={"annotator": "ann"}).json()["item"]["id"] == back[-1]["item"]["id"]


def test_annotators_have_files_and_sides_of_their_own(tmp_path):
    found, out = pairs(tmp_path, 30), tmp_path / "out"
    sides = {name: [left_of(comparison, name, 0) for comparison in found] for name in ("ann", "bo")}
    assert sides["ann"] != sides["bo"] and all(5 < sum(each) < 25 for each in sides.values())
    with client(found, out) as c:
        decide(c, state(c, "ann"))
        assert state(c, "bo")["done"] == 0
        decide(c, state(c, "bo"))
    assert [len(rows(out, name)) for name in ("ann", "bo")] == [1, 1]
    assert rows(out, "ann")[0].id != rows(out, "bo")[0].id


def test_a_decision_is_taken_once(tmp_path):
    with client(pairs(tmp_path), tmp_path / "out") as c:
        first = state(c)
        assert decide(c, first).status_code == 200
        assert decide(c, first).status_code == 409
        assert len(rows(tmp_path / "out")) == 1
    with client(pairs(tmp_path), tmp_path / "out") as c:  # a page left open over a restart
        assert decide(c, first).status_code == 409


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 41, "a.skipped", "a\n"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with client(pairs(tmp_path), tmp_path / "out") as c:
        assert c.get("/api/state", params={"annotator": name}).status_code == 400
        assert c.post("/api/undo", json={"annotator": name}).status_code == 400
    assert not (tmp_path / "out").exists() and not (tmp_path / "x.jsonl").exists()


def test_other_sites_large_and_malformed_requests_are_refused(tmp_path):
    with client(pairs(tmp_path), tmp_path / "out") as c:
        assert c.get("/api/state?annotator=ann", headers={"Host": "evil.example"}).status_code == 403
        assert c.post("/api/undo", json={"annotator": "ann"}, headers={"Origin": "http://evil.example"}).status_code == 403
        assert c.post("/api/undo", content=b" " * (5 << 20)).status_code == 413
        first = state(c)
        for bad in ({"side": "up"}, {"strength": "much"}, {"edited": {"role": "assistant", "content": 3}}, {"more": 1}):
            assert decide(c, first, **{"side": "left", "strength": "better"} | bad).status_code == 400
        assert decide(c, first, follow={"role": "user", "content": "x"}).status_code == 400
        assert not (tmp_path / "out" / "ann.jsonl").exists()


def test_untrusted_text_is_data_and_pages_allow_their_own_files_only(tmp_path):
    found = comparisons(tmp_path, {"prompt": HOSTILE, "candidates": [HOSTILE + "1", "x" * 100_000]})
    with client(found, tmp_path / "out") as c:
        reply = c.get("/api/state", params={"annotator": "ann"})
        assert reply.headers["content-type"] == "application/json"
        item = reply.json()["item"]
        assert {len(item[side]["message"]["content"]) for side in ("left", "right")} == {len(HOSTILE) + 1, 100_000}
        assert "origin" not in json.dumps(item)
        page, script = c.get("/"), c.get("/annotate.js")
        assert "script-src" not in page.headers["content-security-policy"]
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert not any(
            word in script.text for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
        )
        assert all(f"<kbd>{key}</kbd>" in page.text for key in ("e", "g", "s", "u", "n", "Enter", "Esc", "1", "8"))
        decide(c, state(c))
        assert len(rows(tmp_path / "out")) == 1


class Says:
    """A stand-in engine that ends its answers, or not."""

    max_seq_len = 2000

    def __init__(self, *answers: str | None):
        self.answers, self.prompts = answers, []

    def generate(self, requests):
        (request,) = requests
        self.prompts.append(list(request.prompt_ids))
        said = [self.answers[i % len(self.answers)] for i in range(request.n)]
        return [[_completion(text) for text in said]]


def _completion(text: str | None) -> Completion:
    if text is None:
        return Completion(list(b"cut"), False, None, 0.0)
    head, tag, call = text.partition("|")
    ids = [*head.encode(), *([TOKENIZER.python_tag_id, *call.encode()] if tag else [])]
    return Completion(ids, True, TOKENIZER.eom_id if tag else TOKENIZER.eot_id, 0.0)


def prompts(tmp_path: Path, *rows: dict) -> list[Comparison]:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_prompts(path, "MIT").comparisons


def test_two_models_answer_and_a_dialog_with_tools_goes_on_message_by_message(tmp_path):
    engines = {"one": Says("|" + CALL, "x"), "two": Says("hello")}
    found, out = prompts(tmp_path, {"prompt": "sum?", "tools": json.loads(TOOLS)}, {"prompt": "later"}), tmp_path / "out"

    def app() -> TestClient:
        models = PairedModels({name: (engine, TOKENIZER) for name, engine in engines.items()}, Drawing(), seed=1)
        return client(found, out, models=models)

    with app() as c:
        first = state(c)
        side = "left" if first["item"]["left"]["message"]["tool_calls"] == CALL else "right"
        assert first["item"][side]["message"]["tool_calls"] == CALL and first["can_follow"] and first["item"]["tools"] == TOOLS
        asked = with_tools([Message("user", "sum?")], TOOLS)
        assert engines["one"].prompts[0] == render(TOKENIZER, asked, generation_prompt=True).ids
        assert decide(c, first, side, follow={"role": "user", "content": "7"}).status_code == 400  # a tool answers a call
        second = decide(c, first, side, follow={"role": "ipython", "content": "7"}).json()
        assert [(m["role"], m["content"]) for m in second["item"]["context"]] == [
            ("user", "sum?"),
            ("assistant", ""),
            ("ipython", "7"),
        ]
    with app() as c:  # the dialog goes on after a restart
        assert state(c)["item"]["id"] == second["item"]["id"]
        third = decide(c, state(c)).json()
        assert third["item"]["context"][0]["content"] == "later"
    first_row, second_row = rows(out)
    assert {c.origin for c in first_row.candidates} == {"one", "two"} and first_row.tools == second_row.tools == TOOLS
    assert second_row.provenance.parents == [first_row.id] and second_row.context[:1] == first_row.context


def test_a_draw_that_failed_is_drawn_again(tmp_path):
    (comparison,) = prompts(tmp_path, {"prompt": "a"})

    class Once(Says):
        failed = False

        def generate(self, requests):
            if not self.failed:
                self.failed = True
                raise RuntimeError("out of memory")
            return super().generate(requests)

    models = PairedModels({"one": (Once("x"), TOKENIZER), "two": (Says("y"), TOKENIZER)}, Drawing(), seed=1)
    with pytest.raises(RuntimeError, match="out of memory"):
        models.start(comparison).result(5)
    again = models.start(comparison)
    assert {c.messages[0].content for c in again.result(5).candidates} == {"x", "y"} and models.start(comparison) is again
    models.close()


def test_the_end_does_not_wait_for_a_draw(tmp_path):
    first, second = prompts(tmp_path, {"prompt": "a"}, {"prompt": "b"})
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Says):
        def generate(self, requests):
            begun.set()
            go_on.wait(30)
            return super().generate(requests)

    models = PairedModels({"one": (Slow("x"), TOKENIZER), "two": (Slow("y"), TOKENIZER)}, Drawing(), seed=1)
    drawn, waiting = models.start(first), models.start(second)
    assert begun.wait(5)
    models.close()
    assert waiting.cancelled() and drawn.running()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "answers" and thread.is_alive()]
    assert thread.daemon
    go_on.set()
    thread.join(5)
    assert not thread.is_alive() and drawn.done()


def test_answers_that_did_not_end_or_are_the_same_leave_no_choice(tmp_path):
    found = prompts(tmp_path, {"prompt": "a"}, {"prompt": "b"})
    for engines in ((Says("same"), Says("same")), (Says(None), Says("x"))):
        models = PairedModels({str(i): (engine, TOKENIZER) for i, engine in enumerate(engines)}, Drawing(), seed=1)
        with client(found, tmp_path / "out", models=models) as c:
            assert (state(c)["item"], state(c)["no_choice"]) == (None, 2)
