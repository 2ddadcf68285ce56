"""`puna run align`: a checkpoint of another tool and rows of the user's, whichever kinds there are, through the whole recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from post_toys import PROVENANCE, SHAPE, run_stage, toy_tasks, toy_tokenizer

from puna.core.errors import InputError
from puna.core.graph import build_graph
from puna.core.recipe import load_recipe
from puna.core.stage import Artifact, local_context
from puna.model.checkpoint import load_model
from puna.post import start
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Candidate, Dialog, MessageRow, Preference, Sample, Task, content_id, read_rows, write_rows

TINY = [
    "tasks.gold=60", "tasks.prompts=60", "tasks.dev=20", "tasks.test=20", "tasks.dialog_prompts=12", "chat.gold_steps=30",
    "chat.rs_steps=30", "chat.lr=1e-2", "chat.variants=[{lr: 1e-2}]", "chat.batch_tokens=512", "chat.length=128", "chat.k=8",
    "chat.reward_steps=4", "chat.reward_lr=1e-3", "chat.reward_least_pairs=2", "chat.least_pairs=2", "chat.max_tokens=8",
    "scores.max_tokens=8", "scores.from=[tasks, base, chat.sft, chat]", "scores.compare=[]",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random Llama and its tokenizer as transformers writes them."""
    transformers = pytest.importorskip("transformers")
    root, tokenizer = tmp_path_factory.mktemp("checkpoint"), toy_tokenizer()
    tokenizer.save(root / "files")
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=SHAPE["dim"], num_hidden_layers=SHAPE["layers"], intermediate_size=32,
        num_attention_heads=SHAPE["heads"], num_key_value_heads=SHAPE["kv_heads"], max_position_embeddings=128,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(root / "hf")
    transformers.PreTrainedTokenizerFast.from_pretrained(root / "files").save_pretrained(root / "hf")
    assert not (root / "hf" / "tokenizer.model").exists()
    return root / "hf"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, Path]:
    """A file of each kind of row."""
    root = tmp_path_factory.mktemp("rows")
    write_rows(root / "tasks.jsonl", toy_tasks(160))
    chats = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n}!"}]} for n in range(30)
    ]
    (root / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    write_rows(root / "prefs.jsonl", [preference(n) for n in range(30)])
    return {path.stem: path for path in root.iterdir()}


def preference(n: int) -> Preference:
    """`yes` over `maybe`."""
    context = [MessageRow(role="user", content=f"will it {n}?")]
    candidates = [Candidate(messages=[MessageRow(role="assistant", content=text)], origin="x") for text in ("yes", "maybe")]
    return Preference(id=content_id(context), context=context, candidates=candidates, ranking=[0, 1], provenance=PROVENANCE)


def aligned(root: Path, checkpoint: Path, *data: Path) -> dict[str, Artifact]:
    """Every artifact of the recipe, made in this process."""
    given = [f"model={checkpoint}", f"data={json.dumps([str(path) for path in data])}"]
    made: dict[str, Artifact] = {}
    for name, node in build_graph(load_recipe("align", [*TINY, *given])).items():
        made[name] = run_stage(root, node.uses, name, [made[source] for source in node.sources], **node.raw)
    return made


@pytest.mark.slow
@pytest.mark.cores
def test_the_command_makes_a_model_and_a_report(checkpoint, rows, tmp_path):
    words = [*TINY, "chat.reward=false", f"model={checkpoint}", f"data={rows['tasks']}", str(rows["prefs"])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "puna", "run", "align", *words, "--out", str(tmp_path), "--seed", "3"],
                          cwd=tmp_path, env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "align"
    assert "Post-training rounds" in (run / "report.html").read_text()
    names = [stage["name"] for stage in json.loads((run / "status.json").read_text())["stages"]]
    assert names.index("chat.sft") < names.index("chat.r1.samples") < names.index("chat.r1.dpo") < names.index("report")
    assert "seed 3" in done.stdout


def test_every_kind_of_data_reaches_its_stages(checkpoint, rows, tmp_path):
    made = aligned(tmp_path, checkpoint, *rows.values())
    summary = made["tasks"].summary()
    assert summary["preferences"] == 30 and summary["dialogs"] > 20 and summary["dev"] > 10 < summary["test"]
    names = list(made)
    assert names.index("chat.sft") < names.index("chat.r1.samples") > names.index("chat.reward")
    assert not made["chat.reward"].summary()["skipped"] and not made["chat.r1.dpo"].summary().get("skipped")
    transformers = pytest.importorskip("transformers")
    path = made["chat"].path
    ids = torch.tensor([Tokenizer.load(path).encode("will it rain?")])
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits
        assert torch.allclose(load_model(path).eval()(ids), theirs, atol=1e-4)


def test_dialogs_alone_are_judged_by_their_held_out_loss(checkpoint, rows, tmp_path):
    made = aligned(tmp_path, checkpoint, rows["chats"])
    verdicts = {name: made[name].summary()["dev"] for name in ("chat.sft", "chat.r1.average", "chat")}
    assert {verdict["measure"] for verdict in verdicts.values()} == {"held_loss"}
    assert made["chat.reward"].summary()["skipped"] and made["chat.r1.samples"].summary()["prompts"] == 0
    assert "preference pairs" in made["chat.r1.dpo"].summary()["skipped"]
    assert "No held-out task has a verifier" in (made["report"].path / "report.json").read_text()


def test_dialogs_and_preferences_let_the_reward_model_choose(checkpoint, rows, tmp_path):
    made = aligned(tmp_path, checkpoint, rows["chats"], rows["prefs"])
    assert not made["chat.reward"].summary()["skipped"]
    prompts = list(read_rows(made["tasks"].path / "prompts.jsonl", Task))
    assert len(prompts) == 12 and {task.verifier for task in prompts} == {""}
    asked = {task.prompt[0].content.split()[0] for task in prompts}
    assert asked == {"say", "will"}
    samples = made["chat.r1.samples"]
    assert len(list(read_rows(samples.path / "samples.jsonl", Sample))) == 8 * samples.summary()["prompts"] > 0
    for dialog in read_rows(samples.path / "accepted.jsonl", Dialog):
        assert dialog.provenance.checks == {"reward": "best of k"}
    assert made["chat.r1.dpo"].summary()["pairs"] >= 20 and not made["chat.r1.dpo"].summary().get("skipped")


def test_tasks_alone_get_their_preferences_from_samples(checkpoint, rows, tmp_path):
    made = aligned(tmp_path, checkpoint, rows["tasks"])
    assert made["tasks"].summary()["preferences"] == 0 and made["chat.reward"].summary()["skipped"]
    assert made["chat.r1.pairs"].summary()["pairs"] == made["chat.r1.dpo"].summary()["pairs"] >= 2
    assert made["chat"].summary()["dev"]["measure"] == "accuracy"
    assert json.loads((made["scores"].path / "scores.json").read_text())["models"]["chat"]["overall"]["n"] == 20


def test_what_is_not_given_is_asked_for(checkpoint, tmp_path):
    done = subprocess.run([sys.executable, "-m", "puna", "run", "align", f"model={checkpoint}"],
                          cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "recipe 'align' needs data=..." in done.stderr
    with pytest.raises(InputError, match="recipe 'align' needs data=") as caught:
        load_recipe("align", [f"model={checkpoint}"])
    assert "model=... data=..." in caught.value.fix
    with pytest.raises(InputError, match="needs model="):
        load_recipe("align", ["data=a.jsonl"])


def test_a_checkpoint_is_read_as_it_is_and_written_whole(checkpoint, tmp_path):
    made = run_stage(tmp_path, "post.start", "base", [], path=str(checkpoint), licence="MIT")
    before, after = load_model(checkpoint), load_model(made.path)
    assert after.config == before.config and after.config.tied
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert (made.path / "tokenizer.model").is_file() and Tokenizer.load(made.path).digest == toy_tokenizer().digest
    assert made.summary()["parameters"] == before.config.parameters()


def test_other_weights_in_the_same_place_are_another_model(checkpoint, tmp_path):
    settings = start.Settings(path=str(tmp_path / "m"))
    with pytest.raises(InputError, match="no such model directory"):
        start.outside(settings)
    load = load_model(checkpoint)
    from puna.model.checkpoint import save_model

    save_model(load, tmp_path / "m", tokenizer=toy_tokenizer())
    first = start.outside(settings)
    with torch.no_grad():
        load.model.norm.weight[0] += 1
    save_model(load, tmp_path / "m", tokenizer=toy_tokenizer())
    second = start.outside(settings)
    assert {name for name in first if first[name] != second[name]} == {"model.safetensors"}
    (tmp_path / "m" / "tokenizer.model").unlink()
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        start.run(settings, local_context(tmp_path / "out"))
