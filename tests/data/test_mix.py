"""The mix: source weights, row quotas, epochs, and the manifest that data.shards writes of them."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.errors import InputError
from puna.core.stage import local_artifact, local_context
from puna.data import shards
from puna.data.columns import DOCUMENT_COLUMNS, write_shard_table
from puna.data.mix import BLOCK, Holding, key_of, phase_plan, row_quotas, too_often, weights_by_source
from puna.data.shards import document_column, find_document, open_shard
from puna.tokenizer.bpe import Tokenizer
from puna.train.corpus import open_corpus
from puna.train.schedule import Batching, Schedule

HELD = [Holding("general", "web", 60, 6000), Holding("general", "wiki", 20, 2000), Holding("general", "news", 10, 1000),
        Holding("code", "web", 5, 500)]  # fmt: skip


def test_a_factor_multiplies_a_sources_natural_share():
    found = weights_by_source({"general": 0.8, "code": 0.2}, {"wiki": 3, "news": 0}, HELD, "here")
    assert found == {"general/*": pytest.approx(0.4), "general/wiki": pytest.approx(0.4), "general/news": 0.0, "code": 0.2}
    assert weights_by_source({"general": 0.8, "code": 0.2}, {}, HELD, "here") == {"general": 0.8, "code": 0.2}
    exact = weights_by_source({"general": 0.8, "code": 0.2}, {"general/web": 0.5, "web": 7}, HELD, "here")
    assert exact == {"general/*": pytest.approx(0.4), "general/web": pytest.approx(0.4), "code/web": 0.2}
    assert [key_of("general", s, found) for s in ("web", "wiki", "news")] == ["general/*", "general/wiki", "general/news"]
    assert key_of("code", "web", found) == "code" and key_of("maths", "x", found) is None


@pytest.mark.parametrize(
    ("factors", "what"),
    [({"wiki": -1}, "negative"), ({"wikki": 2}, "no training document of the source 'wikki'"),
     ({"web": 0, "wiki": 0, "news": 0}, "every source of the group")],
)  # fmt: skip
def test_mistaken_factors_are_named(factors, what):
    with pytest.raises(InputError, match=what):
        weights_by_source({"general": 1.0}, factors, HELD, "here")


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 1e6), min_size=1, max_size=40))
def test_quotas_fill_a_block_near_the_weights_and_forget_nobody(weights):
    wanted = {name: weight for name, weight in weights.items() if weight > 0}
    if not wanted:
        with pytest.raises(InputError, match="no group a positive weight"):
            row_quotas(weights)
        return
    quotas = row_quotas(weights)
    assert set(quotas) == set(wanted) and sum(quotas.values()) == BLOCK and min(quotas.values()) >= 1
    exact = {name: BLOCK * weight / sum(wanted.values()) for name, weight in wanted.items()}
    if min(exact.values()) >= 1:
        assert all(abs(quotas[name] - exact[name]) < 1 for name in wanted)


def test_epochs_are_planned_tokens_over_tokens_there():
    weights = weights_by_source({"general": 0.8, "code": 0.2}, {"wiki": 3, "news": 0}, HELD, "here")
    plan = phase_plan(weights, HELD, 20_000)
    rows = {(row["group"], row["source"]): row for row in plan["sources"]}
    assert plan["available_tokens"] == 8500 and plan["documents"] == 85 and sum(plan["shares"].values()) == pytest.approx(1)
    assert rows["general", "wiki"]["planned_tokens"] == 8000 and rows["general", "wiki"]["epochs"] == 4.0
    assert rows["general", "web"]["epochs"] == pytest.approx(8000 / 6000, abs=1e-4)
    assert rows["general", "news"] | {"documents": 0} == {
        "group": "general", "source": "news", "key": None, "documents": 0, "tokens": 1000, "share": 0.0, "planned_tokens": 0,
        "epochs": 0.0}  # fmt: skip
    assert rows["code", "web"]["epochs"] == 8.0
    assert too_often({"pretrain": plan}, 8) == []
    assert too_often({"pretrain": plan}, 4) == [
        "pretrain: web (code) would be read 8.0 times (limit 4): 4,000 tokens planned, 500 there"
    ]
    both = too_often({"pretrain": plan, "anneal": phase_plan({"general/wiki": 1.0}, HELD, 2000)}, 4)
    assert both[1:] == ["all phases: wiki (general) would be read 5.0 times (limit 4)"]
    assert phase_plan(weights, HELD, None)["sources"][0]["epochs"] is None


@pytest.fixture
def tokens(tmp_path):
    """A `tokens` artifact made by the stage from 90 documents of 3 sources in 2 groups, wiki up-sampled in annealing."""
    (tmp_path / "docs" / "documents").mkdir(parents=True)
    (tmp_path / "tokenizer").mkdir()
    Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)}).save(tmp_path / "tokenizer")
    rows = [
        {"id": f"{source}-{i}", "url": "", "date": "", "source": source, "licence": "CC0-1.0", "lang": "en",
         "group": "code" if i % 3 == 0 else "general", "text": f"{source} document {i}\nline two " * (1 + i % 4)}
        for i in range(30) for source in ("wiki", "web", "news")
    ]  # fmt: skip
    write_shard_table(tmp_path / "docs" / "documents" / "00000.parquet", rows, DOCUMENT_COLUMNS)
    settings = shards.Settings(
        mix={"general": 3, "code": 1}, anneal_mix={"general": 1, "code": 1}, held=0.05, planned_tokens={"anneal": 12000},
        source_weights={"anneal": {"general/wiki": 4, "general/news": 0}}, max_epochs=3,
    )  # fmt: skip
    ctx = local_context(tmp_path / "tokens", inputs=[local_artifact(tmp_path / "docs", "documents"),
                                                     local_artifact(tmp_path / "tokenizer", "tokenizer")])  # fmt: skip
    shards.run(settings, ctx)
    return tmp_path / "tokens"


def test_the_manifest_says_what_each_phase_reads(tokens):
    record = json.loads((tokens / "mix.json").read_text())
    assert record["version"] == 2 and record["mix"] == {"general": 0.75, "code": 0.25}
    assert record["phases"]["pretrain"]["weights"] == record["mix"] == record["phases"]["long_context"]["weights"]
    anneal = record["phases"]["anneal"]
    assert set(anneal["weights"]) == {"code", "general/*", "general/news", "general/wiki"} and anneal["planned_tokens"] == 12000
    for row in anneal["sources"]:
        lengths = np.diff(open_shard(tokens / f"train-{row['group']}").ends, prepend=0)
        of_source = document_column(tokens / f"train-{row['group']}", "source") == row["source"]
        assert (row["documents"], row["tokens"]) == (of_source.sum(), lengths[of_source].sum())
    wiki = next(row for row in anneal["sources"] if (row["group"], row["source"]) == ("general", "wiki"))
    assert wiki["epochs"] > 3 and f"read {wiki['epochs']:.1f} times" in (tokens / "volatile" / "notes.txt").read_text()
    assert set(record["shards"]) == {f"{split}-{group}" for split in ("train", "held") for group in ("code", "general")}
    assert all(len(digest) == 32 for digest in record["shards"].values()) and len(set(record["shards"].values())) == 4


def test_every_document_is_found_by_its_id(tokens):
    tokenizer = Tokenizer.load(tokens)
    for name in ("wiki-0", "web-7", "news-29"):
        ((split, group, index),) = find_document(tokens, name)
        text = tokenizer.decode(open_shard(tokens / f"{split}-{group}").document(index)[1:-1].tolist())
        assert text.startswith(f"{name.split('-')[0]} document {name.split('-')[1]}\n")
    assert find_document(tokens, "absent") == []


@pytest.mark.parametrize("piece_tokens", [None, 1])
def test_training_reads_the_sources_by_their_weights(tokens, piece_tokens):
    corpus = open_corpus(tokens, piece_tokens)
    assert corpus.mix == corpus.long_mix == {"general": 0.75, "code": 0.25}
    schedule = Schedule(steps=125, batching=Batching(batch_tokens=128, seq_len=16, mix=corpus.anneal_mix))
    stream = corpus.stream(schedule, seed=3)
    read = Counter(name.split(" ")[0] for step in range(125) for name in stream.group_of(step))
    shares = json.loads((tokens / "mix.json").read_text())["phases"]["anneal"]["shares"]
    assert read == {key: round(1000 * share) for key, share in shares.items()} and "general/news" not in read
    text = corpus.tokenizer.decode([int(i) for step in range(125) for i in stream(step)[0].ids_BT.flatten()])
    assert text.count("news document") > 0 and corpus.sources("general").tolist().count("news") > 0
    wiki = stream.groups["general/wiki"]
    assert set(corpus.sources("general")[wiki.members]) == {"wiki"}
    seen = sum(r.tokens for i in wiki.members.tolist() for r in stream.find("general", i))
    assert seen == read["general/wiki"] * 16


def test_shards_without_sources_say_so(tokens):
    (tokens / "train-general.parquet").unlink()
    corpus = open_corpus(tokens)
    corpus.stream(Schedule(steps=1, batching=Batching(batch_tokens=16, seq_len=16)), seed=1)
    with pytest.raises(InputError, match="does not say where its documents come from"):
        corpus.stream(Schedule(steps=1, batching=Batching(batch_tokens=16, seq_len=16, mix=corpus.anneal_mix)), seed=1)
