"""Where each weight of a Llama lies in Meta's consolidated files and in GGUF: names, and the order of query and key rows.

Hugging Face's layout, ours, turns the pairs (i, i + E/2) of every head by RoPE; Meta's and llama.cpp's turn (2i, 2i + 1). The
same network in the other layout has the rows of `q_proj` and `k_proj` in another order, head by head (the `permute` of the
converters of transformers and llama.cpp), and nothing else changes.
"""

from __future__ import annotations

from torch import Tensor

from puna.model.config import ModelConfig

META_OUTER = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}
META_LAYER = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
GGUF_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
GGUF_LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def meta_names(layers: int) -> dict[str, str]:
    """Our name of every tensor to the one in `consolidated.NN.pth`, in the order of the network."""
    return _names(layers, META_OUTER, META_LAYER, "layers")


def gguf_names(layers: int) -> dict[str, str]:
    """Our name of every tensor to the one in a GGUF file of the architecture `llama`, in the order of the network."""
    return _names(layers, GGUF_OUTER, GGUF_LAYER, "blk")


def _names(layers: int, outer: dict[str, str], layer: dict[str, str], prefix: str) -> dict[str, str]:
    names = {"model.embed_tokens": outer["model.embed_tokens"]}
    for number in range(layers):
        names |= {f"model.layers.{number}.{ours}": f"{prefix}.{number}.{theirs}" for ours, theirs in layer.items()}
    names |= {ours: theirs for ours, theirs in outer.items() if ours not in names}
    return {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in names.items()}


def turned_heads(name: str, config: ModelConfig) -> int | None:
    """How many heads the rows of a tensor, by our name, are split in if RoPE turns them; None for all other tensors."""
    if name.endswith("q_proj.weight"):
        return config.heads
    return config.kv_heads if name.endswith("k_proj.weight") else None


def interleave_rows(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix [heads * E, D] from half-split pairs (ours) to adjacent ones (Meta, llama.cpp); a copy."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def split_rows(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `interleave_rows`: from adjacent pairs to half-split ones; a copy."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
