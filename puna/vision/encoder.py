"""The image encoder (section 7.1): a ViT over the tiles of an image, gated global layers on top, features of several depths.

Names of parameters are those of Hugging Face's `MllamaVisionModel`. Images have between one and `max_tiles` tiles; images of
equally many tiles go through together, so no tile is computed that is not there. Checkpoints whose real patches attend to padding
(`attend_padding`) get exactly that padding, and attention in two parts instead of a mask: real queries see everything, queries of
padding see what is real.

Shape legend: N tiles of all images, I images, P tokens of a tile, C tokens of an image, D width, H heads, E head dim.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.model.llama import Affine, Embedding, Linear
from puna.vision.config import VisionConfig, ratios

MULTIPLE = 8  # tokens of a tile are padded to a multiple of it where padding is attended to


class ImageEncoder(nn.Module):
    """Features of tiles.

    Args:
        config: the shape. Weights are unset until `init_weights` or a checkpoint sets them.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.patch_embedding = PatchEmbedding(config)
        self.class_embedding = nn.Parameter(torch.empty(config.dim))
        self.gated_positional_embedding = PositionEmbedding(config)
        self.pre_tile_positional_embedding = TileEmbedding(config)
        self.post_tile_positional_embedding = TileEmbedding(config)
        self.layernorm_pre, self.layernorm_post = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.transformer = Stack(config, config.layers, gated=False)
        self.global_transformer = Stack(config, config.global_layers, gated=True)

    def forward(self, tiles_N3SS: Tensor, tiles_I: Tensor, ratio_I: Tensor, *, padded: bool = False) -> Tensor:
        """Features [N, P, F] of the tiles; F is `config.features`, the last state first, then tap by tap for each channel.

        Args:
            tiles_N3SS: normalised pixels of the tiles of the first image, then of the second, and so on.
            tiles_I: how many tiles each image has. ratio_I: 1 + its canvas in `config.ratios`, 0 for none.
            padded: return [I, max_tiles, P, F], what is computed for padding included (needs `attend_padding`).
        """
        counts = tiles_I.tolist()
        firsts = torch.tensor([0, *counts[:-1]]).cumsum(0)
        parts, places = [], []
        for tiles in sorted(set(counts)):
            which = torch.tensor([i for i, count in enumerate(counts) if count == tiles])
            at = firsts[which, None] + torch.arange(tiles)
            x_ITPF = self._alike(tiles_N3SS[at.to(tiles_N3SS.device)], ratio_I[which.to(ratio_I.device)])
            parts.append(x_ITPF if padded else x_ITPF[:, :tiles].flatten(0, 1))
            places.append(which if padded else at.flatten())
        order = torch.cat(places).argsort().to(tiles_N3SS.device)
        return torch.cat(parts)[order]

    def _alike(self, tiles_IT3SS: Tensor, ratio_I: Tensor) -> Tensor:
        """Features [I, T, P, F] of images that have T tiles each; T becomes `max_tiles` where padding is attended to."""
        config, (images, tiles) = self.config, tiles_IT3SS.shape[:2]
        x_ITPD = self.patch_embedding(tiles_IT3SS)
        if config.attend_padding:
            x_ITPD = F.pad(x_ITPD, (0, 0, 0, 0, 0, config.max_tiles - tiles))
        wide = x_ITPD.shape[1]
        x_ITPD = self.pre_tile_positional_embedding(x_ITPD, ratio_I)
        x_ITPD = torch.cat((self.class_embedding.expand(images, wide, 1, -1).to(x_ITPD.dtype), x_ITPD), 2)
        x_ITPD = self.layernorm_pre(self.gated_positional_embedding(x_ITPD, ratio_I))
        if config.attend_padding:
            x_ITPD = F.pad(x_ITPD, (0, 0, 0, -config.tokens % MULTIPLE))
        real_C = torch.zeros(x_ITPD.shape[1:3], dtype=torch.bool, device=x_ITPD.device)
        real_C[:tiles, : config.tokens] = True
        padding = None if real_C.all() else Padding(real_C.flatten())
        x_ICD, taps = self.transformer(x_ITPD.flatten(1, 2), padding, config.taps, config.taps_at)
        x_ITPD = self.layernorm_post(x_ICD).view(x_ITPD.shape)
        x_ICD, _ = self.global_transformer(self.post_tile_positional_embedding(x_ITPD, ratio_I).flatten(1, 2), padding)
        states = torch.cat((x_ICD, *([torch.stack(taps, -1).flatten(2)] if taps else [])), -1)
        return states.view(*x_ITPD.shape[:3], -1)[:, :, : config.tokens]

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw matrices with std 1 / sqrt(fan in); what writes into the residual stream divided by sqrt(2 layers)."""
        depth = math.sqrt(2 * (self.config.layers + self.config.global_layers))
        for name, weight in self.named_parameters():
            if "layernorm" in name:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias") or name.endswith("embedding.gate"):
                weight.zero_()
            elif "gate_" in name:
                weight.fill_(math.pi / 4)
            else:
                std = self.config.dim**-0.5 if "embedding" in name else weight.shape[-1] ** -0.5
                std = weight[0].numel() ** -0.5 if name.startswith("patch") else std
                std = std / depth if name.endswith(("o_proj.weight", "fc2.weight")) else std
                weight.normal_(0.0, std, generator=generator)


class PatchEmbedding(nn.Module):
    """A linear map of the pixels of each patch; the weight is that of a convolution, [D, 3, patch, patch]."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.patch = config.patch
        self.weight = nn.Parameter(torch.empty(config.dim, 3, config.patch, config.patch))

    def forward(self, tiles_IT3SS: Tensor) -> Tensor:
        """[I, T, patches, D], row by row."""
        images, tiles, _, size, _ = tiles_IT3SS.shape
        side = size // self.patch
        cut = tiles_IT3SS.view(images, tiles, 3, side, self.patch, side, self.patch).permute(0, 1, 3, 5, 2, 4, 6)
        return F.linear(cut.reshape(images, tiles, side * side, -1), self.weight.flatten(1))


class TileEmbedding(nn.Module):
    """What says which tile of which canvas a token belongs to, gated from 0."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.max_tiles = config.max_tiles
        self.embedding = Embedding(1 + len(ratios(config.max_tiles)), config.max_tiles * config.dim)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x_ITPD: Tensor, ratio_I: Tensor) -> Tensor:
        table = self.embedding(ratio_I).view(len(ratio_I), self.max_tiles, 1, -1)
        return x_ITPD + table[:, : x_ITPD.shape[1]] * self.gate.tanh()


class PositionEmbedding(nn.Module):
    """Position in a tile, fading into position in the whole canvas as its gate opens."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.max_tiles, self.tokens = config.max_tiles, config.tokens
        self.gate = nn.Parameter(torch.zeros(1))
        self.embedding = nn.Parameter(torch.empty(config.tokens, config.dim))
        self.tile_embedding = Embedding(1 + len(ratios(config.max_tiles)), config.max_tiles * config.tokens * config.dim)

    def forward(self, x_ITPD: Tensor, ratio_I: Tensor) -> Tensor:
        gate = self.gate.tanh()
        table = self.tile_embedding(ratio_I).view(len(ratio_I), self.max_tiles, self.tokens, -1)
        return x_ITPD + (1 - gate) * self.embedding + gate * table[:, : x_ITPD.shape[1]]


class Padding:
    """Which of the C tokens of an image are real."""

    def __init__(self, real_C: Tensor):
        self.real, self.padded = real_C.nonzero()[:, 0], (~real_C).nonzero()[:, 0]
        self.back = torch.cat((self.real, self.padded)).argsort()


class Stack(nn.Module):
    """Layers one after the other."""

    def __init__(self, config: VisionConfig, layers: int, *, gated: bool):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config, gated=gated) for _ in range(layers))

    def forward(
        self, x_ICD: Tensor, padding: Padding | None, taps: tuple[int, ...] = (), taps_at: str = "before"
    ) -> tuple[Tensor, list[Tensor]]:
        """(the last state, the states at `taps`)."""
        found = []
        for i, layer in enumerate(self.layers):
            before = x_ICD
            x_ICD = layer(x_ICD, padding)
            if i in taps:
                found.append(before if taps_at == "before" else x_ICD)
        return x_ICD, found


class EncoderLayer(nn.Module):
    """x + Attention(norm(x)), then x + MLP(norm(x)); both scaled by tanh of a gate in the global layers."""

    def __init__(self, config: VisionConfig, *, gated: bool):
        super().__init__()
        self.self_attn, self.mlp = EncoderAttention(config), EncoderMLP(config.dim, config.mlp_dim)
        self.input_layernorm = nn.LayerNorm(config.dim, config.norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.dim, config.norm_eps)
        self.gated = gated
        if gated:
            self.gate_attn, self.gate_ffn = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x_ICD: Tensor, padding: Padding | None) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x_ICD), padding)
        x_ICD = x_ICD + (self.gate_attn.tanh() * attended if self.gated else attended)
        changed = self.mlp(self.post_attention_layernorm(x_ICD))
        return x_ICD + (self.gate_ffn.tanh() * changed if self.gated else changed)


class EncoderAttention(nn.Module):
    """All tokens of an image attend to each other; no biases."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj = Linear(config.dim, config.dim), Linear(config.dim, config.dim)
        self.v_proj, self.o_proj = Linear(config.dim, config.dim), Linear(config.dim, config.dim)

    def forward(self, x_ICD: Tensor, padding: Padding | None) -> Tensor:
        q, k, v = (
            part(x_ICD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        if padding is None:
            y_IHCE = F.scaled_dot_product_attention(q, k, v)
        else:
            real, padded = padding.real, padding.padded
            seen = F.scaled_dot_product_attention(q[:, :, real], k, v)
            rest = F.scaled_dot_product_attention(q[:, :, padded], k[:, :, real], v[:, :, real])
            y_IHCE = torch.cat((seen, rest), 2)[:, :, padding.back]
        return self.o_proj(y_IHCE.transpose(1, 2).flatten(2))


class EncoderMLP(nn.Module):
    """fc2(gelu(fc1(x))) with the exact GELU."""

    def __init__(self, dim: int, mlp_dim: int):
        super().__init__()
        self.fc1, self.fc2 = Affine(dim, mlp_dim), Affine(mlp_dim, dim)

    def forward(self, x_ICD: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_ICD)))
