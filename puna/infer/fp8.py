"""FP8 as the paper runs its 405B model (section 6.2): which layers, and what it costs, measured and not assumed.

Quantised are the three matrices of every feed-forward block, about half of the compute of inference. Attention, embedding, output
matrix, and the whole first and last layer stay: there the paper saw outputs break. Benchmarks do not show the damage that FP8 can
do, so two models are compared token by token: Kullback-Leibler divergence of their predictions, agreement of their first choices,
perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.model.fp8_linear import ACTIVATION_BOUND, Fp8Linear, dequantize_rows, quantize_rows
from puna.model.llama import Llama

FFN = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
LINEARS = {"ffn": FFN, "all": (*ATTENTION, *FFN)}  # of a layer
ROWS_PER_BATCH = 16  # rows compared at once; bounds memory at rows x length x vocabulary floats


def quantize_model(model: Llama, *, activation_bound: float = ACTIVATION_BOUND, linears: str = "ffn") -> list[str]:
    """Replace linear layers by `Fp8Linear`, in place; the model may lie on `meta`.

    Args:
        linears: `ffn`, the paper's choice: the feed-forward matrices of all but the first and the last layer. `all`: every matrix
            of every layer, attention too; only embedding and output matrix stay.

    Returns the names of the replaced modules. Raises InputError for a model of two layers or fewer, where the paper's choice
    leaves nothing to quantise, and for one that is FP8 already.
    """
    layers = model.config.layers
    if linears not in LINEARS:
        raise InputError(f"no linear layers are called '{linears}'", where="--linears", fix=f"one of: {', '.join(LINEARS)}")
    if linears == "ffn" and layers < 3:
        raise InputError(
            f"a model of {layers} layers has nothing to quantise: the first and the last layer stay",
            fix="use three layers or more, or --linears all",
        )
    if any(isinstance(module, Fp8Linear) for module in model.modules()):
        raise InputError("this model is FP8 already", fix="start from its BF16 or FP32 weights")
    chosen = range(1, layers - 1) if linears == "ffn" else range(layers)
    names = [f"model.layers.{layer}.{matrix}" for layer in chosen for matrix in LINEARS[linears]]
    for name in names:
        parent, _, child = name.rpartition(".")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(model.get_submodule(parent), child, Fp8Linear.from_weight(linear.weight, activation_bound=activation_bound))
    return names


def round_weights(model: Llama, dtype: torch.dtype) -> None:
    """Round every weight to `dtype` and keep it as it was stored: a BF16 model that computes in float32."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(dtype))


@dataclass
class Comparison:
    """Running sums over the tokens two models were compared on. KL in nats, of `model` from `reference`."""

    tokens: int = 0
    kl_sum: float = 0.0
    kl_max: float = 0.0
    agreed: int = 0
    loss_sums: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, reference_NV: Tensor, model_NV: Tensor, targets_N: Tensor | None) -> None:
        """Take in the logits of N positions and the ids that followed them.

        Without these the losses are the means over what `reference` expects to follow: its entropy, and the cross-entropy of
        `model` with it, so that the perplexities are those of text which `reference` would write itself.
        """
        p, q = F.log_softmax(reference_NV.double(), -1), F.log_softmax(model_NV.double(), -1)
        kl = (p.exp() * (p - q)).sum(-1)
        self.tokens += len(kl)
        self.kl_sum += kl.sum().item()
        self.kl_max = max(self.kl_max, kl.max().item())
        self.agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
        for index, logs in enumerate((p, q)):
            taken_N = (p.exp() * logs).sum(-1) if targets_N is None else logs.gather(-1, targets_N[:, None])
            self.loss_sums[index] -= taken_N.sum().item()

    def summary(self) -> dict[str, Any]:
        """Means, and the perplexities of both."""
        reference, model = (math.exp(loss / self.tokens) for loss in self.loss_sums)
        return {
            "tokens": self.tokens,
            "kl_mean": self.kl_sum / self.tokens,
            "kl_max": self.kl_max,
            "first_choice_agreement": self.agreed / self.tokens,
            "perplexity_reference": reference,
            "perplexity": model,
            "perplexity_change": model / reference - 1,
        }


@torch.no_grad()
def compare(reference: Llama, model: Llama, texts: Iterable[list[int]]) -> Comparison:
    """Run both models over token lists (each from its own position 0) and compare every prediction.

    Raises InputError when no text has two tokens.
    """
    result = Comparison()
    for ids_BT, real_BT in batches(texts):
        keep = real_BT[:, 1:]
        logits = [m(ids_BT)[:, :-1][keep] for m in (reference, model)]
        result.add(logits[0], logits[1], ids_BT[:, 1:][keep])
    if result.tokens == 0:
        raise InputError("there is no text to compare the two models on", fix="give held-out tokens with two tokens or more")
    return result


def batches(texts: Iterable[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Token lists as right-padded ids and a mask of the real ones, [B,T] each; texts of one token are left out."""
    rows: list[list[int]] = []
    for text in texts:
        if len(text) > 1:
            rows.append(text)
        if len(rows) == ROWS_PER_BATCH:
            yield _padded(rows)
            rows = []
    if rows:
        yield _padded(rows)


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return ids, torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])


@torch.no_grad()
def layer_errors(reference: Llama, names: list[str], ids_BT: Tensor, *, activation_bound: float) -> dict[str, dict[str, float]]:
    """What FP8 does to each matrix, on the inputs it really gets while `reference` reads `ids_BT`.

    Per module: relative error of the weight and of the output (Frobenius norms), and the share of token rows whose largest value
    exceeds the bound and is cut.
    """
    inputs: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        return lambda module, arguments: inputs.__setitem__(name, arguments[0].flatten(0, -2))

    hooks = [reference.get_submodule(name).register_forward_pre_hook(record(name)) for name in names]
    reference.hidden(ids_BT)
    for hook in hooks:
        hook.remove()
    return {name: _errors(reference.get_submodule(name), inputs[name], activation_bound) for name in names}


def _errors(linear: nn.Module, x_NK: Tensor, bound: float) -> dict[str, float]:
    weight = linear.weight
    assert isinstance(weight, Tensor)
    exact = linear(x_NK)
    rounded = Fp8Linear.from_weight(weight, activation_bound=bound)(x_NK)
    return {
        "weight_error": float((dequantize_rows(*quantize_rows(weight)) - weight).norm() / weight.norm()),
        "output_error": float((rounded - exact).norm() / exact.norm()),
        "rows_over_bound": float((x_NK.abs().amax(-1) > bound).float().mean()),
    }
