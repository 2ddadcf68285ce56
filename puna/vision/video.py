"""The video adapter (section 7.2): a temporal aggregator makes one frame of many, further cross-attention layers read it.

The paper names a perceiver resampler (Jaegle et al. 2021; Flamingo 2022) that merges 32 consecutive frames into one and gives no
more of it than its share of the parameters. Chosen here: the latents are the tokens of a tile, so that a merged frame looks like
an image downstream; latents attend to themselves and to the tokens that all merged frames have at that tile; every frame has a
learned embedding of its number in the video. A latent begins as its learned value plus what the frames have at its own place,
summed over time with learned weights for each channel: without it a small aggregator did not learn which way anything moves, with
it in a hundred steps (docs/log.md). Six layers of width 1,280 give the paper's 0.6B with the 8B model.

Shape legend: G merged frames times tiles, M frames merged, P tokens of a tile, W width, E head dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.model.config import ModelConfig
from puna.model.llama import Affine, Linear
from puna.vision.config import VideoConfig, VisionConfig
from puna.vision.cross import CrossLayer
from puna.vision.encoder import EncoderMLP

MLP_RATIO = 4


class VideoAdapter(nn.Module):
    """Temporal aggregator and video cross-attention layers.

    Args:
        config: its shape. vision: of the encoder whose features come in. text: of the model that reads.
    """

    def __init__(self, config: VideoConfig, vision: VisionConfig, text: ModelConfig):
        super().__init__()
        self.config = config
        self.resampler = Resampler(config, vision)
        self.projector = Affine(config.dim, text.dim)
        self.layers = nn.ModuleList(CrossLayer(text) for _ in config.places)

    def forward(self, features_NPF: Tensor, frames: int, tiles: int) -> Tensor:
        """Tokens [merged frames * tiles * P, text width] of one video.

        Args:
            features_NPF: features of its tiles, frame by frame. frames, tiles: how many frames, and tiles of each.
        """
        x_MTPF = features_NPF.unflatten(0, (frames, tiles))
        merged = [self.resampler(part, first) for first, part in _groups(x_MTPF, self.config.factor)]
        return self.projector(torch.cat(merged)).flatten(0, 1)


def _groups(x_MTPF: Tensor, factor: int) -> list[tuple[int, Tensor]]:
    """Runs of `factor` frames (the last may be shorter), each with the number of its first frame."""
    return [(first, x_MTPF[first : first + factor]) for first in range(0, len(x_MTPF), factor)]


class Resampler(nn.Module):
    """A perceiver: P learned latents per tile read the tokens of M frames."""

    def __init__(self, config: VideoConfig, vision: VisionConfig):
        super().__init__()
        self.input = Affine(vision.features, config.dim)
        self.latents = nn.Parameter(torch.empty(vision.tokens, config.dim))
        self.times = nn.Parameter(torch.empty(config.frames, config.dim))
        self.time_filters = nn.Parameter(torch.empty(config.frames, config.dim))
        self.layers = nn.ModuleList(ResamplerLayer(config, vision.norm_eps) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, vision.norm_eps)

    def forward(self, x_MTPF: Tensor, first: int) -> Tensor:
        """[T, P, W]: one frame out of M, the first of which is number `first` of the video."""
        frames = slice(first, first + len(x_MTPF))
        inputs_MTPW = self.input(x_MTPF)
        media_TSW = (inputs_MTPW + self.times[frames, None, None]).transpose(0, 1).flatten(1, 2)
        latents_TPW = self.latents + (inputs_MTPW * self.time_filters[frames, None, None]).mean(0)
        for layer in self.layers:
            latents_TPW = layer(latents_TPW, media_TSW)
        return self.norm(latents_TPW)


class ResamplerLayer(nn.Module):
    """Latents attend to media and to themselves, then a feed-forward; pre-norm, as in Flamingo."""

    def __init__(self, config: VideoConfig, eps: float):
        super().__init__()
        self.heads = config.heads
        self.norm_media, self.norm_latents = nn.LayerNorm(config.dim, eps), nn.LayerNorm(config.dim, eps)
        self.norm_mlp = nn.LayerNorm(config.dim, eps)
        self.q_proj, self.o_proj = Linear(config.dim, config.dim), Linear(config.dim, config.dim)
        self.k_proj, self.v_proj = Linear(config.dim, config.dim), Linear(config.dim, config.dim)
        self.mlp = EncoderMLP(config.dim, MLP_RATIO * config.dim)

    def forward(self, latents_TPW: Tensor, media_TSW: Tensor) -> Tensor:
        queries = self.norm_latents(latents_TPW)
        keys = torch.cat((self.norm_media(media_TSW), queries), 1)
        q, k, v = (self._heads(part(x)) for part, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, keys)))
        y_TPW = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        latents_TPW = latents_TPW + self.o_proj(y_TPW)
        return latents_TPW + self.mlp(self.norm_mlp(latents_TPW))

    def _heads(self, x_TSW: Tensor) -> Tensor:
        return x_TSW.unflatten(-1, (self.heads, -1)).transpose(1, 2)
