"""A stage for tests: gives its model a small random image adapter."""

from __future__ import annotations

from typing import Any

from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.model.checkpoint import load_model
from puna.tokenizer.bpe import Tokenizer
from puna.vision.config import AdapterConfig, VisionConfig, cross_places
from puna.vision.hf import save_vision
from puna.vision.model import VisionLlama

KIND = "vision_model"
REVISION = 1
ENCODER = VisionConfig(dim=16, layers=2, global_layers=1, heads=2, mlp_dim=32, tile=16, patch=8, taps=(1,))


class Settings(BaseSettings):
    """None."""


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write the model."""
    source = ctx.inputs.one("model").path
    text, tokenizer = load_model(source), Tokenizer.load(source)
    adapter = AdapterConfig(cross_places(text.config.layers, 1), image_id=tokenizer.image_id)
    save_vision(VisionLlama(text, ENCODER, adapter), ctx.out, tokenizer=tokenizer)
    return {}
