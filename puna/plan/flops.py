"""Floating-point operations, by the convention written beside every number (sections 3.2.1 and 3.3.2).

A weight that multiplies costs 2 operations per token forward and 4 backward; looking up an embedding costs none; attention
scores and their use cost 4 * layers * width * context forward, counted in full and not halved for the causal mask. The paper's
own budget of 3.8e25 for 405B is the shorter 6 * parameters * tokens.
"""

from __future__ import annotations

from puna.model.config import ModelConfig


def multiplied_parameters(config: ModelConfig) -> int:
    """Parameters every token is multiplied with: all but the embedding table (the output matrix counts, tied or not)."""
    return config.parameters() - (0 if config.tied else config.vocab_size * config.dim)


def forward_flops_per_token(config: ModelConfig, context: float) -> float:
    """Operations to process one token that attends to `context` positions."""
    return 2 * multiplied_parameters(config) + 4 * config.layers * config.heads * config.head_size * context


def training_flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Operations per trained token, forward and backward: 6 N' + 12 L d S (the convention of torchtitan and nanoGPT)."""
    return 3 * forward_flops_per_token(config, seq_len)


def training_flops(config: ModelConfig, tokens: float) -> float:
    """The paper's budget: 6 * parameters * tokens, attention left out (section 3.2.1)."""
    return 6 * config.parameters() * tokens


def newton_schulz_flops(config: ModelConfig, iterations: int = 5) -> float:
    """Operations of one Muon step over the matrices of all layers.

    Per iteration and matrix m x n with m <= n: X X^T (2 m^2 n), its square (2 m^3), and their product with X (2 m^2 n).
    """
    attention = config.heads * config.head_size
    kv = config.kv_heads * config.head_size
    matrices = [(attention, config.dim)] * 2 + [(kv, config.dim)] * 2 + [(config.ffn_dim, config.dim)] * 3
    per_layer = 0
    for rows, columns in matrices:
        m, n = sorted((rows, columns))
        per_layer += 4 * m * m * n + 2 * m**3
    return config.layers * iterations * per_layer
