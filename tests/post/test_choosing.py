"""What rejection sampling keeps of right answers: one of each reasoning, in the prompt's language, steered by system prompts."""

from __future__ import annotations

import pytest
from post_toys import PROVENANCE, base_artifact, run_stage, tasks_artifact, toy_task, toy_tokenizer

from puna.core.errors import InputError
from puna.core.stage import Artifact, local_context
from puna.post import reject
from puna.post.choose import drawn_from, same_language, select, signature
from puna.tokenizer.chat import parse, render
from puna.tokenizer.dialog import Dialog, MessageRow, Preference, Sample, Task, read_rows, write_rows

TOKENIZER = toy_tokenizer()


def one_drawn(prompt: str, *answers: str, system: str | None = None, passed: bool = True, unfinished: int = 0):
    """A prompt and its answers, all passing or none; the last `unfinished` ones without a stop token."""
    task = Task(
        id=prompt, prompt=[MessageRow(role="user", content=prompt)], verifier="contains", reference="", provenance=PROVENANCE
    )
    rows = []
    for number, text in enumerate(answers):
        ended = number < len(answers) - unfinished
        ids = TOKENIZER.encode(text) + ([TOKENIZER.eot_id] if ended else [])
        rows.append(Sample(task_id=prompt, policy="p", temperature=1.0, seed=0, ids=ids, text=text, finished=ended,
                           scores={"verifier": float(passed and ended)}))  # fmt: skip
    return drawn_from(TOKENIZER, task, rows, system)


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("First 2 + 3 = 5. So 5 * 2 = 10. Answer: 10", "We add: 2+3=5, and then 5 × 2 = 10.\nAnswer: 10", True),
        ("2 + 3 = 5. 5 * 2 = 10. Answer: 10", "2 * 2 = 4. 4 + 6 = 10. Answer: 10", False),
        ("5 * 2 = 10. 2 + 3 = 5.", "2 + 3 = 5. 5 * 2 = 10.", False),
        ("He has 1,200 / 4 = 300 left.", "Left: 1200 ÷ 4 = 300", True),
        ("3 - 5 = -2", "3 − 5 = −2", True),
        ("It is  Blue", "it is blue", True),
        ("It is blue", "It is green", False),
        ("(2 + 3) * 4 = 20", "2 + 3 * 4 = 20", False),
        ("$18 - $3 = $15", "18 - 3 = 15", True),
    ],
)
def test_reasoning_is_known_by_its_equations(first: str, second: str, alike: bool):
    assert (signature(first) == signature(second)) is alike


def test_equations_of_different_lines_stay_apart():
    assert signature("2 + 3 = 5\n7 + 1 = 8") == "2+3=5; 7+1=8"
    assert signature("So 2 + 3 = 5 apples. Then 5 - 1 = 4.") == "2+3=5; 5-1=4"


def test_one_answer_of_each_reasoning_is_kept_up_to_the_cap(tmp_path):
    ctx = local_context(tmp_path / "s", name="s")
    answers = ["2 + 3 = 5", "that is 2 + 3 = 5", "3 + 2 = 5", "10 / 2 = 5", "1 + 4 = 5"]
    one = one_drawn("five?", *answers)
    assert one.distinct(True) == [0, 2, 3, 4]
    for cap in (0, 1, 3, 30):
        kept = select([one], None, "p", reject.Settings(cap=cap), ctx)
        texts = [dialog.messages[-1].content for dialog in kept.accepted]
        assert len(texts) == min(cap, 4) == len({signature(text) for text in texts})


def test_unfinished_answers_are_never_kept(tmp_path):
    ctx = local_context(tmp_path / "s", name="s")
    one = one_drawn("q", "a", "b", "c", unfinished=2)
    kept = select([one], None, "p", reject.Settings(cap=30), ctx)
    assert [dialog.messages[-1].content for dialog in kept.accepted] == ["a"]


@pytest.mark.parametrize(
    ("prompt", "answer", "same"),
    [
        ("Wie viele Äpfel hat Anna, wenn sie drei von ihren zwölf Äpfeln verschenkt?",
         "She gives away three of her twelve apples, so she has nine apples left.", False),
        ("Wie viele Äpfel hat Anna, wenn sie drei von ihren zwölf Äpfeln verschenkt?",
         "Anna verschenkt drei von zwölf Äpfeln, also hat sie noch neun Äpfel.", True),
        ("What is 3 + 4?", "7", True),
        ("कृपया बताइए कि भारत की राजधानी कौन सा शहर है?", "The capital of India is the city of New Delhi, in the north.", False),
        ("Bharat ki rajdhani kya hai, mujhe batao", "भारत की राजधानी नई दिल्ली है।", False),
        ("Say hi", "Hi!", True),
    ],
)  # fmt: skip
def test_an_answer_is_in_the_language_of_its_prompt(prompt: str, answer: str, same: bool):
    assert same_language(prompt, answer) is same


def test_other_languages_are_not_accepted_and_are_counted(tmp_path):
    ctx = local_context(tmp_path / "s", name="s")
    german = "Wie viele Äpfel hat Anna, wenn sie drei von ihren zwölf Äpfeln verschenkt?"
    english = "She gives away three of her twelve apples, so that she has nine apples left."
    own = "Anna verschenkt drei von zwölf Äpfeln, also hat sie danach noch neun Äpfel."
    one = one_drawn(german, english, own)
    assert len(select([one], None, "p", reject.Settings(), ctx).accepted) == 2
    kept = select([one], None, "p", reject.Settings(match_language=True), ctx)
    assert [dialog.messages[-1].content for dialog in kept.accepted] == [own] and kept.other_language == 1
    one.task.constraint = {"language": "en"}  # the task wants another language than its own, and its verifier looks at that
    assert select([one], None, "p", reject.Settings(match_language=True), ctx).other_language == 0


def mixed_tasks(directory) -> Artifact:
    """Toy tasks of two capabilities, one of which brings a system message."""
    tasks = tasks_artifact(directory, gold=24, prompts=40, dev=4)
    rows = list(read_rows(tasks.path / "prompts.jsonl", Task))
    for number, row in enumerate(rows):
        row.capability = "code" if number % 2 else "maths"
    rows[0].prompt.insert(0, MessageRow(role="system", content="own"))
    write_rows(tasks.path / "prompts.jsonl", rows)
    return tasks


def test_system_prompts_steer_by_capability_and_are_left_out_or_kept(tmp_path):
    base, tasks = base_artifact(tmp_path / "base"), mixed_tasks(tmp_path / "tasks")
    policy = run_stage(tmp_path, "post.sft", "policy", [base, tasks], steps=30, lr=1e-2, batch_tokens=512, max_tokens=8)
    steer = ({"system": "be brief", "capability": "code"}, {"system": "be kind", "share": 0.5})
    drawing = {"k": 12, "max_tokens": 8}
    plain = run_stage(tmp_path, "post.reject", "plain", [policy, tasks], **drawing)
    made = run_stage(tmp_path, "post.reject", "steered", [policy, tasks], steer=steer, **drawing)
    kept = run_stage(tmp_path, "post.reject", "kept", [policy, tasks], steer=steer, keep_system=True, **drawing)
    assert plain.summary()["steered"] == 0 and 20 < made.summary()["steered"] < 40
    prompts = {task.id: task for task in read_rows(tasks.path / "prompts.jsonl", Task)}
    settings, ctx = reject.Settings(steer=steer), local_context(tmp_path / "x", name="steered", seed=7)
    systems = {task.id: reject.steering(task, settings, ctx) for task in prompts.values()}
    assert {systems[task.id] for task in prompts.values() if task.capability == "code"} == {"be brief"}
    assert {systems[task.id] for task in prompts.values() if task.capability == "maths"} == {"be kind", None}
    assert systems[next(iter(prompts))] is None  # it has a system message
    dialogs = list(read_rows(made.path / "accepted.jsonl", Dialog))
    assert dialogs and all(d.messages[0].content != "be brief" for d in dialogs)
    assert {d.provenance.checks.get("system") for d in dialogs} <= {"be brief", "be kind", None}
    for dialog in dialogs:
        task = prompts[dialog.provenance.parents[0]]
        assert dialog.messages[:-1] == task.prompt and dialog.provenance.checks.get("system") == systems[task.id]
    told = list(read_rows(kept.path / "accepted.jsonl", Dialog)) + list(read_rows(kept.path / "preferences.jsonl", Preference))
    firsts = {(row.messages if isinstance(row, Dialog) else row.context)[0].content for row in told}
    assert "be brief" in firsts
    for artifact in (plain, made):
        for row in read_rows(artifact.path / "samples.jsonl", Sample):
            message = parse(TOKENIZER, row.ids)
            assert not row.finished or render(TOKENIZER, [message]).ids[-1] in TOKENIZER.stop_ids


def test_a_slice_counts_prompts_of_the_wanted_kind(tmp_path):
    base, tasks = base_artifact(tmp_path / "base"), mixed_tasks(tmp_path / "tasks")
    made = run_stage(
        tmp_path, "post.reject", "code", [base, tasks], k=2, max_tokens=4, capabilities=["code"], prompts={"count": 15}
    )
    prompts = {task.id: task for task in read_rows(tasks.path / "prompts.jsonl", Task)}
    asked = {row.task_id for row in read_rows(made.path / "samples.jsonl", Sample)}
    assert len(asked) == 15 and {prompts[key].capability for key in asked} == {"code"}
    with pytest.raises(InputError, match="no prompt is of these"):
        run_stage(tmp_path, "post.reject", "none", [base, tasks], k=2, max_tokens=4, langs=["th"])


def test_prompts_that_nothing_can_judge_are_left_out(tmp_path):
    base, tasks = base_artifact(tmp_path / "base"), tasks_artifact(tmp_path / "tasks", gold=4, prompts=4, dev=4)
    free = [toy_task("abc").model_copy(update={"verifier": "", "reference": None})]
    write_rows(tasks.path / "prompts.jsonl", [*read_rows(tasks.path / "prompts.jsonl", Task), *free])
    assert run_stage(tmp_path, "post.reject", "judged", [base, tasks], k=2, max_tokens=4).summary()["prompts"] == 4
    assert run_stage(tmp_path, "post.reject", "all", [base, tasks], k=2, max_tokens=4, raw=True).summary()["prompts"] == 5


def test_a_long_row_of_digits_is_read_at_once():
    assert signature("9" * 20_000) == "9" * 20_000 and signature("(1+2)=3, so 3*4=12.") == "(1+2)=3; 3*4=12"
