"""What a run minimises: objectives return sums and counts, never means.

A mean over a micro-batch is wrong as soon as micro-batches hold unequal numbers of learnt tokens, and so is a mean per rank. So
an objective says what it sums and, from the batch alone, how many things it sums over; the loop adds the counts of the whole
optimiser step over all ranks first and divides once. The objectives of section 4 (reward, DPO, distillation) live in
`puna.post` and follow the same protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        streams: names of the streams that rows come from, to report the loss of each as `loss/<name>`; rows say theirs in
            `extra["stream_B"]` (`puna.train.stream`), and batches without it belong to none.
    """

    weights = {"ce": 1.0}

    def __init__(self, chunk: int | None = None, streams: Sequence[str] = ()):
        self.chunk = chunk
        self.streams = [f"loss/{name}" for name in streams]

    def counts(self, batch: Batch) -> dict[str, float]:
        """The learnt positions, or the sum of their weights; and those of each stream."""
        index, weights = batch.supervised(), _weights(batch)
        if not self.streams:
            return {"ce": float(len(index)) if weights is None else float(weights.sum())}
        ones = torch.ones(len(index)) if weights is None else weights
        return {"ce": float(ones.sum())} | {name: float(part) for name, part in self._by_stream(ones, batch).items()}

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The (weighted) sum of -log p(target); and, without a gradient, that of each stream."""
        index = batch.supervised()
        if len(index) >= NEARLY_ALL * batch.targets_BT.numel() and is_whole(model.lm_head):  # cheaper than to pick them
            states = states_of(model, batch).flatten(0, 1)
            weights = None if batch.weights_BT is None else batch.weights_BT.reshape(-1)
            total, losses = cross_entropies(model.lm_head, states, batch.targets_BT.reshape(-1), weights, self.chunk)
            losses = losses[index] if self.streams else losses
        else:
            states, targets = hidden_at_targets(model, batch)
            total, losses = cross_entropies(model.lm_head, states, targets, _weights(batch), self.chunk)
        return {"ce": total}, self._by_stream(losses, batch) if self.streams else {}

    def _by_stream(self, values_N: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sum over the learnt positions of each stream's rows."""
        stream_B = batch.extra.get("stream_B")
        if stream_B is None:
            return dict.fromkeys(self.streams, values_N.new_zeros(()))
        stream_N = stream_B[batch.supervised() // batch.ids_BT.shape[1]]
        columns = torch.arange(len(self.streams), device=values_N.device)
        return dict(zip(self.streams, ((stream_N[:, None] == columns) * values_N[:, None]).sum(0), strict=True))


def _weights(batch: Batch) -> Tensor | None:
    """Weights [N] of the learnt positions."""
    return None if batch.weights_BT is None else batch.weights_BT.reshape(-1)[batch.supervised()]


def beside(model: Any, batch: Batch) -> Batch:
    """The batch on the device of the model's weights."""
    return batch.to(next(model.parameters()).device)


def states_of(model: Any, batch: Batch) -> Tensor:
    """States [B,T,D] after the final norm, with what the batch brings for the model's adapters if it has any."""
    if not hasattr(model, "attach"):
        return model.hidden(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask())
    return model.hidden(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask(), attached=model.attach(batch))


def hidden_at_targets(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """States [N,D] after the final norm and targets [N] at the learnt positions only: the output matrix is not run elsewhere."""
    x_BTD = states_of(model, batch)
    index = batch.supervised()
    return x_BTD.flatten(0, 1).index_select(0, index), batch.targets_BT.reshape(-1)[index]


def cross_entropy_sum(
    lm_head: nn.Module, states_ND: Tensor, targets_N: Tensor, weights_N: Tensor | None = None, chunk: int | None = None
) -> Tensor:
    """Sum over N of weight * -log softmax(lm_head(state))[target], a float32 scalar."""
    return cross_entropies(lm_head, states_ND, targets_N, weights_N, chunk)[0]


def cross_entropies(
    lm_head: nn.Module, states_ND: Tensor, targets_N: Tensor, weights_N: Tensor | None, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """The sum of `cross_entropy_sum` and, without a gradient, what each position adds to it, float32 [N]."""
    if is_whole(lm_head):
        return output_loss(states_ND, lm_head.weight, targets_N, weights_N, chunk)  # type: ignore[arg-type]
    if chunk is None or len(targets_N) <= chunk:
        losses_N = _losses(lm_head, states_ND, targets_N)
    else:
        parts = zip(states_ND.split(chunk), targets_N.split(chunk), strict=True)
        losses_N = torch.cat([checkpoint(_losses, lm_head, states, targets, use_reentrant=False) for states, targets in parts])
    losses_N = losses_N if weights_N is None else losses_N * weights_N
    return losses_N.sum(), losses_N.detach()


def is_whole(lm_head: Any) -> bool:
    """Whether the output is one matrix that this process has whole, and not cut by vocabulary."""
    return type(lm_head) is Linear and not hasattr(lm_head.weight, "placements")


def _losses(lm_head: nn.Module, states_ND: Tensor, targets_N: Tensor) -> Tensor:
    return target_losses(lm_head(states_ND), targets_N)


def token_logps(model: Any, batch: Batch) -> Tensor:
    """log p(target) [B,T] in float32, 0 where nothing is learnt; differentiable."""
    states, targets = hidden_at_targets(model, batch)
    found = -target_losses(model.lm_head(states), targets)
    return found.new_zeros(batch.targets_BT.numel()).index_copy(0, batch.supervised(), found).view_as(batch.targets_BT)


def document_sums(values_BT: Tensor, documents_BT: Tensor, documents: int) -> Tensor:
    """Sum of `values_BT` over each document, [documents]; padding is left out. Document ids as `pack` numbers them."""
    inside = (documents_BT != PADDING).reshape(-1).nonzero()[:, 0]
    return values_BT.new_zeros(documents).index_add(0, documents_BT.reshape(-1)[inside], values_BT.reshape(-1)[inside])
