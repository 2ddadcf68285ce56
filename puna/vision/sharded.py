"""A model that sees with its weights cut over data parallel processes (`puna.post.sharded`).

The trifle that a batch without a kind of media gets is one black tile. The encoder is one unit, since how often its layers run
depends on the sizes of a batch's pictures; for the same reason the temporal aggregator belongs to the root.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.model.llama import Llama
from puna.post.sharded import ShardedAdapted
from puna.train.packing import Batch
from puna.train.parallel.layout import Precision
from puna.train.parallel.meshes import Meshes
from puna.vision.model import VisionLlama
from puna.vision.sight import Media


class ShardedSight(ShardedAdapted[VisionLlama]):
    """One process's share of a model that sees.

    InputError for a model whose text attends to pictures that it does not see (`leak`): where there are none they are computed.
    """

    def __init__(self, model: VisionLlama, meshes: Meshes, precision: Precision = "fp32"):
        if model.adapter.config.leak:
            raise InputError("weights of a model with `leak` cannot be sharded", where="shard", fix="leave `shard` out")
        units: list[nn.Module] = [model.encoder, *model.adapter.layers]
        super().__init__(model, [*units, *(() if model.video is None else model.video.layers)], meshes, precision)

    def local(self, batch: Batch) -> Batch:
        """The batch, with a black tile of every kind of media that it lacks."""
        return with_every_kind(batch, self.model)

    def empty(self, text: Llama) -> VisionLlama:
        """A model of this shape around a text model, its weights unset."""
        parts, video = self.model, None if self.model.video is None else self.model.video.config
        return VisionLlama(text, parts.encoder.config, parts.adapter.config, video, seed=None)


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
