"""A Llama as tutorials write it, with Hugging Face's names: what `train_cpu.py` compares with. Not a bench of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sizes = dict[str, int]


class Norm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        dim, heads, kv_heads = sizes["dim"], sizes["heads"], sizes["kv_heads"]
        self.head_dim, self.group = dim // heads, heads // kv_heads
        self.q_proj = nn.Linear(dim, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (projection(x).view(rows, length, -1, self.head_dim).transpose(1, 2) for projection in projections)
        half = self.head_dim // 2
        q, k = (t * cos + torch.cat((-t[..., half:], t[..., :half]), -1) * sin for t in (q, k))
        k, v = (t.repeat_interleave(self.group, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.gate_proj = nn.Linear(sizes["dim"], sizes["ffn_dim"], bias=False)
        self.up_proj = nn.Linear(sizes["dim"], sizes["ffn_dim"], bias=False)
        self.down_proj = nn.Linear(sizes["ffn_dim"], sizes["dim"], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.self_attn, self.mlp = Attention(sizes), Mlp(sizes)
        self.input_layernorm, self.post_attention_layernorm = Norm(sizes["dim"]), Norm(sizes["dim"])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes["vocab_size"], sizes["dim"])
        self.layers = nn.ModuleList(Block(sizes) for _ in range(sizes["layers"]))
        self.norm = Norm(sizes["dim"])


class PlainLlama(nn.Module):
    def __init__(self, sizes: Sizes, length: int):
        super().__init__()
        self.model, self.lm_head = Trunk(sizes), nn.Linear(sizes["dim"], sizes["vocab_size"], bias=False)
        head_dim = sizes["dim"] // sizes["heads"]
        angles = torch.arange(length)[:, None] / 10_000.0 ** (torch.arange(0, head_dim, 2) / head_dim)
        self.cos, self.sin = (torch.cat((part, part), -1) for part in (angles.cos(), angles.sin()))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, self.cos, self.sin)
        return self.lm_head(self.model.norm(x))
