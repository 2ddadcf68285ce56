"""What a run minimises: objectives return sums and counts, never means.

A mean over a micro-batch is wrong as soon as micro-batches hold unequal numbers of learnt tokens, and so is a mean per rank. So
an objective says what it sums and, from the batch alone, how many things it sums over; the loop adds the counts of the whole
optimiser step over all ranks first and divides once. The objectives of section 4 (reward, DPO, distillation) live in
`puna.post` and follow the same protocol.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from puna.model import cpu
from puna.model.llama import Linear
from puna.train.packing import PADDING, Batch
from puna.train.vocabulary import target_losses


class Objective(Protocol):
    """Loss terms as sums and counts.

    loss of a step = sum over terms of weights[term] * sum[term] / count[term], counts being those of the whole step. Names in
    `counts` that are no term are divisors of reported sums (`accuracy` is reported as sum / counts["accuracy"]); a reported sum
    without a count stays a sum.
    """

    weights: dict[str, float]

    def counts(self, batch: Batch) -> dict[str, float]:
        """How much each term (and each reported sum) counts in `batch`; always the same keys, no model involved."""
        ...

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(sum per loss term with gradient, other sums to report: floats or detached tensors)."""
        ...


class CrossEntropy:
    """Next-token cross-entropy over the learnt positions, weighted if the batch brings weights.

    Args:
        chunk: learnt positions whose logits exist at a time; None takes all at once. Logits are the largest tensor of training
            (8,192 positions times 128,256 ids in fp32 are 4.2 GB), and a chunk recomputes its own in the backward pass.
    """

    weights = {"ce": 1.0}

    def __init__(self, chunk: int | None = None):
        self.chunk = chunk

    def counts(self, batch: Batch) -> dict[str, float]:
        """The learnt positions, or the sum of their weights."""
        index = batch.supervised()
        return {"ce": float(len(index)) if batch.weights_BT is None else float(batch.weights_BT.reshape(-1)[index].sum())}

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The (weighted) sum of -log p(target)."""
        states, targets = hidden_at_targets(model, batch)
        weights = None if batch.weights_BT is None else batch.weights_BT.reshape(-1)[batch.supervised()]
        return {"ce": cross_entropy_sum(model.lm_head, states, targets, weights, self.chunk)}, {}


def hidden_at_targets(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """States [N,D] after the final norm and targets [N] at the learnt positions only: the output matrix is not run elsewhere."""
    x_BTD = model.hidden(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask())
    index = batch.supervised()
    return x_BTD.flatten(0, 1).index_select(0, index), batch.targets_BT.reshape(-1)[index]


def cross_entropy_sum(
    lm_head: nn.Module, states_ND: Tensor, targets_N: Tensor, weights_N: Tensor | None = None, chunk: int | None = None
) -> Tensor:
    """Sum over N of weight * -log softmax(lm_head(state))[target], a float32 scalar."""
    if type(lm_head) is Linear and cpu.trains(states_ND, lm_head.weight):
        return cpu.cross_entropy_sum(states_ND, lm_head.weight, targets_N, weights_N, chunk)
    if chunk is None or len(targets_N) <= chunk:
        return _cross_entropy(lm_head, states_ND, targets_N, weights_N)
    total = states_ND.new_zeros((), dtype=torch.float32)
    for start in range(0, len(targets_N), chunk):
        part = slice(start, start + chunk)
        weights = None if weights_N is None else weights_N[part]
        total = total + checkpoint(_cross_entropy, lm_head, states_ND[part], targets_N[part], weights, use_reentrant=False)
    return total


def _cross_entropy(lm_head: nn.Module, states_ND: Tensor, targets_N: Tensor, weights_N: Tensor | None) -> Tensor:
    logits = lm_head(states_ND)
    if weights_N is None and type(logits) is Tensor:
        return F.cross_entropy(logits.float(), targets_N, reduction="sum")
    losses_N = target_losses(logits, targets_N)
    return losses_N.sum() if weights_N is None else (losses_N * weights_N).sum()


def token_logps(model: Any, batch: Batch) -> Tensor:
    """log p(target) [B,T] in float32, 0 where nothing is learnt; differentiable."""
    states, targets = hidden_at_targets(model, batch)
    found = -target_losses(model.lm_head(states), targets)
    return found.new_zeros(batch.targets_BT.numel()).index_copy(0, batch.supervised(), found).view_as(batch.targets_BT)


def document_sums(values_BT: Tensor, documents_BT: Tensor, documents: int) -> Tensor:
    """Sum of `values_BT` over each document, [documents]; padding is left out. Document ids as `pack` numbers them."""
    inside = (documents_BT != PADDING).reshape(-1).nonzero()[:, 0]
    return values_BT.new_zeros(documents).index_add(0, documents_BT.reshape(-1)[inside], values_BT.reshape(-1)[inside])
