"""Full-size modules on `meta`: the parameter counts that the paper and the released code give (sections 7.1 to 7.2)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from puna.model.config import PRESETS
from puna.vision.config import AdapterConfig, VideoConfig, VisionConfig, cross_places, video_places
from puna.vision.encoder import ImageEncoder
from puna.vision.hf import adapter_parameters, empty_vision
from puna.vision.mllama import Shapes


def count(part: nn.Module) -> int:
    return sum(weight.numel() for weight in part.parameters())


@pytest.mark.parametrize(("tile", "tokens", "millions"), [(224, 257, 799.9), (448, 1025, 836.3), (560, 1601, 863.6)])
def test_the_encoder_has_850_million_parameters(tile: int, tokens: int, millions: float) -> None:
    config = VisionConfig(tile=tile)
    with torch.device("meta"):
        encoder = ImageEncoder(config)
    assert config.tokens == tokens and config.features == 7680
    assert count(encoder) / 1e6 == pytest.approx(millions, abs=0.05)
    tables = encoder.gated_positional_embedding.tile_embedding.weight.numel()
    assert (count(encoder) - tables) / 1e6 == pytest.approx(789, abs=1)
    before = count(encoder) - tables - count(encoder.global_transformer)
    assert before / 1e6 == pytest.approx(631, abs=2)  # 630M before the gated layers came (section 7.1)


@pytest.mark.parametrize(
    ("preset", "layers", "billions", "video_layers", "video"),
    [("llama3.1-8b", 8, 1.745, 2, 0.6), ("llama3.1-70b", 20, 17.11, 5, 4.6), ("llama3.1-405b", 32, 102.0, 8, None)],
)
def test_adapters_have_the_papers_sizes(
    preset: str, layers: int, billions: float, video_layers: int, video: float | None
) -> None:
    """Cross-attention of about 100B for the 405B model; video adapters of 0.6B and 4.6B."""
    text = PRESETS[preset]
    places = cross_places(text.layers, layers)
    shapes = Shapes(text, VisionConfig(), AdapterConfig(places), VideoConfig(video_places(places)))
    model = empty_vision(shapes)
    assert len(places) == layers and count(model.adapter.layers) / 1e9 == pytest.approx(billions, rel=1e-3)
    assert model.adapter.projector.in_features == 7680
    assert model.video is not None and len(model.video.layers) == video_layers
    if video is not None:
        assert count(model.video) / 1e9 == pytest.approx(video, rel=0.05)
    assert adapter_parameters(shapes) == count(model.encoder) + count(model.adapter) + count(model.video)
