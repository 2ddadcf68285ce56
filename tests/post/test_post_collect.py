"""Collecting: every row shape, disjoint splits, bad rows, and real files where they lie beside the project."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from puna.core.errors import InputError
from puna.core.stage import local_context
from puna.core.store import digest_files
from puna.post import collect
from puna.post.formats import UnreadableRow, read_row
from puna.tokenizer.dialog import Dialog, Preference, Provenance, Task, read_rows
from puna.verify.check import verify

PROVENANCE = Provenance(source="test", licence="MIT")
DATA = Path(__file__).parents[3] / "shared" / "data"


def gathered(tmp_path: Path, *sources: object, name: str = "tasks", **sizes: int) -> tuple[Path, dict, list[str]]:
    ctx = local_context(tmp_path / name, name="tasks", seed=7)
    notes: list[str] = []
    ctx.report = lambda event: notes.append(event.get("text", ""))
    return ctx.out, collect.run(collect.Settings(sources=list(sources), **sizes), ctx), notes


def lines(path: Path, *rows: object) -> str:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def gsm8k(i: int) -> dict[str, str]:
    return {
        "question": f"Ann has {i} figs and buys {i} more. How many?",
        "answer": f"She has {i}+{i}=<<{i}+{i}={2 * i}>>{2 * i}.\n#### {2 * i}",
    }


def test_gsm8k_row():
    task = read_row(gsm8k(1200) | {"answer": "It is <<600*2=1200>>1200.\n#### 1,200"}, "auto", PROVENANCE).tasks[0]
    assert (task.verifier, task.reference, task.gold) == ("number", "1200", "It is 1200.\nAnswer: 1200")
    assert verify(task, task.gold_messages()[-1].message())


def test_message_rows_of_both_spellings():
    ours = read_row({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "auto", PROVENANCE)
    theirs = read_row({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "auto", PROVENANCE)
    assert ours.dialogs[0].messages == theirs.dialogs[0].messages
    assert [(m.role, m.content) for m in ours.dialogs[0].messages] == [("user", "a"), ("assistant", "b")]


def test_instruction_rows():
    alpaca = "Below is an instruction.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    rows = [{"prompt": alpaca, "response": "3"}, {"instruction": "Add.", "input": "1 2", "output": "3"},
            {"instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}]}]  # fmt: skip
    for row in rows:
        assert [m.content for m in read_row(row, "auto", PROVENANCE).dialogs[0].messages] == ["Add.\n\n1 2", "3"]


def test_tree_gives_best_path_and_ranked_pairs():
    def node(text: str, role: str, rank: int | None, *replies: dict) -> dict:
        return {"text": text, "role": role, "rank": rank, "replies": list(replies)}

    best = node("good", "assistant", 0, node("more", "prompter", None, node("x", "assistant", 1), node("y", "assistant", 0)))
    root = node("q", "prompter", None, node("bad", "assistant", 2), best, node("so-so", "assistant", 1),
                node("worst", "assistant", 3) | {"deleted": True})  # fmt: skip
    rows = read_row({"prompt": root}, "auto", PROVENANCE)
    assert [m.content for m in rows.dialogs[0].messages] == ["q", "good", "more", "y"]
    pairs = [[c.messages[0].content for c in p.candidates] for p in rows.preferences]
    assert pairs == [["good", "bad"], ["y", "x"]]
    assert [m.content for m in rows.preferences[1].context] == ["q", "good", "more"]


@pytest.mark.parametrize(
    "row",
    [[1], {"foo": 1}, {"question": "q", "answer": "no number ####"}, {"messages": [{"role": "wizard", "content": "x"}]},
     {"messages": [{"role": "user", "content": "x"}]}, {"messages": 3}, {"instruction": "x", "output": ""},
     {"prompt": {"text": "q", "role": "prompter", "replies": []}}, {"verifier": "exact", "prompt": []}],
)  # fmt: skip
def test_rows_that_cannot_be_read_say_why(row: object):
    with pytest.raises(UnreadableRow):
        read_row(row, "auto", PROVENANCE)


def test_small_file_is_shared_out_and_splits_are_disjoint(tmp_path):
    path = lines(
        tmp_path / "maths.jsonl", *(gsm8k(i) for i in range(1, 101)), gsm8k(5), {"question": "?", "answer": "## 1"}, "{broken\n"
    )
    out, summary, notes = gathered(tmp_path, path, gold=20, prompts=1000, dev=40, test=60)
    assert (summary["gold"], summary["prompts"], summary["dev"], summary["test"]) == (1, 91, 3, 5)
    assert summary["bad_rows"] == 2 and summary["duplicates"] == 1
    assert [json.loads(line)["line"] for line in (out / "bad_rows.jsonl").open()] == [102, 103]
    assert any("100 tasks where 1120 were wanted" in note for note in notes)
    prompts = {name: {t.prompt[0].content for t in read_rows(out / f"{name}.jsonl", Task)} for name in ("prompts", "dev", "test")}
    prompts["train"] = {d.messages[0].content for d in read_rows(out / "train.jsonl", Dialog)}
    assert sum(map(len, prompts.values())) == len(set().union(*prompts.values()))
    proof = json.loads((out / "split.json").read_text())
    assert set(proof["overlap"].values()) == {0}
    assert all(task.gold is None for task in read_rows(out / "test.jsonl", Task))


def test_split_does_not_depend_on_the_order_of_rows(tmp_path):
    rows = [gsm8k(i) for i in range(1, 60)]
    first, _, _ = gathered(tmp_path, lines(tmp_path / "a.jsonl", *rows), name="one", gold=10, prompts=10, dev=5, test=5)
    second, _, _ = gathered(tmp_path, lines(tmp_path / "b.jsonl", *rows[::-1]), name="two", gold=10, prompts=10, dev=5, test=5)
    ids = [[task.id for task in read_rows(out / "test.jsonl", Task)] for out in (first, second)]
    assert ids[0] == ids[1] and len(ids[0]) == 5


def test_long_runs_of_words_that_test_prompts_share_with_others_are_counted(tmp_path):
    """Against plain searching: some prompts begin alike for thirteen words or more, some for twelve, some not at all."""
    opening = [f"w{i}" for i in range(12)]
    rows = [{"question": " ".join([*(opening if i % 3 else []), f"k{i // 6}" if i % 3 == 1 else f"u{i}", f"v{i}"]),
             "answer": f"#### {i}"} for i in range(60)]  # fmt: skip
    out, _, _ = gathered(tmp_path, lines(tmp_path / "a.jsonl", *rows), gold=15, prompts=25, dev=5, test=15)
    read = [task.prompt[0].content for task in read_rows(out / "prompts.jsonl", Task)]
    read += [dialog.messages[0].content for dialog in read_rows(out / "train.jsonl", Dialog)]
    seen = " | ".join(read)
    prompts = [task.prompt[0].content.split() for task in read_rows(out / "test.jsonl", Task)]
    shared = sum(any(" ".join(words[i : i + 13]) in seen for i in range(len(words) - 12)) for words in prompts)
    assert json.loads((out / "split.json").read_text())["test_prompts_sharing_13_words"] == shared
    assert 0 < shared < sum(words[0] == "w0" for words in prompts) < len(prompts)


def test_dialogs_alone_give_no_tasks_but_held_out_dialogs(tmp_path):
    rows = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(40)]
    out, summary, notes = gathered(tmp_path, {"path": lines(tmp_path / "chat.jsonl", *rows), "licence": "MIT"})
    assert (summary["dialogs"], summary["held"], summary["dev"], summary["prompts"]) == (38, 2, 0, 0)
    assert any("nothing in these sources can be verified" in note for note in notes)
    train, held = ({d.id for d in read_rows(out / f"{name}.jsonl", Dialog)} for name in ("train", "held"))
    assert not train & held
    assert all(d.provenance.licence == "MIT" for d in read_rows(out / "train.jsonl", Dialog))


def test_missing_empty_and_useless_files_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        gathered(tmp_path, str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(InputError, match="no source gave a usable row"):
        gathered(tmp_path, lines(tmp_path / "empty.jsonl"), name="second")
    with pytest.raises(InputError, match="no source gave a usable row"):
        gathered(tmp_path, lines(tmp_path / "useless.jsonl", {"a": 1}), name="third")


def test_truncated_gzip_keeps_what_could_be_read(tmp_path):
    whole = gzip.compress("".join(json.dumps(gsm8k(i)) + "\n" for i in range(1, 400)).encode())
    (tmp_path / "maths.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    out, summary, _ = gathered(tmp_path, str(tmp_path / "maths.jsonl.gz"), gold=5, prompts=5, dev=5, test=5)
    assert summary["bad_rows"] == 1 and summary["test"] == 5
    assert "breaks off" in (out / "bad_rows.jsonl").read_text()


def test_world_source_repeats_to_the_byte(tmp_path):
    sizes = {"gold": 30, "prompts": 60, "dev": 20, "test": 20}
    first, summary, _ = gathered(tmp_path, "world", name="one", **sizes)
    second, _, _ = gathered(tmp_path, {"world": sizes}, name="two")
    assert {key: summary[key] for key in sizes} == sizes
    assert digest_files(first)[0] == digest_files(second)[0]
    assert set(summary["overlap"].values()) == {0}


def test_outside_names_the_content_of_files(tmp_path):
    path = lines(tmp_path / "a.jsonl", gsm8k(1))
    settings = collect.Settings(sources=["world", path])
    before = collect.outside(settings)
    assert list(before) == [path]
    lines(tmp_path / "a.jsonl", gsm8k(2))
    assert collect.outside(settings) != before


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared real data does not lie beside the project")
def test_real_files(tmp_path):
    out, summary, _ = gathered(tmp_path, str(DATA / "gsm8k/train.jsonl"), str(DATA / "oasst_trees"),
                               str(DATA / "instr_mix/dolly_hhrlhf_train_small.jsonl"), str(DATA / "instr_seed/seed_tasks.jsonl"),
                               gold=100, prompts=500, dev=100, test=200)  # fmt: skip
    assert (summary["gold"], summary["prompts"], summary["dev"], summary["test"], summary["bad_rows"]) == (100, 500, 100, 200, 0)
    assert summary["dialogs"] > 1000 and summary["preferences"] > 50
    assert all(p.candidates[0].messages != p.candidates[1].messages for p in read_rows(out / "preferences.jsonl", Preference))
    assert set(summary["overlap"].values()) == {0}


@pytest.mark.parametrize("rows", [0, 1, 3, 40])
def test_small_files_leave_something_for_every_part(rows: int):
    found = collect._shrunk({"test": 6, "dev": 6, "gold": 6000, "prompts": 4000, "none": 0}, rows)
    assert sum(found.values()) == rows and found["none"] == 0 and min(found.values()) >= 0
    assert rows < 4 or all(found[split] >= 1 for split in ("test", "dev", "gold", "prompts"))
