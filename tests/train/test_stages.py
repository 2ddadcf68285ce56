"""The stage files end to end on a tiny corpus: models that load, numbers that repeat, gates and choices that are recorded."""

import json
import sys
from pathlib import Path
from random import Random

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from stage_corpus import write_tokens

from puna.core.errors import InputError, Preempted, RunError
from puna.core.stage import local_artifact, local_context
from puna.model.checkpoint import load_model
from puna.tokenizer.bpe import Tokenizer
from puna.train import anneal, long_context, pretrain
from puna.train.corpus import held_losses, open_corpus
from puna.train.packing import Batch
from puna.train.preview import continue_greedily
from puna.train.recall import NeedleRows, make_needle

SHAPE = {"layers": 2, "dim": 24, "heads": 2, "kv_heads": 1}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A `tokens` artifact of bytes as tokens: two groups, both with something held out."""
    return write_tokens(tmp_path_factory.mktemp("artifact") / "tokens")


def stage(module, path, tokens, start=None, stopping=None, **settings):
    """Run a stage file on plain directories; returns (context, summary)."""
    inputs = [local_artifact(tokens, "tokens")] + ([local_artifact(start, "model")] if start else [])
    ctx = local_context(path, inputs=inputs, name="stage")
    ctx.stopping = stopping or ctx.stopping
    return ctx, module.run(module.Settings(**settings), ctx)


def pretrained(path, tokens, **more):
    watch = {"log_every": 5, "evaluate_every": 10, "previews": ["the cat"], "preview_tokens": 4}
    options = {"model": SHAPE, "steps": 20, "batch_tokens": 256, "seq_len": 64, "watch": watch, **more}
    return stage(pretrain, path, tokens, **options)


@pytest.fixture(scope="module")
def base(tokens, tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "base"
    pretrained(path, tokens, steps=40)
    return path


def content(path: Path) -> dict[str, bytes]:
    """Everything in an artifact that its digest covers."""
    files = [p for p in sorted(path.rglob("*")) if p.is_file() and "volatile" not in p.parts]
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def test_pretrain_learns_and_writes_a_model_that_loads(tmp_path, tokens):
    ctx, summary = pretrained(tmp_path / "m", tokens)
    rows = [json.loads(line) for line in (ctx.out / "metrics.jsonl").read_text().splitlines()]
    assert summary["loss"] < summary["first_loss"] - 1 and summary["steps"] == 20 and summary["tokens"] == 20 * 256
    assert [r["step"] for r in rows if "lr" in r] == [5, 10, 15, 20] and [r["step"] for r in rows if "held_loss" in r] == [10, 20]
    assert {"held_loss/code", "held_loss/general"} <= set(summary)
    model, corpus = load_model(ctx.out), open_corpus(tokens)
    assert held_losses(model, corpus.held_batches(64, 16))["held_loss"] == pytest.approx(summary["held_loss"], rel=1e-5)
    sample = next(r for r in reversed(rows) if "sample" in r)
    prompt = [corpus.tokenizer.bos_id, *corpus.tokenizer.encode("the cat")]
    assert sample["sample"] == corpus.tokenizer.decode(continue_greedily(model, prompt, 4, corpus.tokenizer.stop_ids))


def test_the_same_run_gives_the_same_bytes_stopped_or_not(tmp_path, tokens):
    ctx, summary = pretrained(tmp_path / "one", tokens)
    calls = iter(range(1000))
    with pytest.raises(Preempted):
        pretrained(tmp_path / "two", tokens, stopping=lambda: next(calls) >= 13)
    (tmp_path / "two" / "metrics.jsonl").unlink()
    again, second = pretrained(tmp_path / "two", tokens)
    assert content(ctx.out) == content(again.out) and summary == second
    assert json.dumps(summary, sort_keys=True)  # plain values only


def test_continuing_keeps_the_shape_and_refuses_another_tokenizer(tmp_path, tokens, base):
    _, summary = stage(pretrain, tmp_path / "more", tokens, base, steps=5, batch_tokens=256, seq_len=64)
    start = json.loads((base / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert summary["first_loss"] < start - 1
    with pytest.raises(InputError, match="longer than the model's 64"):
        stage(pretrain, tmp_path / "long", tokens, base, steps=5, seq_len=128)
    other = Tokenizer.from_ranks({**{bytes([i]): i for i in range(256)}, b"th": 256})
    other.save(base.parent / "other")
    with pytest.raises(InputError, match="different tokenizers"):
        stage(pretrain, tmp_path / "x", tokens, base.parent / "other", steps=5)
    with pytest.raises(InputError, match="no model to continue"):
        stage(pretrain, tmp_path / "y", tokens, steps=5)


def test_anneal_writes_the_better_of_last_and_average(tmp_path, tokens, base):
    ctx, summary = stage(anneal, tmp_path / "a", tokens, base, steps=20, batch_tokens=256, average_every=4)
    both = summary["held_loss_of"]
    assert summary["written"] == min(both, key=both.get) and summary["held_loss"] == min(both.values())
    corpus = open_corpus(tokens)
    assert held_losses(load_model(ctx.out), corpus.held_batches(64, 16))["held_loss"] == pytest.approx(
        summary["held_loss"], rel=1e-5
    )
    assert summary["mix"] == {"general": 1.0} and summary["held_loss"] < summary["held_loss_before"]
    rates = [json.loads(line)["lr"] for line in (ctx.out / "metrics.jsonl").read_text().splitlines() if "lr" in json.loads(line)]
    assert rates[-1] == pytest.approx(5e-4 / 20, rel=0.05)


def test_anneal_with_needle_rows_spends_their_share_of_tokens(tmp_path, tokens, base):
    """128 tokens a step in rows of 64 are two rows a step; a third as many, two rows in three steps, at the same steps again."""
    rows = NeedleRows(open_corpus(tokens), 1, pairs=2, queries=1, answer_weight=4.0)
    plain = [Batch(*(torch.zeros(1, 4, dtype=torch.long) for _ in range(4)))]
    thick, thin = (anneal.WithNeedles(lambda step: list(plain), rows, share, 64) for share in (128, 128 / 3))
    assert [len(thick(step)) for step in range(3)] == [3, 3, 3]
    counts = [len(thin(step)) - 1 for step in range(6)]
    assert sum(counts) == 4 and counts == [len(thin(step)) - 1 for step in range(6)]
    assert torch.equal(thin(4)[-1].ids_BT, thin(4)[-1].ids_BT) and thin(4)[-1].ids_BT.shape == (1, 64)
    assert not torch.equal(thick(0)[1].ids_BT, thick(0)[2].ids_BT)
    needles = {"share": 0.25, "pairs": 2, "queries": 1}
    _, summary = stage(anneal, tmp_path / "a", tokens, base, steps=4, batch_tokens=256, needles=needles)
    assert summary["tokens"] == 4 * (256 + 64)


def test_anneal_without_average(tmp_path, tokens, base):
    _, summary = stage(anneal, tmp_path / "a", tokens, base, steps=4, batch_tokens=256, average=False)
    assert summary["written"] == "last" and "held_loss_of" not in summary


def test_a_row_longer_than_the_batch_is_read_whole_and_said(tmp_path, tokens, base):
    ctx, summary = stage(anneal, tmp_path / "a", tokens, base, steps=2, batch_tokens=16, average=False)
    assert summary["tokens"] == 2 * 64
    assert "one row of 64 tokens" in (ctx.out / "volatile" / "notes.txt").read_text()


def test_long_context_records_stages_gates_and_the_needle(tmp_path, tokens, base):
    settings = {"stages": [128, 256], "steps": [3, 2], "batch_tokens": 512, "gate": {"patience": 1, "round_steps": 1},
                "needles": {"pairs": 3, "queries": 2, "test_pairs": 2, "test_rows": 6}}  # fmt: skip
    ctx, summary = stage(long_context, tmp_path / "l", tokens, base, **settings)
    assert [s["seq_len"] for s in summary["stages"]] == [128, 256]
    assert [s["steps"] for s in summary["stages"]] == [4, 3] and [s["extra_rounds"] for s in summary["stages"]] == [1, 1]
    assert list(summary["needle_after"]) == ["64", "128", "256"] and not summary["stages"][1]["passed"]
    config = load_model(ctx.out).config
    assert config.max_seq_len == 256 and config.rope_scaling.original_max_position_embeddings == 64
    assert "the gate was not passed" in (ctx.out / "volatile" / "notes.txt").read_text()
    again, second = stage(long_context, tmp_path / "again", tokens, base, **settings)
    assert content(ctx.out) == content(again.out) and summary == second
    settings["gate"] |= {"required": True}
    with pytest.raises(RunError, match="128 did not pass its gate"):
        stage(long_context, tmp_path / "required", tokens, base, **settings)
    with pytest.raises(InputError, match="shorter than the model's"):
        stage(long_context, tmp_path / "short", tokens, base, stages=[32])


def test_long_context_resumes_in_a_later_part_to_the_same_bytes(tmp_path, tokens, base):
    settings = {"stages": [128, 256], "steps": 4, "batch_tokens": 512, "rope_scaling": None,
                "needles": {"pairs": 3, "queries": 2, "test_pairs": 2, "test_rows": 4}}  # fmt: skip
    whole, summary = stage(long_context, tmp_path / "whole", tokens, base, **settings)
    calls = iter(range(1000))
    with pytest.raises(Preempted):
        stage(long_context, tmp_path / "cut", tokens, base, stopping=lambda: next(calls) >= 6, **settings)
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    again, second = stage(long_context, tmp_path / "cut", tokens, base, **settings)
    assert content(whole.out) == content(again.out) and summary == second
    assert load_model(again.out).config.rope_scaling is None


def test_needle_rows_weigh_the_answers_and_are_pure(tokens):
    corpus = open_corpus(tokens)
    rows = NeedleRows(corpus, 5, pairs=3, queries=2, answer_weight=4.0)
    batch, again = rows.batch(7, range(2, 4), 128), rows.batch(7, range(0, 4), 128)
    assert torch.equal(batch.ids_BT, again.ids_BT[2:]) and batch.ids_BT.shape == (2, 128)
    assert batch.mask() is None and set(batch.weights_BT.unique().tolist()) == {1.0, 4.0}
    assert batch.ids_BT[:, 0].tolist() == [corpus.tokenizer.bos_id] * 2
    rng = Random(1)
    needle = make_needle(rng, 100, rows.filler, corpus, 3, 1)
    assert len(needle.ids) == 100 and needle.answers[-1][1] == 100
    start, end = needle.answers[-1]
    text = corpus.tokenizer.decode(needle.ids[1:start])
    key = text.rsplit(" ", 1)[1]
    assert f" {key}{corpus.tokenizer.decode(needle.ids[start:end])}," in text


def test_a_directory_that_is_no_corpus_is_named(tmp_path):
    with pytest.raises(InputError, match="no directory of token shards"):
        open_corpus(tmp_path)
