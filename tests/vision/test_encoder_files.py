"""An image encoder's directory: what was written is read, what is damaged is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from seeing import VISION

from puna.core.errors import InputError
from puna.vision.encoder import ImageEncoder
from puna.vision.encoder_files import load_encoder, save_encoder


def written(directory: Path) -> ImageEncoder:
    encoder = ImageEncoder(VISION)
    encoder.init_weights(torch.Generator().manual_seed(1))
    save_encoder(encoder, directory)
    return encoder


def test_an_encoder_comes_back(tmp_path: Path) -> None:
    encoder, found = written(tmp_path), load_encoder(tmp_path)
    assert found.config == VISION and all(weight.requires_grad for weight in found.parameters())
    assert all(torch.equal(weight, encoder.state_dict()[name]) for name, weight in found.state_dict().items())


def test_damaged_encoders_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    save_file({**state, "class_embedding": torch.ones(3)}, file)
    with pytest.raises(InputError, match="class_embedding has shape"):
        load_encoder(tmp_path)
    save_file({name: tensor for name, tensor in state.items() if name != "class_embedding"}, file)
    with pytest.raises(InputError, match="1 tensors are missing: class_embedding"):
        load_encoder(tmp_path)
    file.write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_encoder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"layers": 10**9}, {"patch": 0}, {"sees": 1}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError):
            load_encoder(tmp_path)
