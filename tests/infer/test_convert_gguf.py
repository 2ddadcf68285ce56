"""GGUF: read back by the gguf package, tensor by tensor, and by llama.cpp itself where llama-cpp-python is installed."""

import random

import gguf
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from puna.commands import models
from puna.core.errors import InputError
from puna.infer.convert import convert
from puna.infer.fp8 import quantize_model, round_weights
from puna.model.checkpoint import load_model, save_model
from puna.model.config import ModelConfig, RopeScaling
from puna.model.gguf_file import rope_divisors
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.export import gguf_fields
from puna.tokenizer.merging import train_ranks
from puna.tokenizer.pieces import count_texts

TEXTS = ["The cat sat on the mat, and the dog sat by the door.", "Seven and three are ten; 7 + 3 = 10.", "naïve façade, 你好"] * 3
TOKENIZER = Tokenizer.from_ranks(train_ranks(count_texts(TEXTS), 300).ranks)
SHAPE = {"dim": 64, "layers": 3, "heads": 4, "kv_heads": 2, "ffn_dim": 96, "max_seq_len": 512}
SCALED = {"rope_scaling": RopeScaling(8, 1, 4, 64), "rope_theta": 10_000.0}
LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def lively(dtype=torch.float32, **changed) -> Llama:
    model = Llama(ModelConfig(vocab_size=TOKENIZER.vocab_size, **(SHAPE | changed)), seed=5).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5.0) if weight.dim() > 1 else weight.add_(torch.linspace(-0.5, 0.5, len(weight)).to(dtype))
    return model.eval()


def written(directory, weights=None, **changed):
    save_model(lively(**changed), directory / "hf", tokenizer=TOKENIZER)
    (directory / "hf/LICENSE").write_text("terms")
    report = convert(directory / "hf", directory / "out", "gguf", weights)
    return directory / "out/model.gguf", report


def numbers(tensor: gguf.ReaderTensor) -> np.ndarray:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def ours_as_theirs(model: Llama, name: str) -> np.ndarray:
    """A weight under llama.cpp's name, rows of q and k written out one by one: row 2i + j of a head is ours i + j * E/2."""
    stem = name.removesuffix(".weight")
    inner = stem.split(".")[2:]
    path = OUTER.get(stem) or f"model.layers.{stem.split('.')[1]}.{LAYER[inner[0]]}"
    weight = model.state_dict()[f"{path}.weight"].float().numpy()
    if inner not in (["attn_q"], ["attn_k"]):
        return weight
    size = model.config.head_size
    order = [head + i + j * size // 2 for head in range(0, len(weight), size) for i in range(size // 2) for j in (0, 1)]
    return weight[order]


@pytest.mark.parametrize(("changed", "weights", "kind"), [
    ({}, None, "F32"), ({"dtype": torch.bfloat16}, None, "BF16"), ({"dtype": torch.float16}, None, "F16"),
    ({"tied": True, **SCALED}, "f32", "F32"), ({"head_dim": 24}, "bf16", "BF16"), ({}, "f16", "F16"), ({}, "q8_0", "Q8_0"),
])  # fmt: skip
def test_tensors_and_metadata_are_read_back(changed, weights, kind, tmp_path):
    file, report = written(tmp_path, weights, **changed)
    assert report["bytes_after"] == file.stat().st_size and report["notes"] == []
    assert sorted(path.name for path in file.parent.iterdir()) == ["LICENSE", "model.gguf"]
    reader, model = gguf.GGUFReader(file), lively(**changed)
    names = {f"blk.{i}.{name}.weight" for i in range(3) for name in LAYER} | {f"{name}.weight" for name in OUTER}
    names -= {"output.weight"} if model.config.tied else set()
    names |= {"rope_freqs.weight"} if model.config.rope_scaling else set()
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert found.keys() == names
    for name in names - {"rope_freqs.weight"}:
        expected = ours_as_theirs(model, name)
        assert list(found[name].shape) == list(expected.shape)[::-1]
        assert found[name].tensor_type.name == ("F32" if expected.ndim == 1 else kind)
        if expected.ndim == 2 and kind == "Q8_0":
            assert np.abs(numbers(found[name]) - expected).max() <= np.abs(expected).max() * (
                1 / 254 + 2**-11
            )  # half a step, scale in float16
        else:
            exact = torch.from_numpy(expected).to(getattr(torch, {"BF16": "bfloat16", "F16": "float16"}.get(kind, "float32")))
            assert np.array_equal(numbers(found[name]), expected if expected.ndim == 1 else exact.float().numpy())
    fields = {name: field.contents() for name, field in reader.fields.items()}
    for key, value in gguf_fields(TOKENIZER).items():
        assert fields[key] == value, key
    c = model.config
    expected_fields = {
        "general.architecture": "llama", "general.name": "hf", "general.quantization_version": 2,
        "general.file_type": {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}[kind], "llama.vocab_size": c.vocab_size,
        "llama.context_length": 512, "llama.embedding_length": 64, "llama.block_count": 3, "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.attention.key_length": c.head_size,
        "llama.attention.value_length": c.head_size, "llama.rope.dimension_count": c.head_size,
        "llama.rope.freq_base": c.rope_theta,
    }  # fmt: skip
    assert {key: fields[key] for key in expected_fields} == expected_fields
    assert fields["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)


def test_rope_divisors_are_those_of_the_published_rule(tmp_path):
    config = ModelConfig(512, 128, 1, 1, 1, 32, rope_scaling=RopeScaling())
    due = []
    for i in range(64):
        wavelength = 2 * np.pi * 500_000.0 ** (2 * i / 128)
        smooth = (8192 / wavelength - 1) / 3
        due.append(1.0 if wavelength < 2048 else 8.0 if wavelength > 8192 else 1 / ((1 - smooth) / 8 + smooth))
    divisors = rope_divisors(config)
    np.testing.assert_allclose(divisors.numpy(), due, rtol=1e-5)
    assert (divisors == 1).sum() == 29 and (divisors == 8).sum() == 29
    assert rope_divisors(ModelConfig(512, 128, 1, 1, 1, 32)) is None
    file, _ = written(tmp_path, None, **SCALED)
    first = gguf.GGUFReader(file).tensors[0]
    assert first.name == "rope_freqs.weight" and np.array_equal(first.data, rope_divisors(lively(**SCALED).config).numpy())


def test_fp8_and_meta_sources(tmp_path):
    model = lively().to(torch.bfloat16)
    quantize_model(model)
    save_model(model, tmp_path / "fp8", tokenizer=TOKENIZER)
    convert(tmp_path / "fp8", tmp_path / "wide", "gguf", "f32")
    convert(tmp_path / "fp8", tmp_path / "stored", "gguf")
    wide = load_model(tmp_path / "fp8", dtype=None, dequantize=True)
    for directory, kind in (("wide", "F32"), ("stored", "BF16")):
        for tensor in gguf.GGUFReader(tmp_path / directory / "model.gguf").tensors:
            expected = torch.from_numpy(ours_as_theirs(wide, tensor.name))
            if expected.dim() == 2:
                assert tensor.tensor_type.name == kind
                expected = expected if kind == "F32" else expected.bfloat16().float()
            assert np.array_equal(numbers(tensor), expected.numpy()), tensor.name
    file, _ = written(tmp_path / "a", None, **SCALED)
    convert(tmp_path / "a/hf", tmp_path / "hf", "meta")  # a directory of the same name: `general.name` is in the file
    convert(tmp_path / "hf", tmp_path / "again", "gguf")
    assert (tmp_path / "again/model.gguf").read_bytes() == file.read_bytes()


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    source = tmp_path / "hf"
    save_model(lively(), source, tokenizer=TOKENIZER)
    for weights, to, said in (("q3", "gguf", "q3"), ("f16", "hf", "f16"), ("bf16", "bf16", "bf16")):
        with pytest.raises(InputError, match=said):
            convert(source, tmp_path / "out", to, weights)
    with pytest.raises(InputError, match="directory"):
        convert(source, tmp_path / "out.gguf", "gguf")
    (source / "tokenizer.model").unlink()
    convert(source, tmp_path / "by_json", "gguf")  # tokenizer.json is read as well
    (source / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="tokenizer"):
        convert(source, tmp_path / "out", "gguf")
    huge = lively()
    with torch.no_grad():
        huge.model.layers[1].mlp.up_proj.weight[3, 3] = 70_000.0
    save_model(huge, tmp_path / "huge", tokenizer=TOKENIZER)
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj.* range of f16"):
        convert(tmp_path / "huge", tmp_path / "out", "gguf", "f16")
    assert not list(tmp_path.glob("out*"))


def test_rows_that_q8_0_cannot_cut_are_f16_and_said(tmp_path):
    file, report = written(tmp_path, "q8_0", ffn_dim=100)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert {name for name, kind in kinds.items() if kind == "F16"} == {f"blk.{i}.ffn_down.weight" for i in range(3)}
    assert len(report["notes"]) == 1 and report["notes"][0].startswith("3 matrices")


def test_the_command_prints_the_place_and_says_what_it_noted(tmp_path):
    save_model(lively(ffn_dim=100), tmp_path / "hf", tokenizer=TOKENIZER)
    verb = typer.Typer()
    verb.command()(models.convert)
    arguments = [str(tmp_path / "hf"), str(tmp_path / "out"), "--to", "gguf", "--weights", "q8_0"]
    result = CliRunner().invoke(verb, arguments)
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'out'}\n" and result.stderr.startswith("3 matrices")
    assert gguf.GGUFReader(tmp_path / "out/model.gguf").tensors


# ---- llama.cpp itself


def engine(file):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: llama.cpp itself is not compared")
    whole = llama_cpp.GGML_TYPE_F32  # the cache: its default, float16, moves logits by some 1e-3
    return llama_cpp.Llama(str(file), n_ctx=512, n_threads=1, verbose=False, logits_all=True, type_k=whole, type_v=whole)


def ours_rounded(weights, **changed) -> Llama:
    """Our model with the weights the file holds."""
    model = lively(**changed)
    if weights in ("bf16", "f16"):
        round_weights(model, torch.bfloat16 if weights == "bf16" else torch.float16)
    elif weights == "q8_0":
        kind = gguf.GGMLQuantizationType.Q8_0
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() == 2:
                    weight.copy_(torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)))
    return model


def prompts() -> list[list[int]]:
    rng = random.Random(2)
    words = ["the", " cat", " sat", "\n", "7", " + ", "3", " = ", "naïve", "你好", " door"]
    texts = [*TEXTS[:3], "x", *("".join(rng.choices(words, k=n)) for n in (3, 20, 60))]
    return [[TOKENIZER.bos_id, *TOKENIZER.encode(text)] for text in texts]


@pytest.mark.parametrize(("changed", "weights", "close"), [
    ({}, "f32", 5e-5), (SCALED, "f32", 5e-5), ({"tied": True, **SCALED}, "f32", 5e-5),
    ({"head_dim": 24, "kv_heads": 4}, "f32", 5e-5), (SCALED, "f16", 0.01), (SCALED, "bf16", 0.05), (SCALED, "q8_0", 0.15),
])  # fmt: skip
def test_llama_cpp_computes_the_same_logits(changed, weights, close, tmp_path):
    """`close` is a part of the largest logit: beyond f32, llama.cpp rounds what it multiplies the weights with as well."""
    file, _ = written(tmp_path, weights, **changed)
    theirs, ours = engine(file), ours_rounded(weights, **changed)
    worst = 0.0
    for ids in prompts():
        theirs.reset()
        theirs.eval(ids)
        with torch.no_grad():
            logits = ours(torch.tensor([ids]))[0].numpy()
        worst = max(worst, np.abs(theirs.scores[: len(ids)] - logits).max() / np.abs(logits).max())
    theirs.close()
    assert worst < close


@pytest.mark.parametrize("changed", [{}, {"tied": True, **SCALED}])
def test_llama_cpp_continues_with_the_same_tokens(changed, tmp_path):
    file, _ = written(tmp_path, "f32", **changed)
    theirs, ours, steps = engine(file), lively(**changed), 64
    for ids in prompts():
        text = TOKENIZER.decode(ids[1:])
        assert theirs.tokenize(text.encode(), add_bos=True, special=False) == ids
        theirs.reset()
        theirs.eval(ids)
        got, due = list(ids), list(ids)
        for _ in range(steps):
            got.append(int(np.argmax(theirs.scores[theirs.n_tokens - 1])))
            theirs.eval(got[-1:])
            with torch.no_grad():
                due.append(int(ours(torch.tensor([due]))[0, -1].argmax()))
        assert got == due
        assert len(set(due[len(ids) :])) > 3  # it says something
    theirs.close()
