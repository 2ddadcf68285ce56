"""The Llama 3 network (section 3.2): pre-norm, grouped-query attention with RoPE, SwiGLU, document masks; no biases, no dropout.

Parameters carry the names and the layout of Hugging Face's `LlamaForCausalLM` (RoPE on half-split pairs), so a checkpoint of
either side is a checkpoint of the other. The network knows nothing of parallelism, training or paging: a cache is anything with
an `update`, a mask is a boolean tensor.

Shape legend: B batch, T query time, S key time, D model, H heads, K kv heads, E head dim, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.core.rng import derive_seed
from puna.model import cpu
from puna.model.attention import Mask, additive, attend
from puna.model.config import ModelConfig, RopeScaling


class KVCache(Protocol):
    """Where attention keeps keys and values between calls."""

    def update(self, layer: int, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of `layer`; return all that the T queries may see, as [B,K,S,E]."""
        ...


class Attached(Protocol):
    """What adapters add to a pass without changing a weight of the network (sections 7 and 8)."""

    def embed(self, ids_BT: Tensor, embedding: nn.Embedding) -> Tensor:
        """Inputs [B,T,D] of the first layer."""
        ...

    def before(self, layer: int, x_BTD: Tensor) -> Tensor:
        """States that go into `layer`, 0-based."""
        ...


class Llama(nn.Module):
    """A decoder-only Transformer with the shape of `config`.

    Args:
        config: the shape.
        seed: where the initial weights come from; None leaves them unset, for loading (the meta device never sets them).
    """

    def __init__(self, config: ModelConfig, *, seed: int | None = 0):
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = Linear(config.dim, config.vocab_size)
        if config.tied:
            self.tie()
        if seed is not None and not self.lm_head.weight.is_meta:
            self.init_weights(seed)

    def forward(
        self, ids_BT: Tensor, *, positions_BT: Tensor | None = None, mask: Mask | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Logits [B,T,V] in float32; arguments as in `hidden`."""
        return self.lm_head(self.hidden(ids_BT, positions_BT=positions_BT, mask=mask, cache=cache)).float()

    def hidden(
        self, ids_BT: Tensor, *, positions_BT: Tensor | None = None, mask: Mask | None = None, cache: KVCache | None = None,
        attached: Attached | None = None,
    ) -> Tensor:  # fmt: skip
        """States [B,T,D] after the final norm; `self.lm_head` turns them into logits.

        Args:
            ids_BT: token ids, int64.
            positions_BT: RoPE positions, any order, ragged allowed; None means 0..T-1 in every row.
            mask: bool, broadcastable to [B,1,T,S], True = may attend, or a block mask (`model.attention`); None is causal (the
                T queries are the last T of S keys).
            cache: keeps keys and values; give `positions_BT` with it.
            attached: what adapters add; None is the text network alone.
        """
        return self.model(ids_BT, positions_BT, mask, cache, attached)

    def tie(self) -> None:
        """Make the output matrix the embedding matrix."""
        self.lm_head.weight = self.model.embed_tokens.weight

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw every weight from its own named stream, so that a layer's start does not depend on the layers before it.

        The paper gives no initialisation. Embedding: std 1, as torchtitan's Llama 3 has it (std 1 / sqrt(dim) when it is also the
        output matrix): at 0.02 the first layers drown which token stands where, and recall was not learned in three times the
        steps (docs/log.md). Output: std 0.02. Matrices: std 0.5 / sqrt(dim), and the two that write into the residual stream
        divided by sqrt(2 layers) (GPT-2's rule). Norms: 1.
        """
        for name, weight in self.named_parameters():
            init_weight(weight, name, self.config, seed)


@torch.no_grad()
def init_weight(weight: Tensor, name: str, config: ModelConfig, seed: int) -> None:
    """Draw one weight of a model in place; see `Llama.init_weights`."""
    if weight.dim() == 1:
        weight.fill_(1.0)
        return
    if name == "model.embed_tokens.weight":
        std = config.dim**-0.5 if config.tied else 1.0
    elif name == "lm_head.weight":
        std = 0.02
    else:
        std = 0.5 * config.dim**-0.5
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        std /= math.sqrt(2 * config.layers)
    generator = torch.Generator(weight.device).manual_seed(derive_seed(seed, "init", name))
    weight.normal_(0.0, std, generator=generator)


class Linear(nn.Linear):
    """`nn.Linear` without bias and without drawing from the global random state."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Weights are set by `Llama.init_weights` or by loading."""

    def forward(self, x: Tensor) -> Tensor:
        return cpu.linear(x, self.weight) if cpu.trains(x, self.weight) else F.linear(x, self.weight)


class Affine(nn.Linear):
    """`nn.Linear` with its bias, without drawing from the global random state: encoders have such layers, the text model none."""

    def reset_parameters(self) -> None:
        """Weights are set by `init_weights` or by loading."""


def trained_on_cpu(x: Tensor, *parts: nn.Module) -> bool:
    """Whether these products are plain ones that `puna.model.cpu` may take together."""
    return all(type(part) is Linear for part in parts) and cpu.trains(x, *(part.weight for part in parts))  # type: ignore[arg-type]


class Embedding(nn.Embedding):
    """`nn.Embedding` without drawing from the global random state."""

    def reset_parameters(self) -> None:
        """Weights are set by `Llama.init_weights` or by loading."""


class Trunk(nn.Module):
    """Everything below the output matrix (`model.` in checkpoints)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.rope = Rope(config.head_size, config.rope_theta, config.rope_scaling)

    def forward(
        self, ids_BT: Tensor, positions_BT: Tensor | None, mask: Mask | None, cache: KVCache | None,
        attached: Attached | None = None,
    ) -> Tensor:  # fmt: skip
        x_BTD = self.embed_tokens(ids_BT) if attached is None else attached.embed(ids_BT, self.embed_tokens)
        rotation = self.rope(ids_BT.shape[1], positions_BT, x_BTD.device)
        bias = None if mask is None else additive(mask, x_BTD.dtype)
        for i, layer in enumerate(self.layers):
            x_BTD = x_BTD if attached is None else attached.before(i, x_BTD)
            x_BTD = layer(x_BTD, rotation, bias, cache)
        return self.norm(x_BTD)


class Block(nn.Module):
    """h = x + Attention(norm(x)); out = h + FFN(norm(h))."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = SwiGLU(config)
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], bias: Mask | None, cache: KVCache | None) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotation, bias, cache)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Attention(nn.Module):
    """Grouped-query attention: H query heads share K key/value heads (8 at every size of the paper)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.heads, self.kv_heads, self.head_dim = layer, config.heads, config.kv_heads, config.head_size
        self.q_proj = Linear(config.dim, config.heads * config.head_size)
        self.k_proj = Linear(config.dim, config.kv_heads * config.head_size)
        self.v_proj = Linear(config.dim, config.kv_heads * config.head_size)
        self.o_proj = Linear(config.heads * config.head_size, config.dim)

    def forward(self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], bias: Mask | None, cache: KVCache | None) -> Tensor:
        B, T, _ = x_BTD.shape
        parts = (self.q_proj, self.k_proj, self.v_proj)
        if cache is None and cpu.attends(x_BTD, bias, self.heads) and trained_on_cpu(x_BTD, *parts):
            weights = [part.weight for part in parts]
            return self.o_proj(cpu.self_attention(x_BTD, weights, rotation, bias))  # type: ignore[arg-type]
        q_BHTE = rotate(self.q_proj(x_BTD).view(B, T, -1, self.head_dim), rotation).transpose(1, 2)
        k_BKSE = rotate(self.k_proj(x_BTD).view(B, T, -1, self.head_dim), rotation).transpose(1, 2)
        v_BKSE = self.v_proj(x_BTD).view(B, T, -1, self.head_dim).transpose(1, 2)
        if cache is not None:
            k_BKSE, v_BKSE = cache.update(self.layer, k_BKSE, v_BKSE)
        y_BHTE = attend(q_BHTE, k_BKSE, v_BKSE, bias)
        return self.o_proj(y_BHTE.transpose(1, 2).reshape(B, T, -1))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(config.dim, config.ffn_dim)
        self.up_proj = Linear(config.dim, config.ffn_dim)
        self.down_proj = Linear(config.ffn_dim, config.dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        parts = (self.gate_proj, self.up_proj, self.down_proj)
        if trained_on_cpu(x_BTD, *parts):
            return cpu.swiglu(x_BTD, *(part.weight for part in parts))
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) in float32, cast back, times the weight."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if cpu.trains(x, self.weight):
            return cpu.rms_norm(x, self.weight, self.eps)
        if x.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype) * self.weight


class Rope(nn.Module):
    """Rotary position embedding: tables of cos and sin for any position, grown on demand and never stored in a checkpoint."""

    def __init__(self, head_dim: int, theta: float, scaling: RopeScaling | None):
        super().__init__()
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling
        self.table: tuple[Tensor, Tensor] | None = None

    def forward(self, length: int, positions_BT: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and signed sin, [1 or B, T, 1, E] float32, for positions 0..length-1 or the given ones."""
        needed = length if positions_BT is None or positions_BT.is_meta else int(positions_BT.max()) + 1
        if self.table is None or self.table[0].device != device or self.table[0].shape[0] < needed:
            self.table = self._grow(max(256, 1 << (needed - 1).bit_length()), device)
        cos, sin = self.table
        if positions_BT is None:
            return cos[None, :length, None], sin[None, :length, None]
        return cos[positions_BT].unsqueeze(2), sin[positions_BT].unsqueeze(2)

    @torch.inference_mode(False)  # a table first needed while generating must also serve training later
    def _grow(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        frequencies = rope_frequencies(self.head_dim, self.theta, self.scaling).to(device)
        angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Angular frequencies [E/2], float32: theta^(-2i/E), the slow ones stretched by Llama 3.1's rule if `scaling` is given."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)
    if scaling is None:
        return frequencies
    original, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    stretched = torch.where(wavelengths > original / low, frequencies / scaling.factor, blended)
    return torch.where(wavelengths < original / high, frequencies, stretched)


def rotate(x_BTHE: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (i, i + E/2) of every head by its position's angles, in float32, back in the dtype of x.

    With the sign of the first half folded into `sin`, swapping the halves is a roll: two passes instead of five.
    """
    cos, sin = rotation
    return torch.addcmul(x_BTHE * cos, x_BTHE.roll(x_BTHE.shape[-1] // 2, -1), sin).to(x_BTHE.dtype)
