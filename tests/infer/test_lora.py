"""Adapters merged at load against the formula applied beside every linear layer, y = W x + scale B (A x)."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from small_model import IDS, TOKENIZER, lively

from puna.core.errors import InputError
from puna.infer.fp8 import quantize_model
from puna.infer.load import load_engine
from puna.infer.lora import Adapters, MergedWeights, adapter_and_weight, read_adapter
from puna.model.checkpoint import save_model
from puna.model.weight_source import DirectoryWeights

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj", "model.layers.3.mlp.down_proj", "lm_head")


def write_adapter(directory, *, seed=0, rank=4, modules=MODULES, tensors=None, **changed):
    """A PEFT directory; returns (module, A, B)."""
    directory.mkdir()
    draw = torch.Generator().manual_seed(seed)
    shapes = {name: weight.shape for name, weight in lively().named_parameters()}
    pairs = []
    for module in modules:
        rows, columns = shapes[f"{module}.weight"]
        pairs.append((module, torch.randn(rank, columns, generator=draw) * 0.3, torch.randn(rows, rank, generator=draw) * 0.3))
    stored = {f"base_model.model.{module}.lora_A.weight": a for module, a, _ in pairs}
    stored |= {f"base_model.model.{module}.lora_B.weight": b for module, _, b in pairs}
    save_file({**stored, **(tensors or {})}, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "target_modules": ["q_proj"], "bias": "none", "use_rslora": False}
    (directory / "adapter_config.json").write_text(json.dumps(config | changed))
    return pairs


def beside(model, pairs, scale):
    """The model with each pair computed beside its layer."""

    def add(a, b):
        return lambda module, arguments, output: output + scale * (arguments[0] @ a.T) @ b.T

    for module, a, b in pairs:
        model.get_submodule(module).register_forward_hook(add(a, b))
    return model


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "model"
    save_model(lively(), path, tokenizer=TOKENIZER)
    return path


@torch.no_grad()
def test_merged_logits_equal_the_formula(directory, tmp_path):
    first = write_adapter(tmp_path / "one")
    second = write_adapter(tmp_path / "two", seed=1, rank=2, modules=MODULES[1:], use_rslora=True)
    base, expected = lively()(IDS), beside(beside(lively(), first, 6 / 4), second, 0.5 * 6 / math.sqrt(2))(IDS)
    engine, _ = load_engine(directory, lora=[(tmp_path / "one", 1.0), (tmp_path / "two", 0.5)])
    assert float((base - expected).abs().max()) > 1.0
    assert torch.allclose(engine.model(IDS), expected, atol=2e-4)


@torch.no_grad()
def test_patterns_of_rank_and_alpha(directory, tmp_path):
    pairs = write_adapter(tmp_path / "one", modules=MODULES[:2], alpha_pattern={r"layers\.1\.self_attn\.v_proj": 10})
    expected = beside(beside(lively(), pairs[:1], 6 / 4), pairs[1:], 10 / 4)(IDS)
    engine, _ = load_engine(directory, lora=[(tmp_path / "one", 1.0)])
    assert torch.allclose(engine.model(IDS), expected, atol=2e-4)


def test_the_sum_is_rounded_once(tmp_path):
    save_model(lively(), tmp_path / "model", tokenizer=TOKENIZER)
    pairs = write_adapter(tmp_path / "one")
    engine, _ = load_engine(tmp_path / "model", dtype=torch.bfloat16, kernels="torch", lora=[(tmp_path / "one", 1.0)])
    merged, weights = dict(engine.model.named_parameters()), dict(lively().named_parameters())
    for module, a, b in pairs:
        weight, mine = weights[f"{module}.weight"], merged[f"{module}.weight"]
        exact = (weight.double() + 1.5 * b.double() @ a.double()).bfloat16()
        twice = weight.bfloat16() + (1.5 * b @ a).bfloat16()
        assert (mine == exact).float().mean() > 0.99 > 0.9 > (mine == twice).float().mean()
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}


def test_rows_are_merged_as_they_are_read(directory, tmp_path):
    pairs = write_adapter(tmp_path / "one")
    weights = MergedWeights(DirectoryWeights(directory), Adapters([(tmp_path / "one", 2.0)]))
    module, a, b = pairs[0]
    expected = dict(lively().named_parameters())[f"{module}.weight"] + 3 * b @ a
    assert torch.allclose(weights.rows(f"{module}.weight", 5, 20), expected[5:20], atol=1e-5)
    untouched = "model.layers.2.mlp.up_proj.weight"
    assert torch.equal(weights.rows(untouched, 0, 7), dict(lively().named_parameters())[untouched][:7])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"use_dora": True}, "use_dora = True cannot be merged"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "'IA3', not LoRA"),
        ({"r": 8}, r"A \(4, 32\) and B \(32, 4\), and the configuration rank 8"),
        ({"lora_alpha": None}, "positive numbers"),
        ({"tensors": {"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(2, 2)}}, "lora_embedding_A is no half"),
        ({"tensors": {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.zeros(4, 2)}}, "layers.9.* is no half"),
    ],
)
def test_refused_by_name(changed, words, tmp_path):
    write_adapter(tmp_path / "one", modules=MODULES[:1], **changed)
    with pytest.raises(InputError, match=words):
        read_adapter(tmp_path / "one")


def test_adapters_of_another_model(directory, tmp_path):
    shapes = {"A": (4, 9), "B": (32, 4)}
    wrong = {"0.self_attn.o_proj": r"\(32, 9\) and the model has \(32, 32\)", "7.mlp.up_proj": "does not have of its own"}
    for place, words in wrong.items():
        path, head = tmp_path / place, f"base_model.model.model.layers.{place}"
        write_adapter(path, modules=(), tensors={f"{head}.lora_{half}.weight": torch.zeros(s) for half, s in shapes.items()})
        with pytest.raises(InputError, match=words):
            load_engine(directory, lora=[(path, 1.0)])
    with pytest.raises(InputError, match="no adapter"):
        load_engine(directory, lora=[(tmp_path, 1.0)])
    write_adapter(tmp_path / "one")
    fp8, tied = lively(), lively(tied=True)
    quantize_model(fp8, linears="all")
    for name, model, words in (("fp8", fp8, "is FP8"), ("tied", tied, "lm_head.weight, which this model")):
        save_model(model, tmp_path / name, tokenizer=TOKENIZER)
        with pytest.raises(InputError, match=words):
            load_engine(tmp_path / name, lora=[(tmp_path / "one", 1.0)])


def test_weight_on_the_command_line():
    assert adapter_and_weight("some/dir") == ("some/dir", 1.0)
    assert adapter_and_weight("some/dir:0.25") == ("some/dir", 0.25)
    assert adapter_and_weight("odd:name") == ("odd:name", 1.0)
