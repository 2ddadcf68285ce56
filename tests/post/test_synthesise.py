"""The stage of synthetic data: stories in lock step, reasons counted, parts kept, templates in the identity."""

import pytest
from post_toys import toy_tokenizer
from synth_toys import Scripted, TrustedBox, documents

from puna.core.errors import InputError, Preempted
from puna.core.stage import local_artifact, local_context
from puna.post import synthesise
from puna.post.examples import encode_dialog
from puna.post.synth.drive import NO_SANDBOX, LazySandbox, drive
from puna.post.synth.steps import Execute, Item, user
from puna.post.synth.templates import PROMPTS, load_templates
from puna.tokenizer.dialog import Dialog, Provenance, Task, read_rows, write_rows

PROVENANCE = Provenance(source="toy", licence="CC0-1.0")
DOUBLE = "Write a function that doubles a number.\n```python\ndef double(x):\n```"
RIGHT, WRONG = "```python\ndef double(x):\n    return 2 * x\n```", "```python\ndef double(x):\n    return x\n```"
TESTS = "```python\nassert double(1) == 2\nassert double(3) == 6\nassert double(-2) == -4\n```"
BENT = "```python\nassert double(0) == 0\nassert double(0.0) == 0\nassert double(1) == 1\n```"


def script(**changed):
    told = {
        "problem": lambda slots, n: DOUBLE,
        "solution": lambda slots, n: RIGHT,
        "tests": lambda slots, n: TESTS,
        "repair": lambda slots, n: RIGHT,
    }
    return {f"code_feedback.{name}": answer for name, answer in {**told, **changed}.items()}


@pytest.fixture
def notes():
    """What the stage told its user, in order."""
    return []


@pytest.fixture
def made(tmp_path, monkeypatch, notes):
    """Runs the stage with a scripted teacher; (summary, accepted dialogs, teacher)."""
    artifact = documents(tmp_path / "in", [f"text number {i} " * 12 for i in range(4)])

    def run(lines, name="out", stopping=lambda: False, inputs=(), box=TrustedBox, **settings):
        teacher = lines if isinstance(lines, Scripted) else Scripted(lines)
        monkeypatch.setattr(synthesise, "open_teacher", lambda *_: teacher)
        monkeypatch.setattr(synthesise, "LazySandbox", box)
        ctx = local_context(tmp_path / name, name="synth", inputs=[artifact, *inputs], seed=3)
        ctx.stopping = stopping
        ctx.note = notes.append
        asked = synthesise.Settings.model_validate({"generators": {"code_feedback": {"count": 4}}, **settings})
        summary = synthesise.run(asked, ctx)
        return summary, list(read_rows(ctx.out / "accepted.jsonl", Dialog)), teacher

    return run


def test_a_right_solution_is_accepted_with_its_provenance(made):
    summary, rows, _ = made(script())
    counts = summary["generators"]["code_feedback"]
    assert (counts["items"], counts["accepted"], counts["reasons"]) == (4, 4, {})
    assert counts["programs"] == 4 * (4 + 1 + 3) and counts["questions"] == 4 * 3 and counts["answers"] == 4 * 6
    assert summary["usage"]["teacher"] == {"tokens_read": 4 * 3 * 7, "tokens_written": 4 * 6 * 3, "cost": 0.0}
    assert [m.content for m in rows[0].messages] == [DOUBLE, RIGHT]  # four equal dialogs are one row
    assert len(rows) == summary["accepted"] == 1 and rows[0].capability == "code"
    where = rows[0].provenance
    assert (where.source, where.licence, where.teacher) == ("toy", "CC0-1.0", "scripted")
    assert where.checks["prompts"] == load_templates("code_feedback").digest and where.checks["held_suites"] == "3 of 3 pass"


def test_a_wrong_solution_is_mended_and_kept_out_of_the_loss(made):
    _, rows, teacher = made(script(solution=lambda slots, n: WRONG))
    assert [m.train for m in rows[0].messages] == [None, False, None, None]
    assert rows[0].messages[3].content == RIGHT and rows[0].provenance.checks["repairs"] == 1
    assert "AssertionError" in rows[0].messages[2].content
    assert sum(ask.template == "code_feedback.repair" for ask in teacher.asked) == 4
    tokenizer = toy_tokenizer()
    encoded = encode_dialog(tokenizer, rows[0])
    learnt = [token for token, learn in zip(encoded.ids, encoded.loss_mask, strict=True) if learn]
    assert tokenizer.decode(learnt, skip_special=True) == RIGHT


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"problem": lambda slots, n: "Do something."}, "no problem"),
        ({"solution": lambda slots, n: "```python\ndef other(x): return x\n```"}, "no code"),
        ({"tests": lambda slots, n: "```python\nassert double(1) == 2\n```"}, "no tests"),
        ({"tests": lambda slots, n: "```python\n" + "\n".join(f"assert double({i}) != {i}" for i in range(3)) + "\n```"},
         "tests prove nothing"),
        ({"solution": lambda slots, n: WRONG, "repair": lambda slots, n: WRONG}, "still failing"),
        ({"solution": lambda slots, n: WRONG, "repair": lambda slots, n: f"{WRONG}\n{BENT}"}, "held-out tests fail"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_reason(made, notes, changed, reason):
    summary, rows, _ = made(script(**changed))
    assert rows == [] and summary["generators"]["code_feedback"]["reasons"] == {reason: 4}
    assert notes == [f"nothing was accepted: {reason} (4); rejected.jsonl has the last answer of each"]


def test_unknown_terms_of_a_teacher_are_told(made, notes):
    teacher = Scripted(script())
    teacher.licence = "unknown"
    made(teacher)
    assert [note.partition(", so")[0] for note in notes] == ["the terms of what scripted writes are unknown"]


def test_progress_comes_turn_by_turn(made, monkeypatch):
    told = []
    monkeypatch.setattr(synthesise.StageContext, "progress", lambda self, done, total, **_: told.append((done, total)))
    made(script())
    assert told[0] == (0, 4) and told[-1] == (4, 4) and len(told) > 3


def test_a_prompt_that_models_are_judged_by_is_not_learnt_from(tmp_path, made):
    (tmp_path / "tasks").mkdir()
    task = Task(id="t", prompt=[user(DOUBLE.upper())], verifier="exact", reference="", provenance=PROVENANCE)
    write_rows(tmp_path / "tasks" / "test.jsonl", [task])
    summary, rows, _ = made(script(), inputs=[local_artifact(tmp_path / "tasks", "tasks", "tasks")])
    assert rows == [] and (summary["accepted"], summary["held_out"]) == (0, 1)


def test_a_stopped_run_asks_only_for_the_parts_it_lacks_and_leaves_the_same_bytes(tmp_path, made):
    made(script(), name="whole", part=1)
    asked, looks = Scripted(script()), iter([False, False, True])
    with pytest.raises(Preempted):
        made(asked, name="stopped", stopping=lambda: next(looks), part=1)
    assert len(asked.asked) == 2 * 3
    made(asked, name="stopped", part=1)
    assert len(asked.asked) == 4 * 3
    for name in ("accepted.jsonl", "rejected.jsonl"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_template_of_ones_own_needs_the_same_slots(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("problem: {user: 'Invent an exercise.'}\n")
    with pytest.raises(InputError, match=r"'problem' lacks \{snippet\}"):
        load_templates("code_feedback", str(path))
    path.write_text((PROMPTS / "code_feedback.yaml").read_text().replace("{snippet}", "{snippet} {colour}"))
    with pytest.raises(InputError, match=r"nothing fills \{colour\} in the template 'problem'") as refused:
        load_templates("code_feedback", str(path))
    assert "{snippet}" in refused.value.fix
    path.write_text((PROMPTS / "code_feedback.yaml").read_text())
    assert load_templates("code_feedback", str(path)).texts == load_templates("code_feedback").texts


def test_no_generator_is_refused():
    with pytest.raises(ValueError, match="no generator is named"):
        synthesise.Settings.model_validate({"generators": {}})


def test_without_a_sandbox_a_stage_is_refused_or_leaves_out_what_needs_one(made, monkeypatch):
    def none_here(*_, **__):
        raise InputError("no sandbox stops every attack here")

    monkeypatch.setattr("puna.verify.sandbox.Sandbox", none_here)
    with pytest.raises(InputError, match="no sandbox stops"):
        made(script(), box=LazySandbox)
    summary, rows, _ = made(script(), name="skipped", box=LazySandbox, no_sandbox="skip")
    assert rows == [] and summary["generators"]["code_feedback"]["reasons"] == {NO_SANDBOX: 4}


@pytest.mark.parametrize("installed", ["python", "perl"])
def test_programs_in_a_language_that_is_not_installed_may_be_left_out(monkeypatch, installed):
    class Here:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def map_python(self, jobs):
            return [job.language for job in jobs]

    monkeypatch.setattr("puna.verify.sandbox.Sandbox", Here)
    monkeypatch.setattr("puna.verify.sandbox.languages", lambda: {installed: None})
    programs = [Execute("1"), Execute("2", language="perl"), Execute("3")]
    with LazySandbox(1, 1.0, may_lack=True) as box:
        assert box.outcomes(programs) == [one.language if one.language == installed else None for one in programs]


def test_a_story_whose_program_cannot_be_run_ends_there():
    def story():
        yield [Execute("1"), Execute("2", language="perl")]
        raise AssertionError("it was sent something")

    class Some:
        def outcomes(self, programs):
            return [None if one.language == "perl" else "ran" for one in programs]

    (told,) = drive([("g", Item("k", "s", "MIT", None), story())], {}, Some(), 1)
    assert (told.told.reason, told.told.programs) == (NO_SANDBOX, 0)
