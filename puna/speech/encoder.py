"""The speech encoder (section 8.1.1): a Conformer over stacked log-mel frames.

Four frames of 10 ms are stacked and projected; each of the 24 layers is half a feed-forward, rotary self-attention, a convolution
module, half a feed-forward and a norm (Gulati et al. 2020, with rotary positions instead of relative ones). The published numbers
give 1.0006B parameters with plain feed-forwards. The norm inside the convolution module is a LayerNorm: a recording's states may
not depend on its neighbours in the batch.

With `chunk`, attention reaches to the end of a position's chunk and `left` chunks back, and the convolution looks back alone: a
stream then gives the states of the whole recording.

Shape legend: B recordings, T frames of 10 ms, S stacked frames of 40 ms, N real ones of a batch, M mel channels, D width,
H heads, E head dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.model.llama import Affine, Linear, Rope, rotate

ROPE_THETA = 10_000.0


@dataclass(frozen=True)
class SpeechConfig:
    """Shape of the encoder; the defaults are the paper's.

    Attributes:
        channels, stack: mel channels, and frames that become one position.
        dim, layers, heads, ffn_dim, kernel: of the Conformer.
        chunk, left: positions of a chunk and chunks before it that a position sees; None sees everything.
    """

    channels: int = 80
    stack: int = 4
    dim: int = 1536
    layers: int = 24
    heads: int = 24
    ffn_dim: int = 4096
    kernel: int = 7
    chunk: int | None = None
    left: int = 4
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.dim % self.heads or self.dim // self.heads % 2:
            raise InputError("`dim` must be `heads` times an even head size", where=f"dim={self.dim} heads={self.heads}")
        if self.kernel % 2 == 0:
            raise InputError("the convolution has a middle", where=f"kernel={self.kernel}", fix="an odd number")

    def positions(self, frames: int) -> int:
        """Stacked frames of so many frames."""
        return -(-frames // self.stack)


class SpeechEncoder(nn.Module):
    """States of recordings. Weights are unset until `init_weights` or a checkpoint sets them."""

    def __init__(self, config: SpeechConfig):
        super().__init__()
        self.config = config
        self.input = Affine(config.channels * config.stack, config.dim)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.layers))
        self.rope = Rope(config.dim // config.heads, ROPE_THETA, None)

    def forward(self, frames_BTM: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """(states [B,S,D], positions of each recording [B]).

        Args:
            frames_BTM: normalised log-mel frames, anything beyond a recording's end. frames_B: int64, frames of each.
        """
        return self.encode(stacked(frames_BTM, frames_B, self.config.stack), -(-frames_B // self.config.stack))

    def encode(self, stacked_BSF: Tensor, positions_B: Tensor) -> tuple[Tensor, Tensor]:
        """The same from stacked frames."""
        real_BS = torch.arange(stacked_BSF.shape[1], device=stacked_BSF.device) < positions_B[:, None]
        rows = RealRows(real_BS)
        rotation = self.rope(real_BS.shape[1], None, real_BS.device)
        mask = reach(real_BS, self.config.chunk, self.config.left)
        x_ND = self.input(rows.packed(stacked_BSF))
        for layer in self.layers:
            x_ND = layer(x_ND, rotation, mask, rows)
        return rows.padded(x_ND), positions_B

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw matrices with std 1 / sqrt(fan in); what writes into the residual stream divided by sqrt(2 layers)."""
        depth = math.sqrt(2 * self.config.layers)
        for name, weight in self.named_parameters():
            if weight.dim() == 1:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            std = weight[0].numel() ** -0.5
            writes = name.endswith(("o_proj.weight", "down.weight", "out.weight"))
            weight.normal_(0.0, std / depth if writes else std, generator=generator)


class RealRows:
    """A padded batch and its real positions alone: matrices are multiplied with these, as padding can be half of a batch.

    Shape: N real positions of all recordings, one recording after the other.
    """

    def __init__(self, real_BS: Tensor):
        self.shape = real_BS.shape
        self.at_N = None if bool(real_BS.all()) else real_BS.flatten().nonzero().flatten()

    def packed(self, x_BSD: Tensor) -> Tensor:
        """[N, D] of [B, S, D]."""
        x_PD = x_BSD.flatten(0, 1)
        return x_PD if self.at_N is None else x_PD.index_select(0, self.at_N)

    def padded(self, x_ND: Tensor) -> Tensor:
        """[B, S, D] of [N, D], zeros where padding is."""
        if self.at_N is not None:
            x_ND = x_ND.new_zeros(self.shape.numel(), x_ND.shape[1]).index_copy(0, self.at_N, x_ND)
        return x_ND.unflatten(0, tuple(self.shape))


def reach(real_BS: Tensor, chunk: int | None, left: int) -> Tensor:
    """bool [B,1,S,S], True = may attend: everything real, or with chunks to the end of the own one and `left` chunks back.

    Padding sees itself, so that no row of scores is empty.
    """
    at_S = torch.arange(real_BS.shape[1], device=real_BS.device)
    sees = real_BS[:, None, None, :].expand(-1, 1, len(at_S), -1)
    if chunk is not None:
        chunk_S = at_S // chunk
        behind = chunk_S[:, None] - chunk_S[None]
        sees = sees & (behind >= 0) & (behind <= left)
    return sees | (at_S[:, None] == at_S[None])


def stacked(frames_BTM: Tensor, frames_B: Tensor, stack: int) -> Tensor:
    """[B,S,stack*M]: runs of `stack` frames side by side; zeros from a recording's end on."""
    real_BT1 = torch.arange(frames_BTM.shape[1], device=frames_BTM.device)[:, None] < frames_B[:, None, None]
    frames_BTM = F.pad(frames_BTM.masked_fill(~real_BT1, 0.0), (0, 0, 0, -frames_BTM.shape[1] % stack))
    return frames_BTM.unflatten(1, (-1, stack)).flatten(2)


class ConformerLayer(nn.Module):
    """x + FFN/2, x + attention, x + convolution, x + FFN/2, norm; all pre-norm."""

    def __init__(self, config: SpeechConfig):
        super().__init__()
        self.ffn_before, self.ffn_after = FeedForward(config), FeedForward(config)
        self.norm_attn, self.norm = nn.LayerNorm(config.dim, config.norm_eps), nn.LayerNorm(config.dim, config.norm_eps)
        self.self_attn = SpeechAttention(config.dim, config.heads)
        self.conv = Convolution(config)

    def forward(self, x_ND: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, rows: RealRows) -> Tensor:
        x_ND = x_ND + 0.5 * self.ffn_before(x_ND)
        x_ND = x_ND + self.self_attn(self.norm_attn(x_ND), rotation, mask, rows)
        x_ND = x_ND + self.conv(x_ND, rows)
        return self.norm(x_ND + 0.5 * self.ffn_after(x_ND))


class FeedForward(nn.Module):
    """down(silu(up(norm(x))))."""

    def __init__(self, config: SpeechConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.up, self.down = Affine(config.dim, config.ffn_dim), Affine(config.ffn_dim, config.dim)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.down(F.silu(self.up(self.norm(x_ND))))


class SpeechAttention(nn.Module):
    """Rotary self-attention without biases, in both directions as far as the mask allows."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (Linear(dim, dim) for _ in range(4))

    def forward(self, x_ND: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, rows: RealRows) -> Tensor:
        projected = (rows.padded(part(x_ND)) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (x_BSD.unflatten(-1, (self.heads, -1)) for x_BSD in projected)
        q, k, v = rotate(q, rotation).transpose(1, 2), rotate(k, rotation).transpose(1, 2), v.transpose(1, 2)
        y_BHSE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(rows.packed(y_BHSE.transpose(1, 2).flatten(2)))


class Convolution(nn.Module):
    """out(silu(norm(depthwise(glu(expand(norm(x)))))))."""

    def __init__(self, config: SpeechConfig):
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(config.dim, config.norm_eps), nn.LayerNorm(config.dim, config.norm_eps)
        self.expand, self.out = Affine(config.dim, 2 * config.dim), Affine(config.dim, config.dim)
        self.depthwise = nn.Parameter(torch.empty(config.dim, 1, config.kernel))
        before = config.kernel - 1 if config.chunk is not None else config.kernel // 2
        self.sides = (before, config.kernel - 1 - before)

    def forward(self, x_ND: Tensor, rows: RealRows) -> Tensor:
        y_BSD = rows.padded(F.glu(self.expand(self.norm_in(x_ND)), -1))  # padding counts as silence
        y_BDS = F.conv1d(F.pad(y_BSD.transpose(1, 2), self.sides), self.depthwise, groups=len(self.depthwise))
        return self.out(F.silu(self.norm_out(rows.packed(y_BDS.transpose(1, 2)))))
