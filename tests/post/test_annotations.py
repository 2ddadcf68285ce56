"""Comparisons out of files, annotation files after a kill, and the agreement report against figures known by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from post_toys import PROVENANCE, toy_task, toy_tokenizer

from puna.core.errors import InputError
from puna.core.intervals import wilson
from puna.post.agreement import agreement, kappa, text
from puna.post.annotations import Annotations, Decision, left_of
from puna.post.comparisons import Comparison, read_comparisons, read_prompts
from puna.post.examples import encode_preferences
from puna.tokenizer.dialog import Candidate, MessageRow, Preference, Sample, read_rows, write_rows

CALL = '{"name": "add", "parameters": {"a": 1}}'
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def heads(comparison: Comparison) -> list[str]:
    return [candidate.messages[0].content for candidate in comparison.candidates]


def test_rows_of_every_form_become_comparisons(tmp_path):
    candidates = [{"messages": [{"role": "assistant", "content": t}], "origin": o, "score": 1.0} for t, o in ("xA", "yB")]
    path = lines(
        tmp_path / "a.jsonl",
        {"prompt": "p", "candidates": ["a", "b"]},
        {"messages": [{"role": "user", "content": "m"}], "responses": [[{"role": "assistant", "content": "c"}], "d"]},
        {"context": [{"role": "user", "content": "c"}], "candidates": candidates},
        {"prompt": "same", "candidates": ["a", "a"]},
        {"prompt": "p", "candidates": ["a", "b"]},
    )
    read = read_comparisons(path, None, "MIT", seed=0)
    assert [heads(c) for c in read.comparisons] == [["a", "b"], ["c", "d"], ["x", "y"]]
    assert [c.origin for c in read.comparisons[2].candidates] == ["A", "B"]
    assert (read.same, read.repeated) == (1, 1) and len(read.notes()) == 2


def test_of_several_answers_two_different_ones_are_drawn_by_the_seed(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"prompt": "p", "candidates": list("aabcdef")})
    drawn = {seed: tuple(heads(read_comparisons(path, None, "MIT", seed).comparisons[0])) for seed in range(8)}
    assert drawn[3] == tuple(heads(read_comparisons(path, None, "MIT", 3).comparisons[0]))
    assert len(set(drawn.values())) > 3 and all(a != b for a, b in drawn.values())


def test_answers_of_several_messages_are_compared_at_the_first_that_differ(tmp_path):
    def answer(call: str, result: str, end: str) -> dict:
        return {"messages": [{"role": "assistant", "content": "", "tool_calls": call}, {"role": "tool", "content": result},
                             {"role": "assistant", "content": end}]}  # fmt: skip

    other = CALL.replace("1", "2")
    path = lines(
        tmp_path / "a.jsonl",
        {"prompt": "p", "tools": TOOLS, "candidates": [answer(CALL, "1", "one"), answer(CALL, "1", "uno")]},
        {"prompt": "q", "tools": TOOLS, "candidates": [answer(CALL, "1", "one"), answer(other, "2", "two")]},
        {"prompt": "r", "tools": TOOLS, "candidates": [answer(CALL, "1", "one"), answer(CALL, "3", "three")]},
    )
    read = read_comparisons(path, None, "MIT", seed=0)
    last, first = read.comparisons
    assert [m.role for m in last.context] == ["user", "assistant", "ipython"] and heads(last) == ["one", "uno"]
    assert [c.messages[0].tool_calls for c in first.candidates] == [CALL, other]
    assert [[m.content for m in after] for after in first.followed] == [["1", "one"], ["2", "two"]]
    assert read.same == 1  # only the tool differs


def test_samples_are_paired_with_their_prompts(tmp_path):
    tasks, samples = tmp_path / "tasks", tmp_path / "store" / "samples"
    tasks.mkdir()
    samples.mkdir(parents=True)
    task = toy_task("abc")
    write_rows(tasks / "prompts.jsonl", [task])
    given = {"task_id": task.id, "policy": "p" * 8, "temperature": 1.0, "seed": 0, "ids": [1]}
    said = [("yes", True), ("no<|python_tag|>f()", True), ("cut", False)]
    write_rows(samples / "samples.jsonl", [Sample(**given, text=said, finished=done) for said, done in said])
    with pytest.raises(InputError, match="prompts of these samples are not known"):
        read_comparisons(samples, None, "MIT", seed=0)
    (samples / "artifact.json").write_text(json.dumps({"inputs": [{"kind": "tasks", "path": "../../tasks"}]}))
    read = read_comparisons(samples, None, "MIT", seed=0)
    (found,) = read.comparisons
    assert found.context == task.prompt and read.unfinished == 1
    assert {(c.messages[0].content, c.messages[0].tool_calls) for c in found.candidates} == {("yes", None), ("no", "f()")}
    generated = lines(tmp_path / "gen.jsonl", {"id": task.id, "samples": [
        {"text": t, "finish_reason": "stop"} for t in ("yes", "no")]})  # fmt: skip
    assert read_comparisons(generated, tasks, "MIT", seed=0).comparisons[0].context == task.prompt


@pytest.mark.parametrize(
    ("row", "said"),
    [("{", "not JSON"), ([1], "no JSON object"), ({"candidates": ["a", "b"]}, "prompt is empty"),
     ({"prompt": "p", "candidates": [3, 4]}, "compared"), ({"prompt": "p", "candidates": ["a"]}, "nothing to compare"),
     ({"prompt": "p", "tools": [1], "candidates": ["a", "b"]}, "tools are no list"), ({"id": 1, "samples": []}, "--prompts")],
)  # fmt: skip
def test_rows_that_cannot_be_compared_are_named(tmp_path, row, said):
    path = lines(tmp_path / "a.jsonl", row if isinstance(row, str) else json.dumps(row) + "\n")
    with pytest.raises(InputError, match=said) as caught:
        read_comparisons(path, None, "MIT", seed=0)
    assert str(path) in caught.value.where


def test_prompts_for_models(tmp_path):
    path = lines(tmp_path / "p.jsonl", {"prompt": "a"}, {"messages": [{"role": "user", "content": "b"}], "tools": TOOLS})
    first, second = read_prompts(path, "MIT").comparisons
    assert (first.candidates, first.tools, json.loads(second.tools)) == ((), None, TOOLS) and first.id != second.id


def pair(i: int) -> Comparison:
    candidates = tuple(Candidate(messages=[MessageRow(role="assistant", content=t)], origin="") for t in ("A", "B"))
    return Comparison(f"item{i}", [MessageRow(role="user", content=str(i))], None, candidates, PROVENANCE)


def vote(own: Annotations, i: int, winner: int, strength: str = "better", seed: int = 0) -> Preference:
    left = left_of(pair(i), own.name, seed)
    side = "left" if winner == left else "right"
    return own.decide(pair(i), left, Decision(item=f"item{i}", side=side, strength=strength), seed)


def test_a_line_that_a_kill_cut_short_costs_that_row_alone(tmp_path):
    own = Annotations(tmp_path, "ann")
    for i in range(3):
        vote(own, i, i % 2)
    whole = (tmp_path / "ann.jsonl").read_bytes()
    for cut in (1, 40, len(whole.splitlines(keepends=True)[-1]) - 1):
        (tmp_path / "ann.jsonl").write_bytes(whole[:-cut])
        again = Annotations(tmp_path, "ann")
        kept = 3 if cut == 1 else 2  # with the line break alone missing the row is whole
        assert again.counts["done"] == kept
        vote(again, 9, 0)
        assert [row.provenance.checks["item"] for row in read_rows(tmp_path / "ann.jsonl", Preference)][kept:] == ["item9"]


def test_foreign_rows_are_not_written_into(tmp_path):
    lines(tmp_path / "ann.jsonl", {"a": 1}, {"b": 2})
    with pytest.raises(InputError, match="no line of annotations"):
        Annotations(tmp_path, "ann")
    assert (tmp_path / "ann.jsonl").read_text() == '{"a": 1}\n{"b": 2}\n'


def test_kappa_is_the_published_figure():
    labels = [(0, 0)] * 20 + [(0, 1)] * 5 + [(1, 0)] * 10 + [(1, 1)] * 15
    found = kappa(labels)
    assert found["value"] == pytest.approx(0.4)  # observed 0.7, expected 0.5
    assert [found["low"], found["high"]] == pytest.approx([2 * bound - 1 for bound in wilson(35, 50)], abs=1e-4)
    assert kappa([(0, 0), (0, 0)])["value"] is None and kappa([])["value"] is None
    perfect = kappa([(0, 0), (1, 1)] * 20)
    assert perfect["value"] == 1.0 and 0.7 < perfect["low"] < 1.0


def test_agreement_counts_winners_not_sides(tmp_path):
    ann, bo = Annotations(tmp_path, "ann"), Annotations(tmp_path, "bo")
    for i in range(40):
        vote(ann, i, i % 2, "significantly")
        vote(bo, i, i % 2 if i < 30 else 1 - i % 2, "significantly" if i < 10 else "marginally")
    vote(ann, 99, 0)  # bo has not seen it
    bo.skip("item99")
    report = agreement(sorted(tmp_path.glob("*")))
    (both,) = report["pairs"]
    assert (both["shared"], both["agree"]["count"], both["same_strength_too"]["count"]) == (40, 30, 10)
    assert both["kappa"]["value"] == pytest.approx(0.5)
    assert (both["by_weaker_strength"]["significantly"]["of"], both["by_weaker_strength"]["marginally"]["of"]) == (10, 30)
    assert report["annotators"]["ann"]["strengths"] == {"significantly": 40, "better": 1, "slightly": 0, "marginally": 0}
    left = report["all"]["left"]
    assert (
        left["of"] == 81
        and 0.3 < left["share"] < 0.7
        and (left["low"], left["high"]) == pytest.approx(wilson(left["count"], 81), abs=1e-4)
    )
    assert "30 of 40 (75 %" in text(report) and "kappa 0.50" in text(report)


def test_votes_on_other_answers_are_not_compared(tmp_path):
    """Models that were drawn from anew wrote other answers under the same comparison."""
    ann, bo = Annotations(tmp_path, "ann"), Annotations(tmp_path, "bo")
    for i in range(3):
        vote(ann, i, 0)
        vote(bo, i, 0)
    lines = bo.path.read_text().splitlines()
    row = json.loads(lines[2])
    row["candidates"][0]["messages"][0]["content"] += " and more"
    bo.path.write_text("\n".join([*lines[:2], json.dumps(row)]) + "\n")
    (both,) = agreement([ann.path, bo.path])["pairs"]
    assert both["shared"] == both["agree"]["count"] == 2


def test_position_bias_is_seen(tmp_path):
    own = Annotations(tmp_path, "lefty")
    for i in range(20):
        vote(own, i, left_of(pair(i), "lefty", 0))
    assert agreement([own.path])["annotators"]["lefty"]["left"]["share"] == 1.0
    with pytest.raises(InputError, match="no annotations"):
        agreement([])


def test_annotated_rows_train_with_their_tools(tmp_path):
    own = Annotations(tmp_path, "ann")
    vote(own, 0, 1)
    vote(own, 1, 1, "slightly")
    (plain, weak) = read_rows(own.path, Preference)
    tools = json.dumps(TOOLS)
    tokenizer = toy_tokenizer()
    found = encode_preferences(tokenizer, [plain, weak, plain.model_copy(update={"tools": tools})], 4096)
    assert (len(found.rows), found.weak) == (2, 1)
    texts = [tokenizer.decode(answer.ids) for row in found.rows for answer in row.answers]
    assert [("Environment: ipython" in t, tools[1:-1] in t) for t in texts] == [(False, False)] * 2 + [(True, True)] * 2
    assert all("B" in a and "A" in b for a, b in pairwise(t[-20:] for t in texts[:2]))
