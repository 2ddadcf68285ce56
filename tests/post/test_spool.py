"""Rows on disk until their split is known: what the file gives back, equal ids, and memory that does not grow with the text."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import numpy as np

from puna.core.stage import local_context
from puna.post import collect
from puna.post.prompts import prompt_id, split_proof
from puna.post.spool import Spool, digests_of
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, MessageRow, Provenance, Task, read_rows, write_rows

PROVENANCE = Provenance(source="test", licence="MIT")


def dialog(name: str, prompt: str, answer: str = "ja\u2028nein ü") -> Dialog:
    messages = [MessageRow(role="user", content=prompt), MessageRow(role="assistant", content=answer)]
    return Dialog(id=name, messages=messages, provenance=PROVENANCE)


def spool_of(path: Path, dialogs: list[Dialog]) -> Spool:
    spool = Spool(path)
    for row in dialogs:
        spool.add(row, prompt_id(row.messages[:1]))
    return spool


def test_lines_are_those_that_rows_are_written_as_in_any_order(tmp_path):
    dialogs = [dialog(str(i), f"q{i}") for i in range(5)]
    write_rows(tmp_path / "all.jsonl", dialogs)
    expected = (tmp_path / "all.jsonl").read_bytes().split(b"\n")
    spool = spool_of(tmp_path / "spool.jsonl", dialogs[:3])
    assert list(spool.lines(np.array([2, 0]))) == [expected[2] + b"\n", expected[0] + b"\n"]
    for row in dialogs[3:]:  # reading does not disturb what is added later
        spool.add(row, prompt_id(row.messages[:1]))
    assert [Dialog.model_validate_json(line) for line in spool.lines(np.arange(5))] == dialogs


def test_each_id_once_as_a_dictionary_would_have_it(tmp_path):
    draw = random.Random(3)
    dialogs = [dialog(str(draw.randrange(40)), f"q{i}", str(i)) for i in range(200)]
    spool = spool_of(tmp_path / "spool.jsonl", dialogs)
    for first in (0, 70, 199, 200):
        expected = list({row.id: row for row in dialogs[first:]}.values())
        assert [Dialog.model_validate_json(line) for line in spool.lines(spool.once(first))] == expected
    keys = [prompt_id(row.messages[:1]) for row in dialogs]
    assert sorted(keys) == [key.ljust(16, b"\0").hex() for key in np.sort(spool.prompts(np.arange(200))).tolist()]


def test_proof_counts_prompts_that_splits_share(tmp_path):
    def task(prompt: str) -> Task:
        return Task(id=prompt, prompt=[MessageRow(role="user", content=prompt)], verifier="exact", provenance=PROVENANCE)

    long = "one two three four five six seven eight nine ten eleven twelve thirteen"
    tasks = {
        "test": [task("a"), task(f"say {long}")],
        "dev": [task("B  ")],
        "gold": [],
        "prompts": [task("c"), task(f"{long} x")],
    }
    write_rows(tmp_path / "train.jsonl", [dialog("1", "b"), dialog("2", "d"), dialog("3", "D"), dialog("4", "a")])
    proof = split_proof(tasks, tmp_path / "train.jsonl")
    assert proof["different_prompts"] == {"train": 3, "prompts": 2, "dev": 1, "test": 2}
    assert {pair: n for pair, n in proof["overlap"].items() if n} == {"train/dev": 1, "train/test": 1}
    assert proof["test_prompts_sharing_13_words"] == 1
    assert len(digests_of([])) == 0


def test_memory_does_not_grow_with_the_text(tmp_path):
    peaks = []
    for count in (20, 150):
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as file:
            for i in range(count):
                pair = [{"role": "user", "content": f"{i} " + "word " * 1000}, {"role": "assistant", "content": "yes " * 1000}]
                file.write(json.dumps({"messages": pair}) + "\n")
        ctx = local_context(tmp_path / f"tasks-{count}", name="tasks", seed=7)
        tracemalloc.start()
        summary = collect.run(collect.Settings(sources=[str(path)], dialog_prompts=5), ctx)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert summary["dialogs"] + summary["held"] == count and summary["prompts"] == 5
        assert len(list(read_rows(ctx.out / "train.jsonl", Dialog))) == summary["dialogs"]
    assert peaks[1] - peaks[0] < 3e5  # bytes; the rows of the larger file are 1.4 MB


def test_a_prompt_is_another_one_with_another_picture():
    def asked(*media: Medium) -> str:
        return prompt_id([MessageRow(role="user", content="What is it?", media=media)])

    pictures = [Medium(0, "image", "media/a.png"), Medium(0, "image", "media/b.png"), Medium(0, "video", "media/a.png")]
    keys = [asked(), *(asked(medium) for medium in pictures), asked(*pictures[:2]), asked(*reversed(pictures[:2]))]
    assert len(set(keys)) == len(keys)
    assert asked() == prompt_id([MessageRow(role="user", content="what is\n it? ")])
