"""Vision models on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.vision.config import AdapterConfig, VideoConfig, VisionConfig
from puna.vision.model import VisionLlama


def save_vision(
    model: VisionLlama, directory: Path, *, tokenizer: Tokenizer | None = None, generation: dict[str, Any] | None = None
) -> None:
    """Write a vision model."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "text": model.config.to_hf(), "vision": asdict(model.encoder.config), "adapter": asdict(model.adapter.config),
        "video": asdict(model.video.config) if model.video else None,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    save_file(
        {name: w.detach().cpu().contiguous().clone() for name, w in model.state_dict().items()}, directory / "model.safetensors"
    )
    if tokenizer is not None:
        tokenizer.save(directory)


def load_vision(directory: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> VisionLlama:
    """Read a vision model."""
    config = json.loads((directory / "config.json").read_text())
    for part in ("vision", "adapter", "video"):
        for key in ("taps", "places"):
            if config[part] and key in config[part]:
                config[part][key] = tuple(config[part][key])
    video = VideoConfig(**config["video"]) if config["video"] else None
    text = Llama(ModelConfig.from_hf(config["text"]), seed=None)
    model = VisionLlama(text, VisionConfig(**config["vision"]), AdapterConfig(**config["adapter"]), video, seed=None)
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model.to(device, dtype)
