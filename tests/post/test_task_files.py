"""The tasks `puna eval` takes: the row forms of `post.collect`, and one message for every file it cannot score on."""

import gzip
import json

import pytest

from puna.core.errors import InputError
from puna.post.task_files import read_tasks
from puna.tokenizer.dialog import MessageRow, Provenance, Task, write_rows

GSM8K = {"question": "7 and 5?", "answer": "7 + 5 = <<7+5=12>>12\n#### 12"}
SHORT = {"prompt": [{"role": "user", "content": "2 and 2?"}], "verifier": "number", "reference": 4}


def lines(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_gsm8k_and_task_rows_are_tasks(tmp_path):
    first, second = read_tasks(lines(tmp_path / "g.jsonl", GSM8K, SHORT))
    assert (first.verifier, first.reference, first.prompt[0].content) == ("number", "12", "7 and 5?")
    assert (second.reference, second.provenance.source) == (4, "g.jsonl") and second.id != first.id


def test_compressed_files_artifacts_and_limits(tmp_path):
    packed = tmp_path / "g.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps(GSM8K | {"question": f"{i}?"}) + "\n" for i in range(5)).encode()))
    assert [t.prompt[0].content for t in read_tasks(packed, 2)] == ["0?", "1?"]
    task = Task(
        id="a",
        prompt=[MessageRow(role="user", content="x")],
        verifier="exact",
        reference="y",
        provenance=Provenance(source="s", licence="MIT"),
    )
    write_rows(tmp_path / "test.jsonl", [task])
    assert read_tasks(tmp_path) == [task]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "7 and 5?", "answer": "12"}, "no known row shape"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "can be checked",
        ),
        ({**SHORT, "verifier": ""}, "can be checked"),
        ("{broken\n", "not JSON"),
    ],
)
def test_a_row_that_is_no_task_is_named_with_the_forms(tmp_path, row, what):
    with pytest.raises(InputError, match=what) as error:
        read_tasks(lines(tmp_path / "g.jsonl", GSM8K, row))
    assert error.value.where == f"{tmp_path / 'g.jsonl'}:2" and "####" in error.value.fix


def test_a_truncated_file_is_named_as_such(tmp_path):
    whole = gzip.compress("".join(json.dumps(GSM8K | {"question": f"{i * 7919}?"}) + "\n" for i in range(400)).encode())
    (tmp_path / "g.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="the file breaks off") as error:
        read_tasks(tmp_path / "g.jsonl.gz")
    assert "cut short" in error.value.fix


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_tasks(tmp_path / "nothing.jsonl")
    with pytest.raises(InputError, match="no tasks"):
        read_tasks(lines(tmp_path / "empty.jsonl"))


def test_an_unknown_check_is_named_before_anything_is_answered(tmp_path):
    with pytest.raises(InputError, match="no check called 'numbr'") as error:
        read_tasks(lines(tmp_path / "g.jsonl", {**SHORT, "verifier": "numbr"}))
    assert "did you mean 'number'" in error.value.fix
