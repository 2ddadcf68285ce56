"""A model that sees with its weights cut over data parallel processes (FSDP), as the training loop drives it.

Processes that share weights must run the same layers the same number of times, or they wait for each other for ever: the best
known trap of training on pictures. So every batch that lacks a kind of media gets one black tile of it that no text sees. It
adds nothing and its gradients are zero, but every layer runs. The encoder is one unit, since how often its layers run depends
on the sizes of a batch's pictures; for the same reason the temporal aggregator belongs to the root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method

from puna.core.errors import InputError
from puna.model.llama import Llama
from puna.train.objectives import Objective
from puna.train.packing import Batch
from puna.train.parallel.data import shard_weights, synchronise
from puna.train.parallel.layout import Precision, resolved
from puna.train.parallel.meshes import Meshes
from puna.train.place import add_up
from puna.train.shares import whole
from puna.vision.model import VisionLlama
from puna.vision.sight import Media

READ = ("attach", "hidden")  # methods through which objectives read a model


class ShardedSight:
    """One process's share of a model that sees; a `Place` of the loop (`puna.train.place`).

    Args:
        model: whole, with what learns marked; it is cut up in place.
        precision: of the products; weights, gradients and the optimiser's state are float32.

    InputError for a model whose text attends to pictures that it does not see (`leak`): where there are none they are computed.
    """

    def __init__(self, model: VisionLlama, meshes: Meshes, precision: Precision = "fp32"):
        if model.adapter.config.leak:
            raise InputError("weights of a model with `leak` cannot be sharded", where="shard", fix="leave `shard` out")
        self.model, self.meshes = model, meshes
        self.precision = resolved(precision, meshes.device.type)
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self._shapes = {name: weight.shape for name, weight in model.named_parameters()}
        units: list[nn.Module] = [model.encoder, *model.adapter.layers, *model.text.model.layers]
        units += [] if model.video is None else model.video.layers
        mesh = meshes.params["shard"] if meshes.layout.replicate == 1 else meshes.params["replicate", "shard"]
        shard_weights(model.to(meshes.device), units, mesh, "fp32", reshard=True)
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
        """The batch, with a black tile of every kind of media that it lacks."""
        return with_every_kind(batch, self.model)

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

    def copy(self) -> VisionLlama:
        """The whole model, float32, on the CPU of every process."""
        parts, state = self.model, {name: whole(weight.detach()).cpu() for name, weight in self.model.state_dict().items()}
        video = None if parts.video is None else parts.video.config
        with torch.device("meta"):
            text = Llama(parts.config, seed=None)
            found = VisionLlama(text, parts.encoder.config, parts.adapter.config, video, seed=None)
        found.load_state_dict(state, assign=True)
        if parts.config.tied:
            found.text.tie()
        found.swap(found.text)
        return found


def with_every_kind(batch: Batch, model: VisionLlama) -> Batch:
    """The batch, with one black tile that no text sees for images, and for videos of a model that sees them, if it has none."""
    media = Media.of(batch)
    kinds = [False] if model.video is None else [False, True]
    lacking = [video for video in kinds if media is None or not bool((media.video_M == video).any())]
    if not lacking:
        return batch
    size, ones, none = (
        model.encoder.config.tile,
        torch.ones(len(lacking), dtype=torch.int64),
        torch.zeros(len(lacking), dtype=torch.int64),
    )
    unseen = Media(torch.zeros(len(lacking), 3, size, size), ones, ones, ones, torch.tensor(lacking), none, none, none)
    found = unseen if media is None else Media(*(torch.cat(pair) for pair in zip(_values(media), _values(unseen), strict=True)))
    return replace(batch, extra={**batch.extra, **{f.name: getattr(found, f.name) for f in fields(Media)}})


def _values(media: Media) -> list[Tensor]:
    return [getattr(media, field.name) for field in fields(Media)]
