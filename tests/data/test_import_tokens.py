"""Megatron and datatrove shards, written here by hand byte by byte, become ours with every document whole."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import InputError
from puna.core.stage import local_artifact, local_context
from puna.data import import_tokens
from puna.data.import_tokens import open_tokens
from puna.data.shards import document_column, open_shard
from puna.tokenizer.bpe import Tokenizer
from puna.train.corpus import open_corpus

CODES = {np.dtype("<u2"): 8, np.dtype("<i4"): 4, np.dtype("<u1"): 1, np.dtype("<i8"): 5}


def megatron(path, documents, dtype="<u2", sentences=1, tail=b""):
    """Write `documents`, each as up to `sentences` sequences; returns the path of the `.bin`."""
    parts = [[p.tolist() for p in np.array_split(np.array(d, np.int64), sentences)] for d in documents]
    sequences = [p for d in parts for p in d]
    dtype = np.dtype(dtype)
    lengths = [len(p) for p in sequences]
    pointers = [sum(lengths[:i]) * dtype.itemsize for i in range(len(lengths))]
    bounds = [sum(len(d) for d in parts[:i]) for i in range(len(parts) + 1)]
    path.with_suffix(".bin").write_bytes(b"".join(np.array(p, dtype).tobytes() for p in sequences))
    path.with_suffix(".idx").write_bytes(
        b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, CODES[dtype], len(sequences), len(bounds))
        + struct.pack(f"<{len(lengths)}i", *lengths) + struct.pack(f"<{len(pointers)}q", *pointers)
        + struct.pack(f"<{len(bounds)}q", *bounds) + tail
    )  # fmt: skip
    return path.with_suffix(".bin")


def datatrove(path, documents, size=2):
    """Write `documents` as `.ds` with `.ds.index`; returns the path."""
    flat = [i for d in documents for i in d]
    path.write_bytes(struct.pack(f"<{len(flat)}{'H' if size == 2 else 'I'}", *flat))
    ends = np.cumsum([len(d) for d in documents]).tolist()
    path.with_name(path.name + ".index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends))
    return path


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 255), max_size=12), min_size=1, max_size=8), sentences=st.integers(1, 3),
    dtype=st.sampled_from(["<u1", "<u2", "<i4", "<i8"]), size=st.sampled_from([2, 4]),
)  # fmt: skip
def test_both_formats_give_back_every_document(tmp_path_factory, documents, sentences, dtype, size):
    root = tmp_path_factory.mktemp("tokens")
    found = open_tokens(megatron(root / "a", documents, dtype, sentences))
    assert len(found) == len(documents) and [d.tolist() for d in found] == documents
    assert [d.tolist() for d in open_tokens(datatrove(root / "b.ds", documents, size))] == documents


def test_large_ids_and_modes_of_newer_indexes(tmp_path):
    documents = [[70000, 1], [128255]]
    assert [d.tolist() for d in open_tokens(megatron(tmp_path / "a", documents, "<i4", tail=b"\x00\x00"))] == documents
    assert [d.tolist() for d in open_tokens(datatrove(tmp_path / "b.ds", documents, 4))] == documents


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    made = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    made.save(tmp_path / "tokenizer")
    return made


def take(tmp_path, files, **more):
    ctx = local_context(tmp_path / "tokens", inputs=[local_artifact(tmp_path / "tokenizer", "tokenizer")])
    return import_tokens.run(import_tokens.Settings.model_validate({"files": files, **more}), ctx)


def test_the_stage_makes_an_artifact_that_training_reads(tmp_path, tokenizer):
    texts = {"general": [f"page {i} über alles" for i in range(30)], "code": [f"x = {i}" for i in range(20)]}
    end = 300  # the other tool's end of text
    megatron(tmp_path / "web", [[*text.encode(), end] for text in texts["general"]], "<i4")
    datatrove(tmp_path / "git.ds", [[tokenizer.bos_id, *text.encode(), tokenizer.eos_id] for text in texts["code"]])
    files = [{"path": str(tmp_path / "web.*"), "licence": "CC-BY-4.0", "strip": [end]},
             {"path": str(tmp_path / "git.ds"), "group": "code", "source": "git"}]  # fmt: skip
    summary = take(tmp_path, files, mix={"general": 1, "code": 1}, anneal_mix={"code": 1}, held=0.1)
    found = {}
    for group, wanted in texts.items():
        shards = {split: open_shard(tmp_path / "tokens" / f"{split}-{group}") for split in ("train", "held")}
        assert shards["held"].documents >= 1
        whole = [shard.document(i).tolist() for shard in shards.values() for i in range(shard.documents)]
        assert all((d[0], d[-1]) == (tokenizer.bos_id, tokenizer.eos_id) for d in whole)
        found[group] = sorted(tokenizer.decode(d[1:-1]) for d in whole)
        assert found[group] == sorted(wanted)
    record = json.loads((tmp_path / "tokens" / "mix.json").read_text())
    assert [(row["source"], row["licence"], row["documents"]) for row in record["sources"]] == [
        ("git", "unknown", 20), ("web.bin", "CC-BY-4.0", 30)]  # fmt: skip
    characters = sum(len(text) for of_group in texts.values() for text in of_group)
    assert summary["characters_per_token"] == round(characters / (summary["tokens"] + summary["held_tokens"]), 4)
    corpus = open_corpus(tmp_path / "tokens")
    assert corpus.mix == {"general": 0.5, "code": 0.5} and set(corpus.sources("code")) == {"git"}
    assert document_column(tmp_path / "tokens" / "train-code", "id")[0].startswith("git.ds:")


def test_ids_of_another_tokenizer_are_refused(tmp_path, tokenizer):
    megatron(tmp_path / "web", [[65, 66], [67, 9999, 68]])
    with pytest.raises(InputError, match="document 1 holds the id 9999"):
        take(tmp_path, [{"path": str(tmp_path / "web.bin")}], mix={"general": 1}, anneal_mix={"general": 1})
    megatron(tmp_path / "none", [])
    with pytest.raises(InputError, match="no document in these files"):
        take(tmp_path, [{"path": str(tmp_path / "none.bin")}])
    with pytest.raises(InputError, match="no file matches"):
        take(tmp_path, [{"path": str(tmp_path / "x*.bin")}])


def test_broken_files_are_named(tmp_path):
    path = megatron(tmp_path / "a", [[1, 2, 3], [4]])
    index = path.with_suffix(".idx")
    whole = index.read_bytes()
    for broken, why in (
        (b"nothing of the kind, but long enough to hold a header", "does not begin as"), (whole[:20], "does not begin"),
        (whole[:-1], "cut short"),
        (whole[:9] + struct.pack("<Q", 2) + whole[17:], "version 2"), (whole[:17] + b"\x06" + whole[18:], "dtype 6"),
        (whole[:34] + struct.pack("<2i", 2, 2) + whole[42:], "one behind the other"),
        (whole[:-8] + struct.pack("<q", 1), "documents do not lie"),
    ):  # fmt: skip
        index.write_bytes(broken)
        with pytest.raises(InputError, match=why):
            open_tokens(path)
    index.write_bytes(whole)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="7 bytes are not the 4 tokens"):
        open_tokens(path)
    other = datatrove(tmp_path / "b.ds", [[1, 2], [3]])
    other.write_bytes(b"\x00" * 9)
    with pytest.raises(InputError, match="9 bytes are no 3 tokens"):
        open_tokens(other)
    (tmp_path / "b.ds.index").write_bytes(struct.pack("<2Q", 3, 2))
    with pytest.raises(InputError, match="ends do not grow"):
        open_tokens(other)
    with pytest.raises(InputError, match="cannot be read"):
        open_tokens(tmp_path / "absent.ds")
    with pytest.raises(InputError, match="no file of token ids that is known"):
        open_tokens(tmp_path / "a.npy")


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=120), tail=st.binary(max_size=16))
def test_any_bytes_give_documents_or_an_input_error(tmp_path_factory, data, tail):
    root = tmp_path_factory.mktemp("fuzz")
    for name in ("a.bin", "a.ds"):
        (root / name).write_bytes(tail)
    (root / "a.idx").write_bytes(b"MMIDIDX\x00\x00" + struct.pack("<QB", 1, 8) + data)
    (root / "a.ds.index").write_bytes(data)
    for name in ("a.bin", "a.ds"):
        try:
            found = open_tokens(root / name)
        except InputError:
            continue
        assert sum(len(d) for d in found) == len(found.tokens)
