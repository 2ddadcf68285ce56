"""A model that listens with its weights cut over data parallel processes (`puna.post.sharded`).

The trifle that a batch without sound gets is one position of silence without a placeholder. Encoder and adapter are a unit each.
"""

from __future__ import annotations

import torch

from puna.model.llama import Llama
from puna.post.sharded import ShardedAdapted
from puna.speech.collate import with_sounds
from puna.speech.model import SpeechLlama
from puna.train.packing import Batch
from puna.train.parallel.layout import Precision
from puna.train.parallel.meshes import Meshes


class ShardedEars(ShardedAdapted[SpeechLlama]):
    """One process's share of a model that listens."""

    def __init__(self, model: SpeechLlama, meshes: Meshes, precision: Precision = "fp32"):
        super().__init__(model, [model.encoder, model.adapter], meshes, precision)

    def local(self, batch: Batch) -> Batch:
        """The batch, with a silence that no text hears if it has no sound."""
        config = self.model.encoder.config
        return batch if "frames_C" in batch.extra else with_sounds(batch, [torch.zeros(config.stack, config.channels)])

    def empty(self, text: Llama) -> SpeechLlama:
        """A model of this shape around a text model, its weights unset."""
        parts = self.model
        return SpeechLlama(text, parts.encoder.config, parts.adapter.config, parts.tokens, sound=parts.sound, seed=None)
