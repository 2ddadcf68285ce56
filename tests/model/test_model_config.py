"""Shapes against the paper's table and against what transformers makes of our config.json."""

import json

import pytest
import torch

from puna.core.errors import InputError
from puna.model.config import PRESETS, ModelConfig, RopeScaling, ffn_width, preset
from puna.model.llama import Llama

PAPER = {"llama3.1-8b": (8_030_261_248, 131_072), "llama3.1-70b": (70_553_706_496, 327_680),
         "llama3.1-405b": (405_853_388_800, 516_096)}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_released_models_have_the_paper_s_parameters_and_kv_bytes(name):
    parameters, kv_bytes = PAPER[name]
    with torch.device("meta"):
        model = Llama(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == PRESETS[name].parameters() == parameters
    assert PRESETS[name].kv_bytes_per_token() == kv_bytes


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in PAPER])
def test_parameter_count_of_small_presets_is_that_of_the_module(name):
    assert sum(p.numel() for p in Llama(PRESETS[name]).parameters()) == PRESETS[name].parameters()


def test_ffn_width_gives_table_3_and_the_embedded_sizes():
    widths = [ffn_width(*arguments) for arguments in ((4096, 1.3, 1024), (8192, 1.3, 4096), (16384, 1.2, 4096))]
    assert widths == [14336, 28672, 53248]
    assert [ffn_width(d) for d in (64, 96)] == [192, 256]


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_hf_json(name):
    config = PRESETS[name]
    assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize("scaling", [None, RopeScaling(4.0, 1.0, 2.0, 64)])
def test_transformers_reads_ours_and_we_read_theirs(scaling, tmp_path):
    from transformers import LlamaConfig

    config = ModelConfig(100, 48, 2, 4, 2, 64, head_dim=16, rope_theta=12345.0, rope_scaling=scaling, max_seq_len=256, tied=True)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    theirs = LlamaConfig.from_pretrained(tmp_path)
    assert (theirs.hidden_size, theirs.head_dim, theirs.num_key_value_heads, theirs.tie_word_embeddings) == (48, 16, 2, True)
    theirs.save_pretrained(tmp_path)
    assert ModelConfig.from_hf(json.loads((tmp_path / "config.json").read_text())) == config


def test_untied_and_tied_differ_by_one_matrix():
    shape = {"vocab_size": 100, "dim": 32, "layers": 1, "heads": 2, "kv_heads": 1, "ffn_dim": 64}
    assert ModelConfig(**shape).parameters() - ModelConfig(**shape, tied=True).parameters() == 3200


@pytest.mark.parametrize(
    "change, word",
    [({"heads": 3}, "multiple"), ({"kv_heads": 3}, "kv_heads"), ({"layers": 0}, "layers"), ({"head_dim": 7}, "odd")],
)
def test_contradictory_shapes_are_refused(change, word):
    shape = {"vocab_size": 100, "dim": 32, "layers": 1, "heads": 4, "kv_heads": 2, "ffn_dim": 64} | change
    with pytest.raises(InputError, match=word):
        ModelConfig(**shape)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"model_type": "qwen2"}, "model_type"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_size": None}, "hidden_size"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
    ],
)
def test_configurations_of_other_networks_are_refused_by_name(change, word):
    with pytest.raises(InputError, match=word):
        ModelConfig.from_hf(PRESETS["tiny"].to_hf() | change)


def test_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(InputError) as caught:
        preset("llama3.1-8")
    assert "llama3.1-8b" in caught.value.fix
