"""HumanEval and MBPP rows as tasks: every published solution passes its own tests, and a broken one fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from post_toys import base_artifact

from puna.core.errors import InputError
from puna.evals.command import evaluate
from puna.post.formats import read_row, recognise
from puna.post.task_files import read_tasks
from puna.tokenizer.chat import Message
from puna.tokenizer.dialog import Provenance, Task
from puna.verify.check import verify, verify_many
from puna.verify.code import job_of, program_in, shared_sandbox

DATA = Path(__file__).parents[3] / "shared" / "data"
SOURCE = Provenance(source="test", licence="MIT")
HUMANEVAL = {
    "task_id": "t/0",
    "prompt": "import math\n\ndef poly(xs: list, x: float):\n    return sum(math.pow(x, i) * c for i, c in enumerate(xs))\n\n"
    'def double(x: int) -> int:\n    """Twice x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return x + x\n",
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(2) == 4\n    assert poly([0, 2], 3) == candidate(3)\n",
}
MBPP = {
    "text": "Write a function to add two numbers.",
    "code": "def helper(x):\r\n  return x\r\ndef sum(a, b):\r\n  return helper(a) + b",
    "task_id": 1,
    "test_setup_code": "big = 10",
    "test_list": ["assert sum(big, 15) == 25", "assert sum(-1, 1) == 0"],
    "challenge_test_list": [],
}


def task_of(row: dict) -> Task:
    (task,) = read_row(row, "auto", SOURCE).tasks
    return task


@pytest.fixture(scope="module", autouse=True)
def _sandbox():
    try:
        shared_sandbox()
    except InputError as error:
        pytest.skip(f"no sandbox can be had here: {error}")


def said(text: str) -> Message:
    return Message("assistant", text)


def test_a_humaneval_row():
    assert recognise(HUMANEVAL) == "humaneval"
    task = task_of(HUMANEVAL)
    assert (task.verifier, task.family, task.capability) == ("code", "humaneval", "code")
    assert "Twice x." in task.prompt[0].content and "candidate" not in task.prompt[0].content
    assert verify(task, said(task.gold))
    whole = "Here:\n```python\ndef double(x):\n    return 2 * x\n```\nThat is all."
    assert verify(task, said(whole))  # the prompt's own helper is put before it
    assert verify(task, said("    return 2 * x"))  # as a base model goes on
    assert verify(task, said("```\n    return x * 2\n```"))
    assert not verify(task, said(whole.replace("2 * x", "3 * x")))
    assert not verify(task, said("I do not know.")) and not verify(task, said(""))
    assert not verify(task, said("import sys\nsys.exit(0)"))


def test_an_mbpp_row_with_a_function_named_as_a_built_in_one():
    task = task_of(MBPP)
    assert task.reference == {"tests": ["big = 10\nassert sum(big, 15) == 25", "assert sum(-1, 1) == 0"], "entry_point": "sum",
                              "language": "python"}  # fmt: skip
    assert all(test in task.prompt[0].content for test in MBPP["test_list"])
    assert verify(task, said(task.gold))
    assert not verify(task, said("```python\ndef total(a, b):\n    return a + b\n```"))
    sanitised = {
        "prompt": MBPP["text"],
        "code": MBPP["code"],
        "test_imports": ["import math"],
        "test_list": ["assert sum(1, 2) == 3"],
    }
    assert task_of(sanitised).reference["tests"] == ["import math\nassert sum(1, 2) == 3"]


@pytest.mark.skipif(not (DATA / "humaneval").exists(), reason="the shared data is not beside the project")
def test_the_published_example_of_humaneval():
    (task,) = read_tasks(DATA / "humaneval" / "example_problem.jsonl")
    lines = (DATA / "humaneval" / "example_samples.jsonl").read_text().splitlines()
    answers = [said(json.loads(line)["completion"]) for line in lines if "sleep" not in line]
    assert verify_many([(task, answer) for answer in answers]) == [False, False, True, True, True]


@pytest.mark.cores
@pytest.mark.skipif(not (DATA / "mbpp").exists(), reason="the shared data is not beside the project")
@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_every_solution_of_mbpp_passes_and_every_broken_one_fails(every):
    tasks = read_tasks(DATA / "mbpp" / "mbpp_601_974.jsonl")
    assert len(tasks) == 374
    tasks = tasks[::every]
    verdicts = verify_many([(task, said(task.gold)) for task in tasks])
    assert [task.prompt[0].content[:80] for task, passed in zip(tasks, verdicts, strict=True) if not passed] == []
    broken = [(task, said(_broken(task))) for task in tasks[::4]]
    assert not any(verify_many(broken))


def _broken(task: Task) -> str:
    """The solution with its function giving something that equals everything."""
    name = task.reference["entry_point"]
    evil = "class Any:\n    __eq__ = lambda self, other: True\n    __ne__ = lambda self, other: False\n"
    wrapped = f"{evil}{name} = lambda *args, **named: Any()\n" if name else "1 / 0\n"
    return f"```python\n{program_in(task.gold)}\n{wrapped}```"


def test_the_last_block_is_the_program():
    assert program_in("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```\n") == "y = 2\n"
    assert program_in("```py\nx = 1") == "x = 1"  # cut short
    assert program_in("~~~\n```\n~~~") == "```\n"
    assert program_in("def f(): pass") == "def f(): pass"


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ({}, "needs a reference with 'tests'"),
        ({"tests": []}, "needs a reference with 'tests'"),
        ({"tests": ["assert f()"], "entry": "f"}, "needs a reference with 'tests'"),
        ({"tests": ["assert f()"], "language": "cobol"}, "no compiler or interpreter"),
        ({"tests": [1]}, "a test is a text"),
        ("assert f()", "needs a reference with 'tests'"),
    ],
)
def test_a_wrong_reference_is_the_tasks_fault(reference, what):
    with pytest.raises(InputError, match=what):
        job_of(reference, "x")


def test_garbage_is_no_program_and_never_raises():
    task = task_of(MBPP)
    garbage = [
        "\0",
        "\ud800",
        "```\n\ud800\n```",
        "(" * 10_000,
        "```" * 3_000,
        "x = " + "9" * 100_000,
        "def sum(a, b): return '\ud800'",
    ]
    assert verify_many([(task, said(text)) for text in garbage]) == [False] * len(garbage)
    whole = Task(id="t", prompt=[], verifier="code", reference={"tests": [["\ud800", "\0"]]}, provenance=SOURCE)
    assert verify_many([(whole, said(text)) for text in garbage]) == [False] * len(garbage)


def test_whole_programs_are_compared_by_what_they_print():
    task = Task(id="t", prompt=[], verifier="code", reference={"tests": [["1 2", "3"], ["3 4", "7"]]}, provenance=SOURCE)
    assert verify(task, said("```python\nprint(sum(map(int, input().split())))\n```"))
    assert not verify(task, said("print(3)"))


def test_many_are_verified_as_one_by_one():
    code = task_of(MBPP)
    number = Task(id="n", prompt=[], verifier="number", reference=7, provenance=SOURCE)
    call = Message("assistant", "", tool_calls='{"name": "f", "parameters": {}}')
    pairs = [(number, said("7")), (code, said(code.gold)), (number, said("8")), (code, said("x")), (code, call)]
    constrained = code.model_copy(update={"constraint": {"max_words": 1}})
    pairs.append((constrained, said(code.gold)))
    assert verify_many(pairs) == [verify(*pair) for pair in pairs] == [True, True, False, False, False, False]


def test_a_model_is_scored_on_rows_as_they_are(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (MBPP, HUMANEVAL)))
    assert [task.family for task in read_tasks(file)] == ["mbpp", "humaneval"]
    model = base_artifact(tmp_path / "base", max_seq_len=512)
    result = evaluate(model.path, read_tasks(file), source=file, max_tokens=4, samples=2, temperature=1.0)
    assert result["overall"]["n"] == 2 and result["family"]["mbpp"]["n"] == 1 and result["pass_at"]["2"]["accuracy"] == 0
