"""The speech adapter (section 8.1.1): states of 40 ms become tokens of 80 ms in the text model's width.

A convolution of width 3 and stride 2, one rotary Transformer layer of width 3,072 with a feed-forward of 4,096, a projection:
102M parameters with the 8B model. With a chunked encoder the layer sees as far as the encoder does, in its own positions.

Shape legend: B recordings, S positions of 40 ms, U tokens of 80 ms, N real ones of a batch, D encoder's width, W adapter's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.model.llama import Affine, Linear, Rope
from puna.speech.encoder import ROPE_THETA, RealRows, SpeechAttention, SpeechConfig, reach

STRIDE, KERNEL = 2, 3


@dataclass(frozen=True)
class SpeechAdapterConfig:
    """Shape of the adapter."""

    dim: int = 3072
    heads: int = 24
    ffn_dim: int = 4096

    def tokens(self, positions: int) -> int:
        """Tokens of so many positions."""
        return -(-positions // STRIDE)


class SpeechAdapter(nn.Module):
    """Convolution, one Transformer layer, projection."""

    def __init__(self, config: SpeechAdapterConfig, speech: SpeechConfig, text_dim: int):
        super().__init__()
        self.config, self.chunk, self.left = config, speech.chunk, speech.left
        self.conv = nn.Parameter(torch.empty(config.dim, speech.dim, KERNEL))
        self.conv_bias = nn.Parameter(torch.empty(config.dim))
        self.norm_attn = nn.LayerNorm(config.dim, speech.norm_eps)
        self.norm_mlp = nn.LayerNorm(config.dim, speech.norm_eps)
        self.self_attn = SpeechAttention(config.dim, config.heads)
        self.gate, self.up = Linear(config.dim, config.ffn_dim), Linear(config.dim, config.ffn_dim)
        self.down = Linear(config.ffn_dim, config.dim)
        self.norm = nn.LayerNorm(config.dim, speech.norm_eps)
        self.projector = Affine(config.dim, text_dim)
        self.rope = Rope(config.dim // config.heads, ROPE_THETA, None)

    def forward(self, states_BSD: Tensor, positions_B: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens [B,U,text width], tokens of each recording [B]); states beyond a recording's end must be zero."""
        before = KERNEL - 1 if self.chunk is not None else KERNEL // 2  # a stream knows what was
        padded = F.pad(states_BSD.transpose(1, 2), (before, KERNEL - 1 - before + states_BSD.shape[1] % STRIDE))
        x_BUW = F.conv1d(padded, self.conv, self.conv_bias, stride=STRIDE).transpose(1, 2)
        tokens_B = -(-positions_B // STRIDE)
        x_BUW = x_BUW[:, : -(-states_BSD.shape[1] // STRIDE)]
        real_BU = torch.arange(x_BUW.shape[1], device=x_BUW.device) < tokens_B[:, None]
        mask = reach(real_BU, self.chunk and max(1, self.chunk // STRIDE), self.left)
        rows, rotation = RealRows(real_BU), self.rope(x_BUW.shape[1], None, x_BUW.device)
        x_NW = rows.packed(x_BUW)
        x_NW = x_NW + self.self_attn(self.norm_attn(x_NW), rotation, mask, rows)
        y_NW = self.norm_mlp(x_NW)
        x_NW = x_NW + self.down(F.silu(self.gate(y_NW)) * self.up(y_NW))
        return rows.padded(self.projector(self.norm(x_NW))), tokens_B

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw matrices with std 1 / sqrt(fan in); norms 1, biases 0."""
        for name, weight in self.named_parameters():
            if weight.dim() == 1:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                weight.normal_(0.0, weight[0].numel() ** -0.5, generator=generator)
