"""Bytes that a model needs to be trained or to answer (sections 3.3.2 and 6.1).

A first estimate: one device, no recomputation, no fragmentation. What autograd keeps is counted from the network in
`puna.model.llama`, and a test holds the count to what torch really saves.
"""

from __future__ import annotations

from dataclasses import dataclass

from puna.model.config import ModelConfig


@dataclass(frozen=True)
class Precision:
    """Bytes per parameter of each part of the training state."""

    name: str
    weights: int
    gradients: int
    optimizer: int
    activations: int


FP32 = Precision("FP32 weights, FP32 gradients, two FP32 AdamW moments", 4, 4, 8, 4)
MIXED = Precision("BF16 weights, FP32 gradients, FP32 master weights and two FP32 AdamW moments", 2, 4, 12, 2)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes by part. `activations` are for `tokens` tokens at once, logits included."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def state(self) -> int:
        """What is there between steps, plus gradients."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """Peak during a step."""
        return self.state + self.activations


def training_memory(config: ModelConfig, tokens: int, precision: Precision = FP32) -> TrainingMemory:
    """Bytes to train with `tokens` tokens in one forward pass."""
    n = config.parameters()
    kept = activation_values_per_token(config) * tokens * precision.activations
    logits = 3 * 4 * config.vocab_size * tokens  # logits, their log-softmax and its gradient, FP32
    return TrainingMemory(n * precision.weights, n * precision.gradients, n * precision.optimizer, kept + logits)


def activation_values_per_token(config: ModelConfig) -> int:
    """Numbers that autograd keeps for one token between forward and backward, logits left out.

    Per layer: both norms keep input, normed input and output (6 D); attention keeps q, k, v and its output (2 H E + 2 K E);
    SwiGLU keeps gate, silu(gate), up and their product (4 F). The final norm keeps 3 D. On a CPU `puna.model.cpu`
    keeps 3 F there and, of rows that are short enough, the shares of attention too (its `KEPT`), which are not counted here.
    """
    heads, kv = config.heads * config.head_size, config.kv_heads * config.head_size
    return config.layers * (6 * config.dim + 2 * heads + 2 * kv + 4 * config.ffn_dim) + 3 * config.dim


def weight_bytes(config: ModelConfig, *, fp8: bool = False) -> int:
    """Bytes of weights for inference: BF16, or FP8 for the feed-forward matrices of all but the first and last layer (6.2)."""
    total = 2 * config.parameters()
    if not fp8:
        return total
    inner = max(0, config.layers - 2)
    rows = 2 * config.ffn_dim + config.dim
    return total - inner * (3 * config.dim * config.ffn_dim - 4 * rows)  # one byte less per weight, a float32 scale per row
