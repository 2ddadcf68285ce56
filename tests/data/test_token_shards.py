"""Token shards: round trip, mix, held-out split, and the errors of broken files and empty mixes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from puna.core.errors import InputError
from puna.core.stage import local_artifact, local_context
from puna.data import shards
from puna.data.columns import DOCUMENT_COLUMNS, write_shard_table
from puna.data.mix_manifest import normalised_mix
from puna.data.shards import Settings, open_shard, write_shard
from puna.tokenizer.bpe import Tokenizer


def corpus(path, groups, documents=60):
    (path / "documents").mkdir(parents=True)
    rows = [
        {"id": f"{group}-{i}", "url": "", "date": "", "source": f"src-{group}", "licence": "CC0-1.0", "group": group,
         "lang": "en", "text": f"document {i} of {group} " * (i % 5 + 1)}
        for group in groups for i in range(documents)
    ]  # fmt: skip
    write_shard_table(path / "documents" / "00000.parquet", rows[: len(rows) // 2], DOCUMENT_COLUMNS)
    write_shard_table(path / "documents" / "00001.parquet", rows[len(rows) // 2 :], DOCUMENT_COLUMNS)
    return rows


@pytest.fixture
def tokenizer_dir(tmp_path):
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def make(tmp_path, tokenizer_dir, name="tokens", **settings):
    inputs = [local_artifact(tmp_path / "docs", "documents"), local_artifact(tokenizer_dir, "tokenizer")]
    ctx = local_context(tmp_path / name, inputs=inputs)
    return shards.run(Settings(**settings), ctx), ctx


def test_round_trip(tmp_path):
    docs = [[1, 2, 3], [], [70000], list(range(100))]
    write_shard(tmp_path / "train-a.b", docs, {"group": "a.b"})
    shard = open_shard(tmp_path / "train-a.b")
    assert shard.documents == 4 and [shard.document(i).tolist() for i in range(4)] == docs
    assert shard.meta == {"documents": 4, "tokens": 104, "dtype": "uint32", "group": "a.b"}
    assert (tmp_path / "train-a.b.bin").read_bytes()[:4] == b"\x01\x00\x00\x00"
    write_shard(tmp_path / "none", [], {})
    assert open_shard(tmp_path / "none").documents == 0 and len(open_shard(tmp_path / "none").tokens) == 0


def test_broken_shards_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        open_shard(tmp_path / "absent")
    write_shard(tmp_path / "a", [[1, 2]], {})
    (tmp_path / "a.bin").write_bytes(b"\x00" * 5)
    with pytest.raises(InputError, match="do not belong together"):
        open_shard(tmp_path / "a")


def test_stage_encodes_every_document_once(tmp_path, tokenizer_dir):
    rows = corpus(tmp_path / "docs", ["general", "maths"])
    summary, ctx = make(tmp_path, tokenizer_dir, mix={"general": 3, "maths": 1, "code": 2}, held=0.1)
    tokenizer = Tokenizer.load(tmp_path / "tokens")
    found = []
    for group in ("general", "maths"):
        parts = {split: open_shard(tmp_path / "tokens" / f"{split}-{group}") for split in ("train", "held")}
        assert 1 <= parts["held"].documents <= 15 and parts["train"].documents + parts["held"].documents == 60
        for shard in parts.values():
            for i in range(shard.documents):
                ids = shard.document(i).tolist()
                assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
                found.append(tokenizer.decode(ids[1:-1]))
    assert sorted(found) == sorted(row["text"] for row in rows)
    record = json.loads((tmp_path / "tokens" / "mix.json").read_text())
    assert record["mix"] == {"general": 0.75, "maths": 0.25} == summary["mix"]
    assert (
        record["tokenizer"] == tokenizer.digest
        and record["groups"]["maths"]["train_documents"] + summary["groups"]["maths"]["held_documents"] == 60
    )
    assert [row["source"] for row in record["sources"]] == ["src-general", "src-maths"] == [row["source"] for row in ctx.lineage]
    assert "no documents of code" in (tmp_path / "tokens" / "volatile" / "notes.txt").read_text()
    assert summary["tokens"] + summary["held_tokens"] == sum(len(row["text"].encode()) + 2 for row in rows)


def test_same_inputs_same_bytes_and_small_groups_hold_one_out(tmp_path, tokenizer_dir):
    corpus(tmp_path / "docs", ["general", "code"], documents=3)
    for name in ("one", "two"):
        make(tmp_path, tokenizer_dir, name=name)
    for path in sorted((tmp_path / "one").iterdir()):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert open_shard(tmp_path / "one" / "held-code").documents == 1


def test_mix_without_documents_is_an_input_error(tmp_path, tokenizer_dir):
    corpus(tmp_path / "docs", ["general"], documents=2)
    with pytest.raises(InputError, match="no group of `mix`"):
        make(tmp_path, tokenizer_dir, mix={"code": 1.0})
    ctx = local_context(tmp_path / "x")
    assert normalised_mix({"a": 2, "b": 2, "c": 0}, ["a", "b", "c"], "mix", ctx) == {"a": 0.5, "b": 0.5}


def test_a_share_that_holds_out_everything_is_named_as_the_reason(tmp_path, tokenizer_dir):
    corpus(tmp_path / "docs", ["general"], documents=3)
    with pytest.raises(InputError, match="documents are held out of training") as error:
        make(tmp_path, tokenizer_dir, held=0.999999)
    assert error.value.where == "held: 0.999999"


def test_no_document_says_what_dropped_them(tmp_path, tokenizer_dir):
    corpus(tmp_path / "docs", [])
    (tmp_path / "docs" / "summary.json").write_text(json.dumps({"dropped": {"language": 9}}))
    with pytest.raises(InputError) as error:
        make(tmp_path, tokenizer_dir)
    assert "language dropped 9" in str(error.value)


def test_memory_mapped_tokens_are_uint32(tmp_path):
    write_shard(tmp_path / "a", [[1, 2]], {})
    tokens = open_shard(tmp_path / "a").tokens
    assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint32
