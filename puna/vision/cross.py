"""Gated cross-attention from text to what was seen (section 7.1.1): the layer that images and videos share.

h = x + tanh(g_a) XAttn(norm(x)), out = h + tanh(g_f) FFN(norm(h)), gates 0 at the start, so that a new adapter changes nothing.
Queries and keys have an RMSNorm per head and no rotation. Names of parameters are those of Hugging Face's
`MllamaCrossAttentionDecoderLayer`. Text that sees nothing is left alone, its feed-forward included.

Shape legend: B rows, T text positions, S tokens of media, D text width, H heads, K kv heads, E head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.model.config import ModelConfig
from puna.model.llama import Linear, RMSNorm, SwiGLU

KeysValues = tuple[Tensor, Tensor]  # [B,K,S,E] each


class CrossLayer(nn.Module):
    """One cross-attention layer with the heads and the feed-forward width of the text model."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.cross_attn = CrossAttention(config)
        self.mlp = SwiGLU(config)
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.cross_attn_attn_gate = nn.Parameter(torch.zeros(1))
        self.cross_attn_mlp_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x_BTD: Tensor, memory: KeysValues | Tensor, visible: Visible) -> Tensor:
        """States after the layer; `memory` are keys and values of media, or features [B,S,D] to make them of."""
        memory = self.cross_attn.keys_values(memory) if isinstance(memory, Tensor) else memory
        attended = self.cross_attn(self.input_layernorm(x_BTD), memory, visible)
        x_BTD = x_BTD + self.cross_attn_attn_gate.tanh().to(x_BTD.dtype) * attended
        changed = self.mlp(self.post_attention_layernorm(x_BTD)) * visible.any_BT1.to(x_BTD.dtype)
        return x_BTD + self.cross_attn_mlp_gate.tanh().to(x_BTD.dtype) * changed


class CrossAttention(nn.Module):
    """Attention of text to media."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim = config.head_size
        self.q_proj = Linear(config.dim, config.heads * config.head_size)
        self.k_proj = Linear(config.dim, config.kv_heads * config.head_size)
        self.v_proj = Linear(config.dim, config.kv_heads * config.head_size)
        self.o_proj = Linear(config.heads * config.head_size, config.dim)
        self.q_norm, self.k_norm = RMSNorm(config.head_size, config.norm_eps), RMSNorm(config.head_size, config.norm_eps)

    def keys_values(self, memory_BSD: Tensor) -> KeysValues:
        """Keys and values of media whose features have the text model's width."""
        k_BKSE = self.k_norm(self.k_proj(memory_BSD).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        return k_BKSE, self.v_proj(memory_BSD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, x_BTD: Tensor, memory: KeysValues, visible: Visible) -> Tensor:
        q_BHTE = self.q_norm(self.q_proj(x_BTD).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        k_BKSE, v_BKSE = memory
        grouped = q_BHTE.shape[1] != k_BKSE.shape[1]
        y_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BKSE, v_BKSE, attn_mask=visible.mask_B1TS, enable_gqa=grouped)
        y_BTD = y_BHTE.transpose(1, 2).flatten(2)
        return self.o_proj(y_BTD if visible.leak else y_BTD * visible.any_BT1.to(y_BTD.dtype))


@dataclass
class Visible:
    """Which tokens of media each text position sees.

    Attributes:
        mask_B1TS: bool, True = sees; rows of nothing see what there is, since a softmax over nothing is not a number.
        any_BT1: bool, whether the position sees anything. leak: as in `AdapterConfig`.
    """

    mask_B1TS: Tensor
    any_BT1: Tensor
    leak: bool = False

    @classmethod
    def of(cls, sees_BTS: Tensor, *, leak: bool = False, there_BS: Tensor | None = None) -> Visible:
        """From what each position sees; `there_BS` is False for tokens that only fill a row up, None where there are none."""
        found_BT1 = sees_BTS.any(-1, keepdim=True)
        rest_BTS = ~found_BT1 if there_BS is None else ~found_BT1 & (there_BS | ~there_BS.any(-1, keepdim=True))[:, None]
        return cls((sees_BTS | rest_BTS)[:, None], found_BT1, leak)


@dataclass
class Reading:
    """Cross-attention layers at their places, over one set of media.

    Attributes:
        layers, places: the layers and, for each, the text layer before which it runs.
        memory: keys and values for the i-th of them, or features to make them of.
    """

    layers: Sequence[nn.Module]
    places: Sequence[int]
    memory: Callable[[int], KeysValues | Tensor]
    visible: Visible

    def before(self, place: int, x_BTD: Tensor) -> Tensor:
        """States after the layers that stand before text layer `place`."""
        if place not in self.places:
            return x_BTD
        at = self.places.index(place)
        return self.layers[at](x_BTD, self.memory(at), self.visible)
