"""Data value by annealing: joined shards, blended mixes, and verdicts that known good, useless and known data earn."""

import json

import numpy as np
import pytest
from study_corpus import SHAPE, make_tokens, run_stage, tokens_artifact

from puna.core.errors import InputError
from puna.core.graph import Source
from puna.data.shards import open_shard, write_shard
from puna.tokenizer.bpe import Tokenizer
from puna.train import pretrain
from puna.train.corpus import open_corpus
from puna.train.studies import probe, value

COMMON = {"steps": 30, "batch_tokens": 256, "seq_len": 32, "optim": {"name": "muon", "lr": 1e-2}, "held_rows": 16}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A half-trained model, its shards (code starved), more code, and noise."""
    root = tmp_path_factory.mktemp("value")
    tokens = make_tokens(root / "tokens", documents=60)
    record = json.loads((tokens / "mix.json").read_text())
    (tokens / "mix.json").write_text(json.dumps({**record, "mix": {"general": 0.97, "code": 0.03}}))
    more = make_tokens(root / "morecode", groups=("code",), documents=60, seed=9)
    noise = make_tokens(root / "noise", groups=("general",))
    draw = np.random.default_rng(0)
    for split in ("train", "held"):
        write_shard(noise / f"{split}-general", [[256, *draw.integers(0, 256, 200).tolist(), 257] for _ in range(60)], {})
    half = run_stage(pretrain, root / "half", [tokens_artifact(tokens)], model=SHAPE, steps=40, batch_tokens=256, seq_len=32,
                     lr={"shape": "constant"}, optim=COMMON["optim"])  # fmt: skip
    return half, tokens_artifact(tokens), tokens_artifact(more, "morecode"), tokens_artifact(noise, "noise")


def run_study(root, inputs, **settings):
    half, *tokens = inputs
    merged = value.Settings.model_validate({**COMMON, **settings})
    made = {"half": half, **{t.name: t for t in tokens}}
    modules = {"train.studies.probe": probe, "train.studies.value": value}
    sources = [Source("half", "model"), *(Source(t.name, "tokens") for t in tokens)]
    for name, entry in value.expand("worth", merged, sources).items():
        given = [made[n] for n in entry.pop("from")]
        made[name] = run_stage(modules[entry.pop("uses")], root / name, given, name=name, **entry)
    return made, json.loads((made["worth"].path / "value.json").read_text())


def test_data_that_is_missing_helps_and_noise_hurts(tmp_path, inputs):
    made, found = run_study(tmp_path, inputs, seeds=3)
    assert len(made) == 4 + 3 * 3 + 1
    assert found["data"]["morecode"]["verdict"] == "helped" != found["data"]["noise"]["verdict"]
    assert found["data"]["noise"]["groups"]["general"]["verdict"] == "hurt"
    assert found["data"]["morecode"]["groups"]["code"]["verdict"] == "helped"
    assert found["data"]["noise"]["groups"]["noise.general"]["verdict"] == "helped"  # its own text, and no reason to buy it
    assert found["goal"] == {"code": 0.5, "general": 0.5} and found["checkpoint"] == "stage"
    assert {arm["tokens"] for arm in found["arms"].values()} == {30 * 256}
    assert found["arms"]["morecode"]["mix"] == pytest.approx({"general": 0.7 * 0.97, "code": 0.7 * 0.03, "morecode.code": 0.3})
    assert found["arms"]["control"]["share"] == 0 and found["arms"]["control"]["mix"] == {"general": 0.97, "code": 0.03}
    row = found["data"]["noise"]
    assert row["low"] < row["difference"] < row["high"]
    assert row["difference"] == pytest.approx(row["loss"] - row["control_loss"], abs=1e-5)
    rates = [json.loads(line) for line in (made["worth.noise.r1"].path / "metrics.jsonl").read_text().splitlines()]
    assert [r["lr"] for r in rates if "lr" in r] == pytest.approx([1e-2 * (1 - s / 30) for s in (9, 19, 29)])
    assert "intervals cover held-out rows and seeds" in (made["worth"].path / "volatile" / "notes.txt").read_text()


def test_a_source_of_the_corpus_itself_can_be_judged(tmp_path, inputs):
    same = {"general": 0.97, "code": 0.03}
    _, found = run_study(tmp_path, inputs[:2], candidates={"a": {"code/a": 1.0}, "same": same}, steps=5)
    assert found["data"]["same"]["verdict"] == "not told apart"
    assert found["data"]["same"]["difference"] == pytest.approx(0, abs=1e-6)  # same mix, seed and steps: the same model
    assert found["arms"]["a"]["mix"] == pytest.approx({"general": 0.679, "code": 0.021, "code/a": 0.3})
    assert found["data"]["a"]["seed_noise"] is None and found["held_rows"] == {"code": 16, "general": 16}


def test_joined_shards_are_those_of_each(tmp_path, inputs):
    _, tokens, more, _ = inputs
    joined = probe.join_tokens([tokens, more], tmp_path / "joined")
    corpus = open_corpus(joined.path)
    assert sorted(corpus.train) == ["code", "general", "morecode.code"] == sorted(corpus.held)
    assert np.array_equal(corpus.train["morecode.code"].tokens, open_shard(more.path / "train-code").tokens)
    assert corpus.sources("morecode.code").tolist() == ["a", "b"] * 30
    other = make_tokens(tmp_path / "other")
    Tokenizer.from_ranks({**{bytes([i]): i for i in range(256)}, b"th": 256}).save(other)
    with pytest.raises(InputError, match="different tokenizers"):
        probe.join_tokens([tokens, tokens_artifact(other)], tmp_path / "again")
    with pytest.raises(InputError, match="no input of kind 'tokens' is called 'x'"):
        probe.blended(probe.Settings(**COMMON, study="s", data="x"), joined)


def test_what_is_missing_is_named():
    settings = value.Settings(**COMMON)
    for sources in ([], [Source("half", "model"), Source("tokens", "tokens")], [Source("t", "tokens"), Source("u", "tokens")]):
        with pytest.raises(InputError, match="takes a half-trained model"):
            value.expand("worth", settings, sources)
    with pytest.raises(ValueError, match="cannot name a data set"):
        value.Settings(**COMMON, candidates={"control": {"code": 1}})
