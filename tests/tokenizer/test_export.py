from __future__ import annotations

import itertools
import json
import random

import pytest
from tricky_texts import SENTENCES, random_text
from typer.testing import CliRunner

from puna.commands.texts import app
from puna.core.errors import InputError
from puna.tokenizer import special
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import PIECE_BREAK, Message, jinja_template, render
from puna.tokenizer.export import export, gguf_fields
from puna.tokenizer.hf import byte_letters


def read_gguf(file) -> dict:
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(file)
    assert list(reader.tensors) == []
    return {name: field.contents() for name, field in reader.fields.items()}


def test_gguf_is_read_back_by_the_gguf_package(tokenizer, tmp_path):
    (file,) = export(tokenizer, tmp_path, "gguf")
    found = read_gguf(file)
    for key, value in gguf_fields(tokenizer).items():
        assert found[key] == value, key
    assert found["general.architecture"] == "llama"
    assert found["llama.vocab_size"] == len(found["tokenizer.ggml.tokens"]) == tokenizer.vocab_size
    assert found["tokenizer.ggml.model"] == "gpt2"
    assert found["tokenizer.ggml.pre"] == "llama-bpe"
    assert found["tokenizer.chat_template"] == jinja_template().replace(PIECE_BREAK, "")
    of_letter = {letter: byte for byte, letter in enumerate(byte_letters())}
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert [bytes(map(of_letter.get, token)) for token in tokens[: tokenizer.base_size]] == list(tokenizer.ranks)
    assert tokens[tokenizer.base_size :] == list(special.SPECIAL_TOKENS)
    assert kinds == [1] * tokenizer.base_size + [3] * 256
    assert tokens[found["tokenizer.ggml.eos_token_id"]] == "<|eot_id|>"
    assert tokens[found["tokenizer.ggml.bos_token_id"]] == "<|begin_of_text|>"


def merge_encode(fields: dict, pieces: list[bytes]) -> list[int]:
    """Encoding as llama.cpp does it for `llama-bpe`: a piece that is a token whole; else merges in their order."""
    letters = byte_letters()
    ids = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    order = {tuple(pair.split(" ")): i for i, pair in enumerate(fields["tokenizer.ggml.merges"])}
    out = []
    for piece in pieces:
        parts = [letters[byte] for byte in piece]
        if "".join(parts) in ids:
            parts = ["".join(parts)]
        while pairs := [(order[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in order]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        out += [ids[part] for part in parts]
    return out


def test_gguf_merges_give_the_same_ids(tokenizer):
    import regex

    from puna.tokenizer.bpe import SPLIT_PATTERN

    fields, rng = gguf_fields(tokenizer), random.Random(3)
    for text in [*SENTENCES, *(random_text(rng) for _ in range(300))]:
        pieces = [piece.encode() for piece in regex.findall(SPLIT_PATTERN, text)]
        assert merge_encode(fields, pieces) == tokenizer.encode(text)


@pytest.fixture(scope="module")
def llama_cpp_reads(tokenizer, tmp_path_factory):
    """The exported GGUF in llama.cpp: its vocabulary only."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: llama.cpp itself is not compared")
    (file,) = export(tokenizer, tmp_path_factory.mktemp("gguf"), "gguf")
    engine = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    yield engine
    engine.close()


def test_llama_cpp_gives_the_same_ids(tokenizer, llama_cpp_reads):
    rng = random.Random(8)
    for text in [*SENTENCES, *(random_text(rng) for _ in range(1000))]:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert llama_cpp_reads.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), text


def test_llama_cpp_renders_and_ends_a_chat_as_we_do(tokenizer, llama_cpp_reads):
    import llama_cpp
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = llama_cpp_reads.metadata["tokenizer.chat_template"]
    formatter = Jinja2ChatFormatter(template, eos_token="<|eot_id|>", bos_token="<|begin_of_text|>", add_generation_prompt=True)
    messages = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": " 7 and\n3?"},
        {"role": "assistant", "content": "10"}, {"role": "user", "content": "Straße?"},
    ]  # fmt: skip
    text = formatter(messages=messages).prompt
    expected = render(tokenizer, [Message(**message) for message in messages], generation_prompt=True).ids
    assert llama_cpp_reads.tokenize(text.encode(), add_bos=False, special=True) == expected
    vocabulary = llama_cpp_reads._model.vocab
    ends = [i for i in range(tokenizer.vocab_size) if llama_cpp.llama_vocab_is_eog(vocabulary, i)]
    assert ends == sorted(tokenizer.stop_ids)


def test_tiktoken_files_make_the_same_encoding(tokenizer, tmp_path):
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    ranks, described = export(tokenizer, tmp_path, "tiktoken")
    encoding = tiktoken.Encoding(mergeable_ranks=load_tiktoken_bpe(str(ranks)), **json.loads(described.read_text()))
    for text in SENTENCES:
        assert encoding.encode(text) == tokenizer.encode(text)
    assert encoding.encode("<|eot_id|>", allowed_special="all") == [tokenizer.eot_id]
    assert Tokenizer.load(ranks).digest == tokenizer.digest


def test_hf_export_is_a_tokenizer_directory(tokenizer, saved, tmp_path):
    files = export(tokenizer, tmp_path, "hf")
    assert {file.name: file.read_bytes() for file in files} == {file.name: file.read_bytes() for file in saved.iterdir()}


def test_unknown_format(tokenizer, tmp_path):
    with pytest.raises(InputError, match="no tokenizer format 'onnx'"):
        export(tokenizer, tmp_path, "onnx")


def test_commands(saved, tokenizer, tmp_path):
    invoke = CliRunner().invoke
    exported = invoke(app, ["export", str(saved), str(tmp_path / "t"), "--to", "tiktoken", "--json"])
    files = json.loads(exported.output)["files"]
    assert files == [str(tmp_path / "t" / name) for name in ("tokenizer.tiktoken", "tokenizer.tiktoken.json")]
    for source in (files[0], str(saved), str(saved / "tokenizer.json")):
        imported = invoke(app, ["import", source, str(tmp_path / "again"), "--json"])
        assert json.loads(imported.output) == {
            "directory": str(tmp_path / "again"),
            "vocab_size": tokenizer.vocab_size,
            "base_size": tokenizer.base_size,
            "digest": tokenizer.digest,
        }
        assert Tokenizer.load(tmp_path / "again").digest == tokenizer.digest
