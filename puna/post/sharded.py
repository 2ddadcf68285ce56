"""A frozen text model inside adapters with its weights cut over data parallel processes (FSDP), as the training loop drives it.

Processes that share weights must run the same layers the same number of times, or they wait for each other for ever: the best
known trap of training on media. So every batch that lacks a kind of media gets a trifle of it that no text takes in. It adds
nothing and its gradients are zero, but every layer runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method

from puna.model.adapted import Adapted
from puna.model.llama import Llama
from puna.train.objectives import Objective
from puna.train.packing import Batch
from puna.train.parallel.data import shard_weights, synchronise
from puna.train.parallel.layout import Precision, resolved
from puna.train.parallel.meshes import Meshes
from puna.train.place import add_up
from puna.train.shares import whole

READ = ("attach", "hidden")  # methods through which objectives read a model

Model = TypeVar("Model", bound=Adapted)


class ShardedAdapted(Generic[Model]):
    """One process's share of a text model with adapters; a `Place` of the loop (`puna.train.place`).

    Args:
        model: whole, with what learns marked; it is cut up in place.
        units: parts besides the text's layers that are gathered by themselves.
        precision: of the products; weights, gradients and the optimiser's state are float32.
    """

    def __init__(self, model: Model, units: Sequence[nn.Module], meshes: Meshes, precision: Precision = "fp32"):
        self.model, self.meshes = model, meshes
        self.precision = resolved(precision, meshes.device.type)
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self._shapes = {name: weight.shape for name, weight in model.named_parameters()}
        mesh = meshes.params["shard"] if meshes.layout.replicate == 1 else meshes.params["replicate", "shard"]
        shard_weights(model.to(meshes.device), [*units, *model.text.model.layers], mesh, "fp32", reshard=True)
        for method in READ:
            register_fsdp_forward_method(model, method)

    def named(self) -> dict[str, nn.Parameter]:
        """This process's shares of the parameters that learn, by name."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the whole model's weights, by name."""
        return self._shapes

    def train(self, training: bool = True) -> None:
        """Set the mode."""
        self.model.train(training)

    def local(self, batch: Batch) -> Batch:
        """The batch, with a trifle of every kind of media that it lacks."""
        raise NotImplementedError

    def empty(self, text: Llama) -> Model:
        """A model of this shape around a text model, its weights unset."""
        raise NotImplementedError

    def backward(
        self, objective: Objective, batches: list[Batch], scales: Mapping[str, float]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As of `puna.train.place.Place`."""
        device, totals = self.meshes.device, dict[str, Tensor]()
        for number, batch in enumerate(batches):
            synchronise(self.model, number == len(batches) - 1)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                terms, others = objective.sums(self.model, batch)
            loss = sum((terms[term] * scale for term, scale in scales.items()), start=torch.zeros((), device=device))
            loss.backward()  # type: ignore[union-attr]
            add_up(totals, {**terms, **others, "": loss})
        return totals, totals.pop("")

    def gradient_norm(self) -> Tensor:
        """Norm of the gradient of the whole model."""
        gradients = [weight.grad for weight in self.named().values() if weight.grad is not None]
        return whole(torch.nn.utils.get_total_norm(gradients, foreach=True))

    def copy(self) -> Model:
        """The whole model, float32, on the CPU of every process."""
        state = {name: whole(weight.detach()).cpu() for name, weight in self.model.state_dict().items()}
        with torch.device("meta"):
            found = self.empty(Llama(self.model.config, seed=None))
        found.load_state_dict(state, assign=True)
        if found.config.tied:
            found.text.tie()
        found.swap(found.text)
        return found
