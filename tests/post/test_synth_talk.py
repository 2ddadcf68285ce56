"""Multilingual, long-context, tool, factuality and steering generators with an oracle that errs: what passes is right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from synth_toys import ProjectBox

from puna.core.stage import local_context
from puna.post import synthesise
from puna.tokenizer.dialog import Dialog, read_rows
from puna.world.truth import TRUTH

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from synth import OWN, talk_inputs, world_inputs

ITEMS = 100


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    return world_inputs(root, ITEMS) + talk_inputs(root, ITEMS)


@pytest.fixture
def made(tmp_path, monkeypatch, inputs):
    monkeypatch.setattr(synthesise, "LazySandbox", ProjectBox)

    def run(name, errors, count=ITEMS):
        ctx = local_context(tmp_path / f"{name}-{errors}", name="synth", inputs=inputs, seed=11)
        wanted = {"generators": {name: {"count": count, **OWN.get(name, {})}}, "teacher": {"use": "oracle", "errors": errors}}
        summary = synthesise.run(synthesise.Settings.model_validate(wanted), ctx)
        return summary["generators"][name], list(read_rows(ctx.out / "accepted.jsonl", Dialog))

    return run


@pytest.mark.parametrize(
    ("name", "least", "seen"),
    [
        ("parallel_text", 60, {"untranslated", "other language", "other numbers", "judged unlike"}),
        ("translated_reasoning", 35, {"other language", "other numbers", "solved otherwise", "judged unlike"}),
        ("chunk_questions", 40, {"readings disagree", "ambiguous question", "no question"}),
        ("summaries", 30, {"judged unsupported", "summary too long"}),
        ("missing_file", 60, {"other output", "lacks a name"}),
        ("function_calls", 30, {"samples disagree", "call does not fit", "answer does not follow", "judged wrong"}),
        ("tool_use", 30, {"needless call", "wrong answer", "call failed", "answer not in the output"}),
        ("knowledge", 25, {"mixed answers", "no question", "unclear question", "no refusal"}),
        ("steering", 10, {"judged off", "wrong answer", "no follow-up"}),
    ],
)
def test_what_is_accepted_is_right_though_one_answer_in_five_is_wrong(made, name, least, seen):
    counts, rows = made(name, 0.2)
    assert counts["accepted"] >= least and seen <= set(counts["reasons"]), counts
    assert all(row.provenance.checks["generator"] == name and row.provenance.teacher == "oracle" for row in rows)
    wrong = [row for row in rows if not TRUTH[name](row.messages)]
    assert len(wrong) <= 0.05 * len(rows), [m.content[-300:] for m in wrong[0].messages]


@pytest.mark.parametrize(
    ("name", "refused"),
    [("parallel_text", {"untranslated", "other language", "other numbers", "judged unlike", "other length"}),
     ("translated_reasoning", set()), ("chunk_questions", set()), ("missing_file", set()), ("steering", {"demand not met"}),
     ("function_calls", {"no request", "calls of another kind"}), ("tool_use", {"wrong answer", "no call", "needless call"})],
)  # fmt: skip
def test_a_teacher_that_never_errs_gives_right_rows_alone(made, name, refused):
    counts, rows = made(name, 0.0, 30)
    assert set(counts["reasons"]) <= refused and counts["accepted"] >= 15, counts
    assert all(TRUTH[name](row.messages) for row in rows)


def test_knowledge_keeps_answers_and_refusals(made):
    _, rows = made("knowledge", 0.0)
    kept = {row.provenance.checks["kept"] for row in rows}
    assert kept == {"answer", "refusal"} and all(TRUTH["knowledge"](row.messages) for row in rows)


def test_rows_of_tools_offer_them_and_end_in_an_answer(made):
    _, rows = made("function_calls", 0.0, 30)
    assert {row.provenance.checks["kind"] for row in rows} == {"single", "parallel", "nested"}
    for row in rows:
        assert row.tools and row.messages[-1].role == "assistant" and row.messages[-1].tool_calls is None
        calls = [message for message in row.messages if message.tool_calls]
        results = [message for message in row.messages if message.role == "ipython"]
        assert len(results) == row.provenance.checks["calls"] and all(call.end == "eom" for call in calls)
