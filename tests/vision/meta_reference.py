"""Llama 3.2 Vision written anew from Meta's published code, plainly, on the tensors of its files: the other side of a comparison.

One row of text, its images in order. Follows `models/llama3/multimodal/model.py` of meta-llama/llama-models: padding tiles,
tokens padded to a multiple of 8, masks from products of padding flags, taps before a layer, RoPE on adjacent pairs, rows that see
nothing zeroed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass
class Shape:
    """What Meta's code has as constants, and what `params.json` says."""

    patch: int
    heads: int
    tiles: int
    taps: tuple[int, ...]
    text_heads: int
    kv_heads: int
    fusion: tuple[int, ...]
    theta: float = 500_000.0
    eps: float = 1e-5


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """[T, H, E] each; plain softmax."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("thd,shd->hts", q, k) * q.shape[-1] ** -0.5
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return torch.einsum("hts,shd->thd", weights, v).flatten(1)


def block(w: Weights, name: str, x: Tensor, mask: Tensor, heads: int) -> Tensor:
    """One ImageTransformerBlock."""
    gates = [w[f"{name}.{gate}"].tanh() if f"{name}.{gate}" in w else torch.ones(1) for gate in ("gate_attn", "gate_ffn")]
    h = F.layer_norm(x, x.shape[-1:], w[f"{name}.ln_1.weight"], w[f"{name}.ln_1.bias"])
    q, k, v = (F.linear(h, w[f"{name}.attn.{part}.weight"]).unflatten(-1, (heads, -1)) for part in ("wq", "wk", "wv"))
    x = x + gates[0] * F.linear(attend(q, k, v, mask), w[f"{name}.attn.wo.weight"])
    h = F.layer_norm(x, x.shape[-1:], w[f"{name}.ln_2.weight"], w[f"{name}.ln_2.bias"])
    h = F.gelu(F.linear(h, w[f"{name}.mlp.c_fc.weight"], w[f"{name}.mlp.c_fc.bias"]))
    return x + gates[1] * F.linear(h, w[f"{name}.mlp.c_proj.weight"], w[f"{name}.mlp.c_proj.bias"])


def image_features(w: Weights, tiles_T3SS: Tensor, high: int, wide: int, shape: Shape) -> Tensor:
    """[tiles of the canvas, tokens, features] of one image, padding tiles included."""
    e, real = "vision_model.vision_encoder.", high * wide
    pixels = F.pad(tiles_T3SS, (0, 0, 0, 0, 0, 0, 0, shape.tiles - real))
    cut = F.unfold(pixels, shape.patch, stride=shape.patch).transpose(1, 2)
    x = F.linear(cut, w[e + "conv1._linear.weight"])

    def tile_embedding(name: str) -> Tensor:
        table = w[f"{e}{name}.embedding"][:high, :wide].reshape(real, 1, -1)
        return F.pad(table, (0, 0, 0, 0, 0, shape.tiles - real)) * w[f"{e}{name}.gate"].tanh()

    x = x + tile_embedding("pre_tile_pos_embed")
    x = torch.cat((w[e + "class_embedding"].expand(shape.tiles, 1, -1), x), 1)
    gate = w[e + "gated_positional_embedding_gate"].tanh()
    x = x + w[e + "positional_embedding"] * (1 - gate)
    x[:real] = x[:real] + w[e + "gated_positional_embedding"][:high, :wide].flatten(0, 1) * gate
    x = F.layer_norm(x, x.shape[-1:], w[e + "ln_pre.weight"], w[e + "ln_pre.bias"])
    tokens = x.shape[1]
    x = F.pad(x, (0, 0, 0, -tokens % 8))
    padding = torch.ones(x.shape[:2])
    padding[:real, :tokens] = 0
    mask = torch.outer(padding.flatten(), padding.flatten()) * torch.finfo(torch.float32).min
    flat, taps = x.flatten(0, 1), []
    for i in range(layers_of(w, e + "transformer.resblocks.")):
        taps += [flat] if i in shape.taps else []
        flat = block(w, f"{e}transformer.resblocks.{i}", flat, mask, shape.heads)
    flat = F.layer_norm(flat, flat.shape[-1:], w[e + "ln_post.weight"], w[e + "ln_post.bias"])
    flat = (flat.view_as(x) + tile_embedding("post_tile_pos_embed")).flatten(0, 1)
    for i in range(layers_of(w, e + "global_transformer.resblocks.")):
        flat = block(w, f"{e}global_transformer.resblocks.{i}", flat, mask, shape.heads)
    features = torch.cat((flat, torch.stack(taps, -1).flatten(1)), -1)
    return features.view(*x.shape[:2], -1)[:, :tokens]


def layers_of(w: Weights, prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).partition(".")[0]) for name in w if name.startswith(prefix))


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def rotated(x: Tensor, theta: float) -> Tensor:
    """Pairs (2i, 2i + 1) of [T, H, E] turned, as complex numbers."""
    half = x.shape[-1] // 2
    angles = torch.arange(len(x))[:, None] / theta ** (torch.arange(half) / half)
    turned = (
        torch.view_as_complex(x.unflatten(-1, (half, 2)).contiguous()) * torch.polar(torch.ones_like(angles), angles)[:, None]
    )
    return torch.view_as_real(turned).flatten(-2)


def logits(w: Weights, ids_T: Tensor, images: list[tuple[Tensor, int, int]], sees_TI: Tensor, shape: Shape) -> Tensor:
    """[T, V] of one row; images as (tiles, high, wide), `sees_TI` tells which of them each position sees."""
    t, memory, sees = "text_model.", [], []
    for number, (tiles, high, wide) in enumerate(images):
        found = image_features(w, tiles, high, wide, shape)
        memory.append(
            F.linear(found, w["vision_model.vision_projection.weight"], w["vision_model.vision_projection.bias"]).flatten(0, 1)
        )
        real = torch.arange(shape.tiles).repeat_interleave(found.shape[1]) < high * wide
        sees.append(sees_TI[:, number, None] & real)
    media, visible = torch.cat(memory), torch.cat(sees, 1)
    rows = visible.any(1, keepdim=True).float()
    cross_mask = (~visible).float() * torch.finfo(torch.float32).min * rows
    x = torch.cat((w[t + "tok_embeddings.weight"], w[t + "learnable_embedding.weight"]))[ids_T]
    causal = torch.full((len(x), len(x)), float("-inf")).triu(1)
    for i in range(layers_of(w, t + "layers.")):
        if i in shape.fusion:
            x = crossed(w, f"{t}cross_attention_layers.{shape.fusion.index(i)}", x, media, cross_mask, rows, shape)
        name = f"{t}layers.{i}"
        h = rms(x, w[f"{name}.attention_norm.weight"], shape.eps)
        q, k, v = projected(w, name, h, h, shape)
        x = x + F.linear(attend(rotated(q, shape.theta), rotated(k, shape.theta), v, causal), w[f"{name}.attention.wo.weight"])
        x = x + swiglu(w, name, rms(x, w[f"{name}.ffn_norm.weight"], shape.eps))
    return F.linear(rms(x, w[t + "norm.weight"], shape.eps), w[t + "output.weight"])


def projected(w: Weights, name: str, x: Tensor, memory: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    heads = (shape.text_heads, shape.kv_heads, shape.kv_heads)
    of = (x, memory, memory)
    parts = [F.linear(y, w[f"{name}.attention.{part}.weight"]) for part, y in zip(("wq", "wk", "wv"), of, strict=True)]
    q, k, v = (part.unflatten(-1, (count, -1)) for part, count in zip(parts, heads, strict=True))
    return q, k, v


def crossed(w: Weights, name: str, x: Tensor, media: Tensor, mask: Tensor, rows: Tensor, shape: Shape) -> Tensor:
    """One CrossAttentionTransformerBlock."""
    q, k, v = projected(w, name, rms(x, w[f"{name}.attention_norm.weight"], shape.eps), media, shape)
    q, k = rms(q, w[f"{name}.attention.q_norm.weight"], shape.eps), rms(k, w[f"{name}.attention.k_norm.weight"], shape.eps)
    h = x + w[f"{name}.gate_attn"].tanh() * F.linear(attend(q, k, v, mask) * rows, w[f"{name}.attention.wo.weight"])
    fed = swiglu(w, name, rms(h, w[f"{name}.ffn_norm.weight"], shape.eps)) * rows
    return h + w[f"{name}.gate_ffwd"].tanh() * fed


def swiglu(w: Weights, name: str, x: Tensor) -> Tensor:
    w1, w2, w3 = (w[f"{name}.feed_forward.{part}.weight"] for part in ("w1", "w2", "w3"))
    return F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), w2)
