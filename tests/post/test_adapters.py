"""LoRA training: what learns, what stays, what is written, and that the merged model is the adapted one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from post_toys import finished, run_stage, tasks_artifact, toy_tokenizer
from post_toys import toy_model as random_model
from safetensors.torch import load_file

from puna.core.stage import Artifact, local_context
from puna.infer.engine import Engine, Request
from puna.infer.fp8 import LINEARS
from puna.infer.load import load_engine
from puna.model.checkpoint import load_model, save_model
from puna.model.fp8_linear import dequantize_rows
from puna.model.llama import Llama
from puna.post import lora
from puna.post.lora import Fp8Frozen, Lora, LoraLinear
from puna.train.objectives import CrossEntropy
from puna.train.packing import pack

TOKENIZER = toy_tokenizer()
IDS = torch.arange(60).reshape(2, 30)
SETTINGS = Lora(rank=3, alpha=6)


def toy_model() -> Llama:
    """A model whose output matrix is large enough for frozen weights to be worth adapting."""
    model = random_model()
    with torch.no_grad():
        model.lm_head.weight.mul_(25)
    return model


def base_artifact(directory: Path) -> Artifact:
    save_model(toy_model(), directory, tokenizer=TOKENIZER)
    return finished(directory, "model", "base")


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Adapters as after training: no longer zero."""
    for i, layer in enumerate(module for module in model.modules() if isinstance(module, LoraLinear)):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.1, generator=torch.Generator().manual_seed(i))
    return model


def learnt(model: torch.nn.Module, steps: int = 5) -> list[float]:
    """Losses of a few steps of AdamW on one batch."""
    batch = pack([(list(range(i, i + 20)), [0] * 5 + [1] * 15) for i in (0, 30, 90)], None, 32)
    optimizer, losses = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2), []
    for _ in range(steps):
        loss = CrossEntropy().sums(model, batch)[0]["ce"] / CrossEntropy().counts(batch)["ce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_starts_at_the_model_and_leaves_it_alone():
    plain, model = toy_model(), lora.adapted(toy_model(), SETTINGS, seed=1)
    with torch.no_grad():
        assert torch.equal(model(IDS), plain(IDS))
    losses = learnt(model)
    assert losses[-1] < losses[0] - 0.1
    weights = {name.replace(".base.", "."): weight for name, weight in model.named_parameters() if "lora_" not in name}
    assert weights.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(weights[name], weight) for name, weight in plain.named_parameters())
    with torch.no_grad():
        assert not torch.allclose(model(IDS), plain(IDS), atol=1e-2)
        with lora.adapters_off(model):
            assert torch.equal(model(IDS), plain(IDS))
        assert not torch.equal(model(IDS), plain(IDS))


def test_adapters_are_where_they_were_asked_for_and_the_same_for_one_seed():
    settings = Lora(rank=2, targets=("q_proj", "down_proj"))
    one, two, other = (lora.adapted(toy_model(), settings, seed) for seed in (1, 1, 2))
    layers = {name: module for name, module in one.named_modules() if isinstance(module, LoraLinear)}
    assert list(layers) == [f"model.layers.{i}.{part}" for i in (0, 1) for part in ("self_attn.q_proj", "mlp.down_proj")]
    assert {name for name, weight in one.named_parameters() if weight.requires_grad} == {
        f"{name}.lora_{half}.weight" for name in layers for half in "AB"
    }
    for name, layer in layers.items():
        assert layer.lora_A.weight.shape == (2, layer.base.weight.shape[1])
        assert layer.lora_A.weight.abs().max() <= layer.base.weight.shape[1] ** -0.5
        assert torch.equal(layer.lora_A.weight, two.get_submodule(name).lora_A.weight)
        assert not torch.equal(layer.lora_A.weight, other.get_submodule(name).lora_A.weight)


@torch.no_grad()
def test_merged_is_adapted_and_so_is_the_base_with_the_written_adapter(tmp_path):
    base, ctx = base_artifact(tmp_path / "base"), local_context(tmp_path / "made")
    model = lively(lora.load(base, SETTINGS, ctx)[0])
    merged = lora.finished(model, base, SETTINGS, ctx)
    assert all(type(module).__name__ != "LoraLinear" for module in merged.modules())
    torch.testing.assert_close(merged(IDS), model(IDS), rtol=1e-5, atol=1e-5)
    assert (merged(IDS) - toy_model()(IDS)).abs().max() > 0.01
    engine, _ = load_engine(base.path, lora=[(ctx.out / "adapter", 1.0)])
    assert all(torch.equal(a, b) for a, b in zip(engine.model.parameters(), merged.parameters(), strict=True))
    request = Request([5, 6, 7], max_tokens=8)
    sampled = [Engine(each.eval(), stop_ids=TOKENIZER.stop_ids).generate([request])[0][0].ids for each in (model, merged)]
    assert sampled[0] == sampled[1]  # the engine reads adapters as they are


def test_files_are_pefts(tmp_path):
    lora.save_adapter(lively(lora.adapted(toy_model(), SETTINGS, 0)), SETTINGS, tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    modules = [f"model.layers.{layer}.{matrix}" for layer in (0, 1) for matrix in LINEARS["all"]]
    assert tensors.keys() == {f"base_model.model.{name}.lora_{half}.weight" for name in modules for half in "AB"}
    assert tensors["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"].shape == (3, 32)
    assert tensors["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"].shape == (16, 3)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == ("LORA", "CAUSAL_LM", 3, 6)
    assert config["target_modules"] == sorted(SETTINGS.targets) and config["bias"] == "none"


def test_wide_product_of_fp8_weights_and_its_gradient():
    weight, x = torch.randn(12, 8), torch.randn(2, 5, 8, requires_grad=True)
    layer = Fp8Frozen.from_weight(weight)
    wide = dequantize_rows(layer.weight, layer.weight_scale)
    assert layer.weight.dtype == torch.float8_e4m3fn and 0 < (wide - weight).abs().max() < 0.2
    expected = F.linear(x, wide)
    torch.testing.assert_close(layer(x), expected)
    seed = torch.randn(expected.shape)
    mine, reference = (torch.autograd.grad(y, x, seed)[0] for y in (layer(x), expected))
    torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize(("base", "frozen"), [("bf16", torch.bfloat16), ("fp8", torch.float8_e4m3fn)])
def test_bases_in_fewer_bits_learn_and_merge_into_the_weights_as_they_were(tmp_path, base, frozen):
    start, settings, ctx = base_artifact(tmp_path / "base"), Lora(rank=3, alpha=6, base=base), local_context(tmp_path / "made")
    model, _ = lora.load(start, settings, ctx)
    assert {model.get_submodule(f"model.layers.1.{matrix}").base.weight.dtype for matrix in LINEARS["all"]} == {frozen}
    assert {weight.dtype for name, weight in model.named_parameters() if ".base." not in name} == {torch.float32}
    losses = learnt(model)
    assert losses[-1] < losses[0] - 0.1
    merged = lora.finished(model, start, settings, ctx)
    change = merged.model.layers[0].mlp.up_proj.weight - load_model(start.path).model.layers[0].mlp.up_proj.weight
    layer = model.model.layers[0].mlp.up_proj
    torch.testing.assert_close(change, 2 * layer.lora_B.weight @ layer.lora_A.weight, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert (merged(IDS) - model(IDS)).abs().mean() < 0.05 * merged(IDS).std()  # apart from rounding the same function


def test_a_model_stored_in_bfloat16_stays_so(tmp_path):
    save_model(toy_model().to(torch.bfloat16), tmp_path / "base", tokenizer=TOKENIZER)
    start, ctx = finished(tmp_path / "base", "model", "base"), local_context(tmp_path / "made")
    for base, kept in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        settings = Lora(base=base)
        model, _ = lora.load(start, settings, ctx)
        assert lora.finished(model, start, settings, ctx).lm_head.weight.dtype == kept


def test_stages_write_both_and_the_next_ones_take_the_merged(tmp_path):
    start, tasks = base_artifact(tmp_path / "base"), tasks_artifact(tmp_path / "tasks")
    common = {"steps": 20, "lr": 2e-2, "batch_tokens": 512, "max_tokens": 4, "dev": 5}
    made = run_stage(tmp_path, "post.sft", "sft", [start, tasks], lora={"rank": 4}, **common)
    assert made.summary()["loss"] < made.summary()["first_loss"] - 0.5
    engine, _ = load_engine(start.path, lora=[(made.path / "adapter", 1.0)])
    stored = load_model(made.path)
    assert all(torch.equal(a, b) for a, b in zip(engine.model.parameters(), stored.parameters(), strict=True))
    state = load_file(next((tmp_path / "sft.scratch" / "train").glob("step-*/state.safetensors")))
    assert state and all(".lora_" in name for name in state)  # neither the frozen weights nor a state of theirs
    taught = run_stage(tmp_path, "post.logits", "logits", [start, made, tasks], lora={"rank": 4, "base": "fp8"}, k=8, **common)
    assert (taught.path / "adapter" / "adapter_config.json").exists()
    assert taught.summary()["loss"] < taught.summary()["first_loss"] - 0.2
