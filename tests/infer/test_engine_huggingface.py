"""Greedy answers equal those of transformers `generate` on the same directory, and loading reads what directories say."""

import json

import numpy as np
import pytest
import torch

from puna.core.errors import InputError
from puna.infer.engine import Request
from puna.infer.load import load_engine, stop_ids
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig, RopeScaling
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer

STOPS = list(range(0, 320, 40))  # ordinary tokens, so that a random model ends some of its answers


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.from_ranks({bytes([i]): i for i in range(256)})
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=48, layers=3, heads=4, kv_heads=2, ffn_dim=96, max_seq_len=512,
        rope_scaling=RopeScaling(factor=4.0, original_max_position_embeddings=64),
    )  # fmt: skip
    model = Llama(config, seed=5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(3)
    save_model(model, path, tokenizer=tokenizer, generation={"eos_token_id": STOPS})
    return path


def test_greedy_equals_transformers(directory):
    transformers = pytest.importorskip("transformers")
    engine, _ = load_engine(directory)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 256, rng.integers(1, 120)).tolist() for _ in range(20)]
    ours = [c[0] for c in engine.generate([Request(prompt, max_tokens=40) for prompt in prompts])]
    for prompt, answer in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        full = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)[0].tolist()
        assert full[len(prompt) :] == answer.ids + ([answer.stop_id] if answer.finished else [])
    assert any(answer.finished for answer in ours) and any(not answer.finished for answer in ours)
    assert stop_ids(directory) == tuple(STOPS)


def test_stop_ids_come_from_the_directory(directory, tmp_path):
    assert stop_ids(tmp_path) == ()
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert stop_ids(tmp_path) == (7,)
    for text, words in (
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"eos_token_id": ["x"]}', "must be token ids"),
    ):
        (tmp_path / "generation_config.json").write_text(text)
        with pytest.raises(InputError, match=words):
            stop_ids(tmp_path)


def test_missing_directory_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no model directory"):
        load_engine(tmp_path / "absent")
