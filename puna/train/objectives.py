"""What a run minimises: objectives return sums and counts, never means.

A mean over a micro-batch is wrong as soon as micro-batches hold unequal numbers of learnt tokens, and so is a mean per rank. So
an objective says what it sums and, from the batch alone, how many things it sums over; the loop adds the counts of the whole
optimiser step over all ranks first and divides once. The objectives of section 4 (reward, DPO, distillation) live in
`puna.post` and follow the same protocol.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from puna.model.llama import Linear
from puna.train.output_loss import output_loss
from puna.train.packing import PADDING, Batch
from puna.train.vocabulary import target_losses

NEARLY_ALL = 0.75  # share of learnt positions from which the output is computed at all of them


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
        chunk: positions whose logits exist at a time; None leaves it to `output_loss`. Logits are the largest tensor of training
            (8,192 positions times 128,256 ids in fp32 are 4.2 GB).
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
        index, weights = batch.supervised(), batch.weights_BT
        if len(index) >= NEARLY_ALL * batch.targets_BT.numel() and is_whole(model.lm_head):  # cheaper than to pick them
            states = model.hidden(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask()).flatten(0, 1)
            share = None if weights is None else weights.reshape(-1)
            return {"ce": output_loss(states, model.lm_head.weight, batch.targets_BT.reshape(-1), share, self.chunk)}, {}
        states, targets = hidden_at_targets(model, batch)
        share = None if weights is None else weights.reshape(-1)[index]
        return {"ce": cross_entropy_sum(model.lm_head, states, targets, share, self.chunk)}, {}


def hidden_at_targets(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """States [N,D] after the final norm and targets [N] at the learnt positions only: the output matrix is not run elsewhere."""
    x_BTD = model.hidden(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask())
    index = batch.supervised()
    return x_BTD.flatten(0, 1).index_select(0, index), batch.targets_BT.reshape(-1)[index]


def cross_entropy_sum(
    lm_head: nn.Module, states_ND: Tensor, targets_N: Tensor, weights_N: Tensor | None = None, chunk: int | None = None
) -> Tensor:
    """Sum over N of weight * -log softmax(lm_head(state))[target], a float32 scalar."""
    if is_whole(lm_head):
        return output_loss(states_ND, lm_head.weight, targets_N, weights_N, chunk)  # type: ignore[arg-type]
    size = chunk or max(1, len(targets_N))
    total = states_ND.new_zeros((), dtype=torch.float32)
    for start in range(0, max(1, len(targets_N)), size):  # a part without a target joins the others in their reductions
        part = slice(start, start + size)
        weights = None if weights_N is None else weights_N[part]
        total = total + checkpoint(_losses, lm_head, states_ND[part], targets_N[part], weights, use_reentrant=False)
    return total


def is_whole(lm_head: Any) -> bool:
    """Whether the output is one matrix that this process has whole, and not cut by vocabulary."""
    return type(lm_head) is Linear and not hasattr(lm_head.weight, "placements")


def _losses(lm_head: nn.Module, states_ND: Tensor, targets_N: Tensor, weights_N: Tensor | None) -> Tensor:
    losses_N = target_losses(lm_head(states_ND), targets_N)
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
