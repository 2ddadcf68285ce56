"""The image encoder (section 7.1): a ViT over the tiles of an image, gated global layers on top, features of several depths.

Names of parameters are those of Hugging Face's `MllamaVisionModel`. Images have between one and `max_tiles` tiles; images of
equally many tiles go through together, so no tile is computed that is not there. Where real patches attend to padding
(`attend_padding`), one token stands for all padding that is the same and counts as often, and attention is in two parts instead
of under a mask: real queries see everything, queries of padding see what is real.

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
            x_ITPF = self._alike(tiles_N3SS[at.to(tiles_N3SS.device)], ratio_I[which.to(ratio_I.device)], padded=padded)
            parts.append(x_ITPF if padded else x_ITPF.flatten(0, 1))
            places.append(which if padded else at.flatten())
        order = torch.cat(places).argsort().to(tiles_N3SS.device)
        return torch.cat(parts)[order]

    def _alike(self, tiles_IT3SS: Tensor, ratio_I: Tensor, *, padded: bool) -> Tensor:
        """Features [I, T, P, F] of images that have T tiles each; T is `max_tiles` if `padded`."""
        config, tiles = self.config, tiles_IT3SS.shape[1]
        x_ITPD = self.patch_embedding(tiles_IT3SS)
        if config.attend_padding:
            x_ITPD = F.pad(x_ITPD, (0, 0, 0, 0, 0, config.max_tiles - tiles))
        x_ITPD = self.pre_tile_positional_embedding(x_ITPD, ratio_I)
        first_I1D = self.class_embedding.to(x_ITPD.dtype).expand(*x_ITPD.shape[:2], 1, -1)
        x_ITPD = self.layernorm_pre(self.gated_positional_embedding(torch.cat((first_I1D, x_ITPD), 2), ratio_I))
        kept = self._different(x_ITPD, tiles, ratio_I)
        layout = Layout(config, tiles, kept, x_ITPD)
        x_ICD, taps = self.transformer(layout.flat(x_ITPD[:, :kept]), layout, config.taps, config.taps_at)
        x_ICD = self.post_tile_positional_embedding.add(self.layernorm_post(x_ICD), ratio_I, layout.tile_C)
        x_ICD, _ = self.global_transformer(x_ICD, layout)
        states = [layout.tiles(state, padded=padded) for state in (x_ICD, *taps)]
        if not taps:
            return states[0]
        return torch.cat((states[0], torch.stack(states[1:], -1).flatten(-2)), -1)

    def _different(self, x_ITPD: Tensor, tiles: int, ratio_I: Tensor) -> int:
        """How many tiles have to be computed: with padding, one stands for all padding tiles where they are the same.

        They are in released checkpoints, whose tables hold nothing for padding, and stay so in every layer. A gradient to the
        tables would tell them apart.
        """
        wide, later = x_ITPD.shape[1], self.post_tile_positional_embedding.rows(ratio_I)
        if wide - tiles < 2 or (torch.is_grad_enabled() and (x_ITPD.requires_grad or later.requires_grad)):
            return wide
        same = all(
            torch.equal(part[:, tiles : tiles + 1].expand_as(part[:, tiles:]), part[:, tiles:]) for part in (x_ITPD, later)
        )
        return tiles + 1 if same else wide

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw matrices with std 1 / sqrt(fan in); what writes into the residual stream divided by sqrt(2 layers).

        Position embeddings have std 1, like the projected patches they are added to: with CLIP's 1 / sqrt(width) a small encoder
        learns for a long time without knowing where anything is (docs/log.md).
        """
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
                std = 1.0 if name == "gated_positional_embedding.embedding" else std
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
        return x_ITPD + (self.rows(ratio_I) * self.gate.tanh())[:, : x_ITPD.shape[1], None]

    def add(self, x_ICD: Tensor, ratio_I: Tensor, tile_C: Tensor) -> Tensor:
        """The same for tokens in any order; `tile_C` is the tile of each."""
        return x_ICD + (self.rows(ratio_I) * self.gate.tanh())[:, tile_C]

    def rows(self, ratio_I: Tensor) -> Tensor:
        """What stands for each tile [I, max tiles, D], before the gate."""
        return self.embedding(ratio_I).view(len(ratio_I), self.max_tiles, -1)


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


class Layout:
    """How the tokens of images lie in a row: real ones, tile by tile; what fills each tile up; those of padding tiles.

    A token stands for all that are the same: one for what fills a tile up, one tile for all padding tiles where `kept` says so.

    Attributes:
        real: how many tokens are real; the others see these alone. tile_C: the tile of each token.
        more_C: log of how many tokens each one stands for, to be added to what attention thinks of it; None without padding.
    """

    def __init__(self, config: VisionConfig, tiles: int, kept: int, like: Tensor):
        self.tokens, self.of, self.max_tiles, self.real = config.tokens, tiles, config.max_tiles, tiles * config.tokens
        tile = torch.arange(kept, device=like.device)
        self.fill = kept if config.attend_padding and config.tokens % MULTIPLE else 0
        self.tile_C = torch.cat((tile[:tiles].repeat_interleave(self.tokens), tile[: self.fill],
                                 tile[tiles:].repeat_interleave(self.tokens)))  # fmt: skip
        self.more_C = None
        if config.attend_padding and len(self.tile_C) > self.real:
            copies = torch.ones(kept, device=like.device)
            copies[tiles:] = (config.max_tiles - tiles) / max(1, kept - tiles)
            each = torch.ones(len(self.tile_C), device=like.device)
            each[self.real : self.real + self.fill] = -config.tokens % MULTIPLE
            self.more_C = (each * copies[self.tile_C]).log().to(like.dtype)

    def flat(self, x_ITPD: Tensor) -> Tensor:
        """[I, C, D] of the tiles that are computed."""
        real, rest = x_ITPD[:, : self.of].flatten(1, 2), x_ITPD[:, self.of :].flatten(1, 2)
        if self.more_C is None:
            return real
        return torch.cat((real, real.new_zeros(len(real), self.fill, real.shape[-1]), rest), 1)

    def tiles(self, x_ICD: Tensor, *, padded: bool) -> Tensor:
        """[I, T, P, D] of the real tiles, and of the others if `padded`."""
        real_ITPD = x_ICD[:, : self.real].unflatten(1, (self.of, self.tokens))
        missing = self.max_tiles - self.of
        if not padded or not missing:
            return real_ITPD
        rest_ITPD = x_ICD[:, self.real + self.fill :].unflatten(1, (-1, self.tokens))
        return torch.cat((real_ITPD, rest_ITPD.expand(-1, missing, -1, -1)), 1)


class Stack(nn.Module):
    """Layers one after the other."""

    def __init__(self, config: VisionConfig, layers: int, *, gated: bool):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config, gated=gated) for _ in range(layers))

    def forward(
        self, x_ICD: Tensor, layout: Layout, taps: tuple[int, ...] = (), taps_at: str = "before"
    ) -> tuple[Tensor, list[Tensor]]:
        """(the last state, the states at `taps`)."""
        found = []
        for i, layer in enumerate(self.layers):
            before = x_ICD
            x_ICD = layer(x_ICD, layout)
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

    def forward(self, x_ICD: Tensor, layout: Layout) -> Tensor:
        x_ICD = self._added(x_ICD, self.self_attn(self.input_layernorm(x_ICD), layout), "gate_attn")
        return self._added(x_ICD, self.mlp(self.post_attention_layernorm(x_ICD)), "gate_ffn")

    def _added(self, x_ICD: Tensor, change_ICD: Tensor, gate: str) -> Tensor:
        return torch.addcmul(x_ICD, change_ICD, getattr(self, gate).tanh()) if self.gated else x_ICD + change_ICD


class EncoderAttention(nn.Module):
    """All tokens of an image attend to each other; no biases."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj = Linear(config.dim, config.dim), Linear(config.dim, config.dim)
        self.v_proj, self.o_proj = Linear(config.dim, config.dim), Linear(config.dim, config.dim)

    def forward(self, x_ICD: Tensor, layout: Layout) -> Tensor:
        q, k, v = (
            part(x_ICD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        if layout.more_C is None:
            y_ICHE = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        else:
            real = layout.real
            seen = F.scaled_dot_product_attention(q[:, :, :real], k, v, attn_mask=layout.more_C[None, None, None])
            rest = F.scaled_dot_product_attention(q[:, :, real:], k[:, :, :real], v[:, :, :real])
            y_ICHE = torch.cat((seen.transpose(1, 2), rest.transpose(1, 2)), 1)
        return self.o_proj(y_ICHE.flatten(2))


class EncoderMLP(nn.Module):
    """fc2(gelu(fc1(x))) with the exact GELU."""

    def __init__(self, dim: int, mlp_dim: int):
        super().__init__()
        self.fc1, self.fc2 = Affine(dim, mlp_dim), Affine(mlp_dim, dim)

    def forward(self, x_ICD: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_ICD)))
