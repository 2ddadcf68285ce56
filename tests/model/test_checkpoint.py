"""Hugging Face directories: transformers reads ours, we read theirs, and nothing broken or mismatched loads."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from puna.core.errors import InputError
from puna.model.checkpoint import load_model, load_state, read_config, save_model
from puna.model.config import ModelConfig, RopeScaling
from puna.model.fp8_linear import Fp8Linear, dequantize_rows
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer

SHAPE = {"vocab_size": 512, "dim": 32, "layers": 3, "heads": 4, "kv_heads": 2, "ffn_dim": 64, "max_seq_len": 128}
IDS = torch.arange(3, 43)[None]


def model(seed: int = 0, **change) -> Llama:
    return Llama(ModelConfig(**(SHAPE | change)), seed=seed)


def tokenizer() -> Tokenizer:
    return Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})


def contents(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


def same_weights(a: Llama, b: Llama) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
def test_round_trip_and_transformers_reads_ours(tied, max_shard_bytes, tmp_path):
    from transformers import AutoModelForCausalLM

    ours = model(tied=tied, rope_scaling=RopeScaling(4, 1, 4, 32))
    save_model(ours, tmp_path, max_shard_bytes=max_shard_bytes)
    assert len(list(tmp_path.glob("*.safetensors"))) > (1 if max_shard_bytes == 20_000 else 0)
    back = load_model(tmp_path)
    assert same_weights(ours, back) and back.config == ours.config
    assert (back.lm_head.weight is back.model.embed_tokens.weight) == tied
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, ours(IDS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard", ["5GB", "30KB"])
def test_we_read_what_transformers_writes(tied, shard, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(LlamaConfig(**ModelConfig(**SHAPE, tied=tied, rope_scaling=RopeScaling(8, 1, 4, 64)).to_hf()))
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(IDS), theirs.eval()(IDS).logits, atol=1e-5, rtol=1e-5)


def test_tokenizer_and_generation_files_lie_beside_and_load_in_transformers(tmp_path):
    from transformers import AutoTokenizer, GenerationConfig

    tok = tokenizer()
    save_model(model(), tmp_path, tokenizer=tok, generation={"temperature": 0.6, "top_p": 0.9})
    assert read_config(tmp_path)["puna_tokenizer"] == tok.digest
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.temperature, generation.top_p, generation.bos_token_id) == (0.6, 0.9, tok.bos_id)
    assert tuple(generation.eos_token_id) == tok.stop_ids
    text = "Grüße 123"
    assert AutoTokenizer.from_pretrained(tmp_path)(text, add_special_tokens=False).input_ids == tok.encode(text)
    assert load_model(tmp_path).config.vocab_size == tok.vocab_size


def test_same_model_same_bytes_and_an_earlier_save_leaves_nothing_behind(tmp_path):
    save_model(model(), tmp_path / "a", tokenizer=tokenizer(), max_shard_bytes=30_000)
    save_model(model(seed=5), tmp_path / "b", tokenizer=tokenizer(), max_shard_bytes=15_000)
    save_model(model(), tmp_path / "b", tokenizer=tokenizer(), max_shard_bytes=30_000)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_dtypes_are_cast_or_kept(tmp_path):
    half = model().to(torch.bfloat16)
    save_model(half, tmp_path)
    assert read_config(tmp_path)["torch_dtype"] == "bfloat16"
    assert {w.dtype for w in load_model(tmp_path).parameters()} == {torch.float32}
    assert same_weights(load_model(tmp_path, dtype=None), half)


def refused(directory: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_model(directory)
    assert caught.value.where and caught.value.fix
    return caught.value


def edit_config(directory: Path, **change) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_another_tokenizer_is_refused(tmp_path):
    save_model(model(), tmp_path, tokenizer=tokenizer())
    ranks = {bytes([byte]): byte for byte in reversed(range(256))}
    Tokenizer.from_ranks({token: 255 - rank for token, rank in ranks.items()}).save(tmp_path)
    assert "trained with tokenizer" in refused(tmp_path).what
    Tokenizer.from_ranks({**{bytes([byte]): byte for byte in range(256)}, b"ab": 256}).save(tmp_path)
    assert refused(tmp_path).what == "the tokenizer has 513 ids and the model 512"


def test_saving_with_a_tokenizer_of_another_size_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="512 ids and the model 600"):
        save_model(model(vocab_size=600), tmp_path / "out", tokenizer=tokenizer())
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_refused(tmp_path):
    save_model(model(), tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:5], b"", b"\xff" * 100):
        (tmp_path / "model.safetensors").write_bytes(broken)
        assert "cannot be read" in refused(tmp_path).what


def test_missing_surplus_and_misshapen_tensors_are_named(tmp_path):
    save_model(model(), tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    save_file({k: v for k, v in state.items() if k != "model.layers.1.mlp.up_proj.weight"}, file)
    assert refused(tmp_path).what == "1 tensors are missing: model.layers.1.mlp.up_proj.weight"
    save_file(state | {"model.layers.9.mlp.up_proj.weight_scale": torch.ones(64, 1),
                       "model.layers.9.mlp.up_proj.weight": torch.ones(64, 32)}, file)  # fmt: skip
    assert "model.layers.9.mlp.up_proj.weight" in refused(tmp_path).what
    save_file(state | {"model.norm.weight": torch.ones(31)}, file)
    assert refused(tmp_path).what == "model.norm.weight has shape (31,) and config.json asks for (32,)"


def test_broken_index_config_and_directories_are_refused(tmp_path):
    save_model(model(), tmp_path, max_shard_bytes=30_000)
    index = tmp_path / "model.safetensors.index.json"
    text = index.read_text()
    index.write_text(text.replace("model.norm.weight", "model.norm.wait"))
    assert "model.norm.wait" in refused(tmp_path).what
    index.write_text(text)
    next(tmp_path.glob("model-00001*")).unlink()
    assert "missing" in refused(tmp_path).what
    index.unlink()
    assert "neither" in refused(tmp_path).what
    (tmp_path / "config.json").write_text("{")
    assert "not valid JSON" in refused(tmp_path).what
    (tmp_path / "config.json").unlink()
    assert "no config.json" in refused(tmp_path).what
    assert "no such" in refused(tmp_path / "nowhere").what


def test_a_tied_configuration_over_two_different_matrices_is_refused(tmp_path):
    save_model(model(), tmp_path)
    edit_config(tmp_path, tie_word_embeddings=True)
    assert "ties" in refused(tmp_path).what


def test_fp8_layers_survive_the_directory_and_can_be_widened(tmp_path):
    ours = model().to(torch.bfloat16)
    mlp = ours.model.layers[1].mlp
    mlp.up_proj = Fp8Linear.from_weight(mlp.up_proj.weight, activation_bound=900.0)
    save_model(ours, tmp_path)
    quantization = read_config(tmp_path)["quantization_config"]
    assert quantization["quant_method"] == "fbgemm_fp8" and quantization["activation_scale_ub"] == 900.0
    kept = quantization["modules_to_not_convert"]
    assert len(kept) == 3 * 7 and "lm_head" in kept and "model.layers.1.mlp.up_proj" not in kept
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    assert stored[name].dtype == torch.float8_e4m3fn and stored[name + "_scale"].shape == (64, 1)
    back = load_model(tmp_path)
    layer = back.model.layers[1].mlp.up_proj
    assert isinstance(layer, Fp8Linear) and layer.activation_bound == 900.0 and layer.weight.dtype == torch.float8_e4m3fn
    assert back.model.layers[1].mlp.gate_proj.weight.dtype == torch.float32
    with torch.no_grad():
        widened = load_model(tmp_path, dtype=None)
        torch.testing.assert_close(back(IDS), widened(IDS), atol=0.02, rtol=0.05)
    wide = load_model(tmp_path, dequantize=True)
    assert torch.equal(wide.model.layers[1].mlp.up_proj.weight, dequantize_rows(stored[name], stored[name + "_scale"]))
    assert torch.equal(load_state(tmp_path)[name], wide.model.layers[1].mlp.up_proj.weight)
    edit_config(tmp_path, intermediate_size=65)
    assert "shape" in refused(tmp_path).what
