"""Every generator with the oracle, from end to end: what its checker lets through is right, and errors are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from synth_toys import TrustedBox

from puna.core.stage import local_context
from puna.post import synthesise
from puna.tokenizer.dialog import Dialog, read_rows
from puna.verify.sandbox import languages
from puna.world.truth import TRUTH

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from synth import world_inputs

ITEMS = 120
OWN = {"instructions": {"snippets": {"groups": ["general"]}}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return world_inputs(tmp_path_factory.mktemp("world"), ITEMS)


def made(root, name, inputs, errors, **own):
    ctx = local_context(root / f"{name}-{errors}", name="synth", inputs=inputs, seed=11)
    wanted = {"generators": {name: {"count": ITEMS, **OWN.get(name, {}), **own}}, "teacher": {"use": "oracle", "errors": errors}}
    summary = synthesise.run(synthesise.Settings.model_validate(wanted), ctx)
    return summary["generators"][name], list(read_rows(ctx.out / "accepted.jsonl", Dialog))


@pytest.mark.parametrize(
    ("name", "least", "seen"),
    [
        ("code_feedback", 60, {"no problem", "held-out tests fail"}),
        ("code_backtranslate", 30, {"other results", "judged unfaithful", "no code"}),
        ("maths_verified", 110, set()),
        ("maths_selfcheck", 80, {"found wrong"}),
        ("maths_corrections", 20, {"never wrong"}),
        ("maths_code", 50, {"prints no answer", "wrong answer"}),
        ("instructions", 20, {"leans on the text", "judged poor"}),
    ],
)
def test_what_is_accepted_is_right_though_one_answer_in_five_is_wrong(tmp_path, monkeypatch, inputs, name, least, seen):
    monkeypatch.setattr(synthesise, "LazySandbox", TrustedBox)
    counts, rows = made(tmp_path, name, inputs, 0.2)
    assert counts["accepted"] >= least and seen <= set(counts["reasons"]), counts
    assert all(row.provenance.checks["generator"] == name and row.provenance.teacher == "oracle" for row in rows)
    wrong = [row for row in rows if not TRUTH[name](row.messages)]
    assert len(wrong) <= len(rows) * (0.05 if name == "instructions" else 0.01), [m.content for m in wrong[0].messages]


@pytest.mark.parametrize(
    ("name", "refused"), [("code_feedback", set()), ("maths_verified", set()), ("instructions", {"other language"})]
)
def test_a_teacher_that_never_errs_is_accepted(tmp_path, monkeypatch, inputs, name, refused):
    monkeypatch.setattr(synthesise, "LazySandbox", TrustedBox)
    counts, rows = made(tmp_path, name, inputs, 0.0, count=30)
    assert counts["accepted"] >= 25 and set(counts["reasons"]) <= refused, counts
    assert all(TRUTH[name](row.messages) for row in rows)


def test_a_teacher_that_always_errs_gives_no_maths(tmp_path, monkeypatch, inputs):
    monkeypatch.setattr(synthesise, "LazySandbox", TrustedBox)
    counts, rows = made(tmp_path, "maths_verified", inputs, 1.0, problems={"only_given": True})
    assert rows == [] and set(counts["reasons"]) == {"wrong answer", "wrong steps"}


@pytest.mark.cores
@pytest.mark.skipif("javascript" not in languages(), reason="no JavaScript is installed")
def test_translations_are_run_in_the_sandbox(tmp_path, inputs):
    counts, rows = made(tmp_path, "code_translate", inputs, 0.2, count=10, languages=["javascript"])
    assert counts["accepted"] >= 4 and {"does not run", "other output"} & set(counts["reasons"]), counts
    assert all(TRUTH["code_translate"](row.messages) for row in rows)
