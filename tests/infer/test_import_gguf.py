"""GGUF files read back: what our export wrote to the bit, files of other writers, and everything that must be refused."""

import hashlib
import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from puna.core.errors import InputError
from puna.infer.convert import convert
from puna.model import weight_file
from puna.model.checkpoint import load_model, read_config, save_model
from puna.model.config import ModelConfig, RopeScaling
from puna.model.gguf_file import gguf_metadata, rope_divisors
from puna.model.gguf_source import GgufWeights
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.export import gguf_fields, gguf_writer
from puna.tokenizer.merging import train_ranks
from puna.tokenizer.pieces import count_texts

TEXTS = ["The cat sat on the mat, and the dog sat by the door.", "Seven and three are ten; 7 + 3 = 10.", "naïve façade, 你好"] * 3
TOKENIZER = Tokenizer.from_ranks(train_ranks(count_texts(TEXTS), 300).ranks)
SHAPE = {"dim": 64, "layers": 3, "heads": 4, "kv_heads": 2, "ffn_dim": 96, "max_seq_len": 512}
SCALED = {"rope_scaling": RopeScaling(6.5, 1.25, 3.5, 64), "rope_theta": 10_000.0}


def lively(dtype=torch.float32, **changed) -> Llama:
    model = Llama(ModelConfig(vocab_size=TOKENIZER.vocab_size, **(SHAPE | changed)), seed=5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5.0) if weight.dim() > 1 else weight.add_(torch.linspace(-0.5, 0.5, len(weight)))
    return model.to(dtype).eval()


def exported(directory, weights=None, dtype=torch.float32, **changed):
    save_model(lively(dtype, **changed), directory / "hf", tokenizer=TOKENIZER)
    (directory / "hf/LICENSE").write_text("terms")
    convert(directory / "hf", directory / "out", "gguf", weights)
    return directory / "out/model.gguf"


def hashes(directory):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir() if p.name != "SHA256SUMS"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("changed", [{}, {"tied": True, **SCALED}, {"head_dim": 24, "norm_eps": 1e-6, "kv_heads": 1}])
def test_our_export_comes_back_as_the_same_directory_to_the_byte(tmp_path, dtype, changed, monkeypatch):
    monkeypatch.setattr(weight_file, "BLOCK_BYTES", 700)  # blocks that cut heads
    file = exported(tmp_path, dtype=dtype, **changed)
    report = convert(file, tmp_path / "back")
    assert hashes(tmp_path / "back") == hashes(tmp_path / "hf")
    assert report["bytes_before"] == file.stat().st_size and report["parameters"] == lively(**changed).config.parameters()


def test_a_tokenizer_without_merges_comes_back(tmp_path):
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    model = Llama(ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPE), seed=5)
    save_model(model, tmp_path / "hf", tokenizer=tokenizer)
    convert(tmp_path / "hf", tmp_path / "out", "gguf")
    convert(tmp_path / "out/model.gguf", tmp_path / "back")
    assert hashes(tmp_path / "back") == hashes(tmp_path / "hf")


def test_q8_0_becomes_its_numbers_and_any_form(tmp_path):
    file = exported(tmp_path, "q8_0")
    convert(file, tmp_path / "hf8")
    convert(file, tmp_path / "bf16", "bf16")
    convert(file, tmp_path / "fp8", "fp8", linears="all")
    found, original = load_file(tmp_path / "hf8/model.safetensors"), lively()
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    for name, weight in original.named_parameters():
        due = weight.detach()
        if due.dim() == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            due = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(due.numpy(), kind), kind))
        assert torch.equal(found[name], due), name
        assert torch.equal(load_file(tmp_path / "bf16/model.safetensors")[name], due.bfloat16())
    assert load_model(tmp_path / "fp8").model.layers[0].self_attn.q_proj.weight.dtype == torch.float8_e4m3fn
    ids = torch.tensor([TOKENIZER.encode(TEXTS[0])])
    with torch.no_grad():
        a, b = load_model(tmp_path / "hf8")(ids), original(ids)
        assert (a - b).norm() / b.norm() < 0.05
    assert Tokenizer.load(tmp_path / "hf8").digest == TOKENIZER.digest


def test_transformers_reads_what_was_imported(tmp_path):
    transformers = pytest.importorskip("transformers")
    changed = {"rope_scaling": RopeScaling(8, 1, 4, 64), "rope_theta": 10_000.0}
    convert(exported(tmp_path, **changed), tmp_path / "back")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32).eval()
    ids = torch.arange(100)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, lively(**changed)(ids), rtol=1e-4, atol=1e-4)


def rewritten(file, target, fields=None, drop=(), tensors=None, divisors=None):
    """The file with other metadata or tensors, as another tool might have written it."""
    reader = gguf.GGUFReader(file)
    model = lively()
    kept = {**gguf_metadata(model.config, 0, "x"), **gguf_fields(TOKENIZER), **(fields or {})}
    writer = gguf_writer(target, {key: value for key, value in kept.items() if key not in drop})
    for tensor in reader.tensors:
        if tensor.name not in drop:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors)
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_files_of_other_writers(tmp_path):
    file, other = exported(tmp_path), tmp_path / "x.gguf"
    released = ModelConfig(TOKENIZER.vocab_size, **SHAPE, rope_scaling=RopeScaling(32, 1, 4, 8192))
    drop = ("llama.vocab_size", "llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count")
    convert(rewritten(file, other, drop=drop, divisors=rope_divisors(released).numpy()), tmp_path / "a")
    assert read_config(tmp_path / "a")["rope_scaling"] == RopeScaling(32, 1, 4, 8192).to_hf()
    assert torch.equal(load_model(tmp_path / "a").lm_head.weight, lively().lm_head.weight)
    convert(rewritten(file, other, divisors=np.ones(8, np.float32), drop=("output.weight",)), tmp_path / "b")
    config = read_config(tmp_path / "b")
    assert config["rope_scaling"] is None and config["tie_word_embeddings"] is True
    with pytest.raises(InputError, match=r"neither Llama 3\.1 nor 3\.2"):
        convert(rewritten(file, other, divisors=np.full(8, 3, np.float32)), tmp_path / "c")


TOKENS = gguf_fields(TOKENIZER)["tokenizer.ggml.tokens"]
MERGES = gguf_fields(TOKENIZER)["tokenizer.ggml.merges"]
REFUSED = {
    "llama-spm": ({"tokenizer.ggml.model": "llama"}, (), "not of the Llama 3 family .*'llama'"),
    "qwen": ({"tokenizer.ggml.pre": "qwen2"}, (), "not of the Llama 3 family .*'qwen2'"),
    "specials": ({"tokenizer.ggml.tokens": [*TOKENS[:-1], "<|extra|>"]}, (), "special tokens of Llama 3"),
    "merges": ({"tokenizer.ggml.merges": [*MERGES[1:], MERGES[0]]}, (), "merges does not follow"),
    "spelling": ({"tokenizer.ggml.tokens": ["▁a", *TOKENS[1:]]}, (), "byte letters"),
    "no tokenizer": ({}, ("tokenizer.ggml.tokens",), "no tokenizer"),
    "fewer ids": ({"llama.vocab_size": 999}, (), "ids"),
    "experts": ({"llama.expert_count": 8}, (), "expert_count is 8"),
    "yarn": ({"llama.rope.scaling.type": "yarn"}, (), "yarn"),
    "no depth": ({}, ("llama.block_count",), "block_count is None"),
    "giant": ({"llama.block_count": 2**31}, (), "block_count is 2147483648"),
    "eps": ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, (), "epsilon is nan"),
    "partial rope": ({"llama.rope.dimension_count": 8}, (), "rope.dimension_count is 8"),
    "missing": ({}, ("blk.1.ffn_up.weight",), r"missing: model\.layers\.1\.mlp\.up_proj"),
    "width": ({"llama.feed_forward_length": 97}, (), "shape"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("gguf"))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_ours_is_refused_and_leaves_nothing(file, tmp_path, kind):
    fields, drop, said = REFUSED[kind]
    rewritten(file, tmp_path / "x.gguf", fields, drop)
    with pytest.raises(InputError, match=said) as caught:
        convert(tmp_path / "x.gguf", tmp_path / "out")
    assert caught.value.exit_code == 2 and [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_surplus_tensors_other_types_and_numbers_that_are_none(file, tmp_path):
    other = tmp_path / "x.gguf"
    with pytest.raises(InputError, match=r"blk\.0\.ffn_gate_exps\.weight does not belong"):
        convert(rewritten(file, other, tensors={"blk.0.ffn_gate_exps.weight": np.ones((2, 2), np.float32)}), tmp_path / "out")
    wide = np.ones((64, 64), np.float64)
    with pytest.raises(InputError, match=r"attn_output\.weight is stored as F64"):
        name = "blk.0.attn_output.weight"
        convert(rewritten(file, other, drop=(name,), tensors={name: wide}), tmp_path / "out")
    with pytest.raises(InputError, match=r"blk\.0\.attn_output\.weight holds values"):
        convert(rewritten(file, other, drop=(name,), tensors={name: wide.astype(np.float32) * np.nan}), tmp_path / "out")
    with pytest.raises(InputError, match="hf first"):
        convert(file, tmp_path / "out", "meta")
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_truncated_and_foreign_files_are_named(file, tmp_path):
    data, other = file.read_bytes(), tmp_path / "x.gguf"
    for kept in (0, 3, 20, 100, len(data) // 3, len(data) - 5000):
        other.write_bytes(data[:kept])
        with pytest.raises(InputError, match=r"x\.gguf is damaged or no GGUF file"):
            GgufWeights(other)
    other.write_text(json.dumps({"a": 1}) * 10)
    with pytest.raises(InputError, match="magic"):
        GgufWeights(other)


def test_llama_cpp_still_reads_a_file_with_our_rope_keys(tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: llama.cpp itself is not compared")
    engine = llama_cpp.Llama(str(exported(tmp_path, **SCALED)), n_ctx=64, n_threads=1, verbose=False)
    assert engine.metadata["puna.rope.factor"].startswith("6.5")
