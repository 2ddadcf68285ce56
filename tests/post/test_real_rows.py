"""Rows as they are in the world, from files to trained models: real dialogs where they lie beside the project, and odd ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from post_toys import base_artifact, finished, run_stage

from puna.core.stage import Artifact, local_context
from puna.post import collect
from puna.tokenizer.dialog import Dialog, Preference, read_rows

DATA = Path(__file__).parents[3] / "shared" / "data"
LIMIT = 512
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def said(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


ODD = [
    {"messages": said("x" * 100_000, "y" * 100_000)},
    {"messages": said(*(f"{'qa'[i % 2]}{i}" for i in range(40)))},
    {"messages": said("empty", "")},
    {"messages": said("first", "", "second", "full")},
    {"messages": [*said("sum"), {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "1"},
                  *said("", "1")[1:]], "tools": TOOLS},
    {"conversations": [{"from": "human", "value": "shared"}, {"from": "gpt", "value": "as well"}], "system": "be"},
    {"prompt": "long", "chosen": "good " * 25_000, "rejected": "bad"},
    {"prompt": "mute", "chosen": "good", "rejected": ""},
    {"prompt": said("call"), "chosen": [{"role": "assistant", "tool_calls": [CALL]}], "rejected": said("", "no")[1:],
     "tools": TOOLS},
    *({"prompt": f"pair {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(30)),
]  # fmt: skip


def collected(root: Path, *sources: str, **sizes: int) -> Artifact:
    path = root / "odd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ODD))
    ctx = local_context(root / "tasks", name="tasks", seed=7)
    summary = collect.run(collect.Settings(sources=[*sources, str(path)], **sizes), ctx)
    assert summary["bad_rows"] == 1 and "no assistant message" in (ctx.out / "bad_rows.jsonl").read_text()
    return finished(ctx.out, "tasks", "tasks")


def trained(root: Path, tasks: Artifact) -> tuple[dict, dict]:
    """Summaries of fine-tuning and DPO."""
    base = base_artifact(root / "base", max_seq_len=LIMIT)
    tuned = run_stage(root, "post.sft", "sft", [base, tasks], steps=1, batch_tokens=LIMIT, dev=2, max_tokens=4)
    run_stage(root, "post.reject", "samples", [tuned, tasks], prompts={"count": 3}, k=2, max_tokens=6)
    dpo = run_stage(root, "post.dpo", "dpo", [tuned, tasks], least_pairs=4, passes=0.05, pairs_per_step=4, dev=2, max_tokens=4,
                    length=LIMIT)  # fmt: skip
    return tuned.summary(), dpo.summary()


def test_odd_rows_survive_and_are_counted(tmp_path):
    tasks = collected(tmp_path)
    dialogs = [d for name in ("train", "held") for d in read_rows(tasks.path / f"{name}.jsonl", Dialog)]
    pairs = list(read_rows(tasks.path / "preferences.jsonl", Preference))
    assert len(dialogs) == 5 and max(len(d.messages) for d in dialogs) == 40
    assert sum(d.tools is not None for d in dialogs) == sum(p.tools is not None for p in pairs) == 1
    sft, dpo = trained(tmp_path, tasks)
    assert sft["overlong"] == sum(len(d.messages[0].content) > LIMIT for d in read_rows(tasks.path / "train.jsonl", Dialog))
    assert (dpo["pairs"], dpo["overlong"]) == (31, 1)  # the mute one has an empty side


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared real data does not lie beside the project")
def test_real_dialogs_from_files_to_models(tmp_path):
    names = ("gsm8k/train.jsonl", "oasst_trees", "instr_mix/dolly_hhrlhf_train_small.jsonl")
    tasks = collected(tmp_path, *(str(DATA / name) for name in names), gold=40, prompts=60, dev=20, test=20)
    sft, dpo = trained(tmp_path, tasks)
    assert sft["dialogs"]["gold"] > 500 and sft["dev"]["measure"] == "accuracy"
    assert dpo["pairs"] > 40
