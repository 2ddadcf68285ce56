"""The image encoder by itself (kind `image_encoder`): its shape in a recipe, and its directory.

The directory is a `config.json` of `VisionConfig` and the encoder's weights under the names of Hugging Face's
`MllamaVisionModel`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from safetensors.torch import save_file

from puna.core.errors import InputError
from puna.core.settings import Settings
from puna.model.checkpoint import check_state, read_weights
from puna.vision.config import VisionConfig
from puna.vision.encoder import ImageEncoder

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class EncoderShape(Settings):
    """`VisionConfig` as settings; the defaults are a small one (the paper's: `VisionConfig()` itself, 850M parameters).

    `taps` of None are two layers, a third and two thirds of the way up.
    """

    dim: PositiveInt = 64
    layers: PositiveInt = 3
    global_layers: NonNegativeInt = 1
    heads: PositiveInt = 4
    mlp_dim: PositiveInt = 256
    tile: PositiveInt = 64
    patch: PositiveInt = 16
    max_tiles: PositiveInt = 4
    taps: tuple[NonNegativeInt, ...] | None = None
    norm_eps: PositiveFloat = 1e-5
    attend_padding: bool = False

    @model_validator(mode="after")
    def _check(self) -> EncoderShape:
        try:
            self.config()
        except InputError as error:
            raise ValueError(error.sentence()) from None
        return self

    def config(self) -> VisionConfig:
        """The shape; InputError where it is impossible."""
        taps = tuple(sorted({self.layers // 3, 2 * self.layers // 3})) if self.taps is None else self.taps
        return VisionConfig(**{**self.model_dump(), "taps": taps})


def save_encoder(encoder: ImageEncoder, directory: Path) -> None:
    """Write an encoder."""
    (directory / CONFIG).write_text(json.dumps(asdict(encoder.config), indent=1) + "\n")
    save_file({name: weight.detach().cpu().contiguous() for name, weight in encoder.state_dict().items()}, directory / WEIGHTS)


def load_encoder(directory: Path) -> ImageEncoder:
    """Read an encoder, float32; InputError for a directory that holds none."""
    try:
        found = json.loads((directory / CONFIG).read_text())
        config = VisionConfig(**{**found, "taps": tuple(found["taps"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"this is no image encoder ({error})", where=str(directory), fix="give a vision.contrast stage"
        ) from None
    with torch.device("meta"):
        encoder = ImageEncoder(config)
    state = read_weights(directory / WEIGHTS)
    check_state(encoder.state_dict(), state, directory, "an image encoder")
    encoder.load_state_dict(state, assign=True)
    return encoder.float().requires_grad_()
