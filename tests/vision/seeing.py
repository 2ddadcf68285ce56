"""A small random model that sees, with gates wide open, and pictures to show it."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from puna.infer.engine import Engine, Request
from puna.infer.request import Shown
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.vision.config import AdapterConfig, VideoConfig, VisionConfig, cross_places, video_places
from puna.vision.eyes import Eyes
from puna.vision.media import Loaded
from puna.vision.model import VisionLlama
from puna.vision.tiles import ImageShape, tiles_of

TOKENIZER = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
IMAGE = TOKENIZER.image_id
TEXT = ModelConfig(TOKENIZER.vocab_size, dim=32, layers=4, heads=4, kv_heads=2, ffn_dim=64, max_seq_len=256)
VISION = VisionConfig(
    dim=16, layers=2, global_layers=1, heads=2, mlp_dim=32, tile=16, patch=8, max_tiles=4, taps=(1,), attend_padding=False
)
SHAPE = ImageShape(tile=VISION.tile, max_tiles=VISION.max_tiles)


def seeing_model(
    *, video: bool = True, leak: bool = False, attend_padding: bool = False, dtype: torch.dtype = torch.float32
) -> VisionLlama:
    vision = replace(VISION, attend_padding=attend_padding)
    places = cross_places(TEXT.layers, 2)
    clip = VideoConfig(video_places(places), factor=4, dim=24, layers=1, heads=2, frames=16) if video else None
    model = VisionLlama(Llama(TEXT, seed=1), vision, AdapterConfig(places, leak=leak, image_id=IMAGE), clip, seed=2, gate=1.0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(3.0 if name.startswith("text") else 2.0)
    return model.to(dtype).eval()


def noise(height: int, width: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def picture(seed: int, height: int = 20, width: int = 30) -> Loaded:
    return Loaded("image", [tiles_of(noise(height, width, seed), SHAPE)], b"picture %d %d %d" % (seed, height, width))


def clip(seed: int, frames: int = 6) -> Loaded:
    images = [tiles_of(noise(16, 16, 100 * seed + i), SHAPE) for i in range(frames)]
    return Loaded("video", images, b"clip %d %d" % (seed, frames))


def png(seed: int, height: int = 20, width: int = 30) -> bytes:
    out = io.BytesIO()
    noise(height, width, seed).save(out, "PNG")
    return out.getvalue()


def engine_of(model: VisionLlama, **options) -> Engine:
    return Engine(model.text, stop_ids=(), page_size=8, eyes=Eyes(model, SHAPE), **options)


def asked(parts: list[int | Loaded], **options) -> Request:
    """A request whose prompt is this: media in their places."""
    ids = [IMAGE if isinstance(part, Loaded) else part for part in parts]
    media = [Shown(at, part) for at, part in enumerate(parts) if isinstance(part, Loaded)]
    return Request(ids, media=media, **{"max_tokens": 8, "logprobs": 1, **options})


def words(start: int, count: int) -> list[int]:
    return [(start + 7 * i) % 250 for i in range(count)]
