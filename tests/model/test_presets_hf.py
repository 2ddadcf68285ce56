"""The presets on the meta device, 405B included: names and shapes of every tensor are those of transformers."""

import pytest
import torch

from puna.model.config import PRESETS
from puna.model.llama import Llama

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("name, parameters", [("8b", 8_030_261_248), ("70b", 70_553_706_496), ("405b", 405_853_388_800)])
def test_state_dict_is_hugging_face_s(name, parameters):
    config = PRESETS[f"llama3.1-{name}"]
    with torch.device("meta"):
        ours = Llama(config).state_dict()
        theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config.to_hf())).state_dict()
    assert {key: tuple(value.shape) for key, value in ours.items()} == {k: tuple(value.shape) for k, value in theirs.items()}
    assert len(ours) == 9 * config.layers + 3
    assert sum(value.numel() for value in ours.values()) == parameters == config.parameters()
