"""Plans against the paper's numbers, against the modules themselves, and against what autograd really keeps."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from puna.core.errors import InputError
from puna.model.config import PRESETS, ModelConfig
from puna.model.llama import Llama
from puna.plan import flops, memory, speed
from puna.plan.report import count, duration, plan, size

B405 = PRESETS["llama3.1-405b"]


def test_405b_budget_and_gpu_hours_are_those_of_the_paper_and_the_model_card():
    assert flops.training_flops(B405, 15.6e12) == pytest.approx(3.8e25, rel=0.005)
    total = 15.6e12 * flops.training_flops_per_token(B405, 8192)
    assert speed.gpu_hours(total, 400) == pytest.approx(30.84e6, rel=0.2)
    assert 26e6 < speed.gpu_hours(flops.training_flops(B405, 15.6e12), 400) < 31e6


@pytest.mark.parametrize("name, giga", [("llama3.1-8b", 57.9), ("llama3.1-70b", 481), ("llama3.1-405b", 2620)])
def test_flops_per_token_at_8192_are_the_published_ones(name, giga):
    assert flops.training_flops_per_token(PRESETS[name], 8192) / 1e9 == pytest.approx(giga, rel=0.01)


def test_table_4_is_consistent():
    for row in speed.TABLE_4:
        assert row.tp * row.cp * row.pp * row.dp == row.gpus
    assert [round(100 * row.tflops / speed.H100_PEAK_TFLOPS) for row in speed.TABLE_4] == [43, 40, 38]  # printed: 43, 41, 38


@pytest.mark.parametrize("tied", [False, True])
def test_forward_flops_equal_torch_s_counter(tied):
    config = ModelConfig(200, 64, 3, 4, 2, 160, head_dim=24, tied=tied)
    model, length = Llama(config), 32
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(torch.zeros(2, length, dtype=torch.long))
    norms = 2 * (2 * config.layers + 1) * config.dim  # the convention counts their weights, the counter only matrices
    assert counter.get_total_flops() == 2 * length * (flops.forward_flops_per_token(config, length) - norms)


def test_newton_schulz_flops_equal_torch_s_counter():
    config = ModelConfig(50, 32, 2, 4, 2, 96)
    shapes = [p.shape for name, p in Llama(config).named_parameters() if p.dim() == 2 and "layers" in name]
    with FlopCounterMode(display=False) as counter:
        for rows, columns in shapes:
            x = torch.zeros(min(rows, columns), max(rows, columns))
            for _ in range(5):
                a = x @ x.T
                (a @ a) @ x  # the polynomial's two products, as cheap as can be
    assert counter.get_total_flops() == flops.newton_schulz_flops(config)


@pytest.mark.parametrize("config", [PRESETS["cria-flagship"], ModelConfig(64, 128, 3, 8, 1, 200, head_dim=32)])
def test_activation_estimate_is_near_what_autograd_keeps(config, monkeypatch):
    monkeypatch.setattr("puna.model.cpu.trains", lambda *tensors: False)  # the plain operations, as on a GPU
    model, kept = Llama(config), {}
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden(torch.zeros(4, 128, dtype=torch.long))
    measured = sum(nbytes for nbytes, _ in kept.values()) / 4 / 512
    assert memory.activation_values_per_token(config) == pytest.approx(measured, rel=0.1)


def test_training_memory_adds_up_from_the_module():
    config = PRESETS["cria-student"]
    parameter_bytes = sum(p.numel() * 4 for p in Llama(config).parameters())
    need = memory.training_memory(config, 0)
    assert (need.weights, need.gradients, need.optimizer, need.activations) == (
        parameter_bytes,
        parameter_bytes,
        2 * parameter_bytes,
        0,
    )
    assert memory.training_memory(B405, 0, memory.MIXED).state == 18 * B405.parameters()


def test_fp8_weights_are_those_of_a_quantised_directory(tmp_path):
    from puna.infer.fp8 import quantize_model

    config = ModelConfig(64, 32, 4, 4, 2, 96)
    model = Llama(config).to(torch.bfloat16)
    quantize_model(model)
    stored = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert memory.weight_bytes(config, fp8=True) == stored
    assert memory.weight_bytes(B405, fp8=True) == pytest.approx(486e9, rel=0.01)


def test_plan_of_a_released_model():
    made = plan("llama3.1-405B")
    values = made.json()
    assert json.loads(json.dumps(values)) is not None
    assert values["parameters"] == 405_853_388_800 and values["kv_bytes_per_token"] == 516_096
    assert values["h100_hours"] == pytest.approx(30.84e6, rel=0.2)
    for shown in ("405,853,388,800", "3.80e+25", "516,096 bytes", "Table 4", "28.4M"):
        assert shown in made.text()
    half = plan("llama3.1-405b", ["tokens=7.8e12", "gpus=8192"]).json()
    assert half["h100_hours"] == pytest.approx(values["h100_hours"] / 2) and half["days"] == pytest.approx(values["days"])


def test_plan_of_a_small_model_measures_this_machine():
    values = plan("cria-flagship", ["tokens=1000000"]).json()
    assert 0.1 < values["gflops"] < 5000
    work = 1e6 * flops.training_flops_per_token(PRESETS["cria-flagship"], 128)
    work += 1e6 / 1024 * flops.newton_schulz_flops(PRESETS["cria-flagship"])
    assert values["seconds"] * values["gflops"] * 1e9 == pytest.approx(work)


@pytest.mark.parametrize(
    "target, overrides, fix",
    [("llama3.1-8", [], "llama3.1-8b"), ("llama3.1-8b", ["token=3"], "tokens"), ("llama3.1-8b", ["tokens=many"], None)],
)
def test_unknown_names_and_values_are_refused(target, overrides, fix):
    with pytest.raises(InputError) as caught:
        plan(target, overrides)
    assert fix is None or fix in caught.value.fix


RECIPE = """
name: small
stages:
  tok: {uses: tokenizer.train, vocab: 700}
  shards: {uses: data.shards, from: tok}
  base:
    uses: train.pretrain
    from: shards
    steps: 100
    batch_tokens: 2048
    seq_len: 128
    model: {layers: 3, dim: 64, heads: 4, kv_heads: 2}
  longer: {uses: train.long_context, from: [base, shards], stages: [256, 512], steps: [10, 20], batch_tokens: 4096}
budget:
  seconds: {tok: 7}
"""


def test_plan_of_a_recipe_follows_models_and_vocabulary_through_the_graph(tmp_path):
    for module in ("puna.data.shards", "puna.train.pretrain", "puna.train.long_context"):
        pytest.importorskip(module)
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    made = plan(str(path), ["base.steps=200"])
    stages = made.json()["stages"]
    config = ModelConfig(700, 64, 3, 4, 2, 192, rope_theta=10000.0, max_seq_len=128)
    assert stages["base"]["parameters"] == stages["longer"]["parameters"] == config.parameters()
    assert stages["base"]["tokens"] == 200 * 2048 and stages["longer"]["tokens"] == 30 * 4096
    row = flops.training_flops_per_token
    assert stages["longer"]["flops"] == pytest.approx(
        10 * 4096 * row(config, 256) + 20 * 4096 * row(config, 512) + 30 * flops.newton_schulz_flops(config)
    )
    assert stages["tok"]["seconds"] == 7 and stages["shards"]["seconds"] is None
    chain = 7 + stages["base"]["seconds"] + stages["longer"]["seconds"]
    assert made.json()["seconds"] == pytest.approx(chain)
    assert "base" in made.text() and f"{config.parameters():,}" in made.text()


def test_plan_of_405b_has_the_paper_s_layouts_and_interruptions():
    made = plan("405b")
    layouts, interruptions = made.json()["layouts"], made.json()["interruptions"]
    assert [layout["processes"] for layout in layouts] == [8192] * 3 + [16384] * 6
    assert [round(layout["bubble"], 3) for layout in layouts[::3]] == [0.059, 0.117, 0.117]
    assert [layout["parts"]["weights"] for layout in layouts[:4:3]] == [199_245_824, 99_622_912]  # a middle stage's share
    for none, selective, full in zip(layouts[::3], layouts[1::3], layouts[2::3], strict=True):
        assert none["bytes"] > selective["bytes"] > full["bytes"]
    assert interruptions["mtti"] / 3600 == pytest.approx(3.09, abs=0.01) and interruptions["useful"] > 0.9
    for shown in ("16,384 GPUs, TP8 CP16 PP16 DP8, 131,072 tokens", "bubble 5.9%", "3.09 h", "4.87 TB"):
        assert shown in made.text()


def test_plan_of_a_stage_laid_out_over_processes(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    text = ["base.parallel.pp=2", "base.parallel.tp=2", "base.micro_rows=2", "base.model.layers=4"]
    stages = plan(str(path), text).json()["stages"]
    layout, config = stages["base"]["layout"], ModelConfig(700, 64, 4, 4, 2, 192)
    assert "layout" not in stages["longer"]
    assert layout["processes"] == 4 and layout["bubble"] == pytest.approx(1 / 8)
    half = (2 * (config.layer_parameters() - 128) + 700 * 64) // 2 + 2 * 128
    assert (
        layout["parts"]["weights"] in (4 * half, 4 * half + 4 * 64)
        and layout["parts"]["moments"] == 2 * layout["parts"]["weights"]
    )
    assert "4 processes of" in plan(str(path), text).text()


def test_numbers_read_well():
    assert [count(x) for x in (15.6e12, 2.84e7, 870)] == ["15.6T", "28.4M", "870"]
    assert [size(x) for x in (512, 4.9e6, 8.1e11)] == ["512 B", "4.9 MB", "810 GB"]
    assert [duration(x) for x in (70, 200, 9000, 400000)] == ["70 s", "3.33 min", "2.5 h", "4.63 days"]
