"""A text model that sees (section 7): the encoder and the adapters around a `Llama` whose weights nobody touches.

The text network stays what it is, a module and a checkpoint of its own; adapters give it what it reads in place of media tokens
and run their layers before some of its own (`model.llama.Attached`). Without media a batch takes the text network's very path.

Shape legend: B rows, T text positions, S tokens of media, D text width, N tiles, P tokens of a tile, M media.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.model.adapted import Adapted
from puna.model.config import ModelConfig
from puna.model.llama import Affine, Attached, Llama
from puna.train.packing import Batch
from puna.vision.config import EXTRA_ROWS, AdapterConfig, VideoConfig, VisionConfig
from puna.vision.cross import CrossLayer, Reading
from puna.vision.encoder import ImageEncoder
from puna.vision.sight import Gathered, Media, gathered
from puna.vision.video import VideoAdapter


class ImageAdapter(nn.Module):
    """What joins the encoder to the text model: a projection, cross-attention layers, embeddings of the media tokens."""

    def __init__(self, config: AdapterConfig, vision: VisionConfig, text: ModelConfig):
        super().__init__()
        self.config = config
        self.projector = Affine(vision.features, text.dim)
        self.layers = nn.ModuleList(CrossLayer(text) for _ in config.places)
        self.embedding = nn.Parameter(torch.empty(EXTRA_ROWS, text.dim))


class VisionLlama(Adapted):
    """A text model with an image encoder, an image adapter and, perhaps, a video adapter.

    Args:
        text: stays frozen; replace it by another of the same shape with `swap`.
        seed: draws the weights of encoder and adapters; None leaves them unset, for loading.
        gate: where the gates of the adapters' layers start; 0 changes nothing at first, and learns slowly.
    """

    def __init__(
        self, text: Llama, vision: VisionConfig, adapter: AdapterConfig, video: VideoConfig | None = None, *,
        seed: int | None = 0, gate: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        if adapter.leak and not vision.attend_padding:
            raise InputError("`leak` reads the padding that an encoder without `attend_padding` does not compute",
                             where="leak, attend_padding", fix="set attend_padding to true")  # fmt: skip
        self.encoder = ImageEncoder(vision)
        self.adapter = ImageAdapter(adapter, vision, text.config)
        self.video = None if video is None else VideoAdapter(video, vision, text.config)
        self.swap(text)
        if seed is not None and not self.adapter.embedding.is_meta:
            self.init_weights(seed, gate)

    def attach(self, batch: Batch) -> Attached | None:
        """What a batch's media (`puna.vision.sight.Media`) add to the pass; None if it has none."""
        media = Media.of(batch)
        return None if media is None else self.look(media, batch.ids_BT.shape)

    def look(self, media: Media, shape: torch.Size) -> Sight:
        """Encode media, and lay them out for rows of `shape` [B,T]."""
        leak = self.adapter.config.leak
        features = self.encoder(media.tiles_N3SS, media.tiles_I, media.ratio_I, padded=leak)
        found = []
        images = gathered(media, features, video=False, shape=shape, absent=self._absent if leak else None)
        if images is not None:
            found.append(self._reading(self.adapter, self.adapter.projector(images.memory_BSF), images, leak))
        if self.video is not None and bool(media.video_M.any()):
            videos = gathered(media, features, video=True, shape=shape, merge=self.video)
            if videos is not None:
                found.insert(0, self._reading(self.video, videos.memory_BSF, videos, False))
        return Sight(self, found)

    def _reading(self, part: Any, memory_BSD: Tensor, found: Gathered, leak: bool) -> Reading:
        layers = part.layers
        return Reading(layers, part.config.places, lambda i: memory_BSD, found.visible(leak))

    def _absent(self, like: Tensor) -> Tensor:
        """What the encoder says where a row has fewer images than others: black padding under ratio id 0, one tile of it real."""
        tile = like.new_zeros((1, 3, self.encoder.config.tile, self.encoder.config.tile))
        one = torch.ones(1, dtype=torch.int64)
        return self.encoder(tile, one, torch.zeros_like(one, device=like.device), padded=True)[0]

    @torch.no_grad()
    def init_weights(self, seed: int, gate: float = 0.0) -> None:
        """Draw what is not the text model's, each part from its own stream."""
        device = self.adapter.embedding.device
        self.encoder.init_weights(torch.Generator(device).manual_seed(derive_seed(seed, "init", "encoder")))
        _draw_part(self.adapter, "adapter", seed, gate)
        if self.video is not None:
            _draw_part(self.video, "video", seed, gate)

    @torch.no_grad()
    def add_video(self, config: VideoConfig, *, seed: int, gate: float = 0.0) -> None:
        """Give the model a new video adapter (section 7.5: one is trained around a model that sees pictures already).

        Its cross-attention layers begin as those of images at the same places, which know how to ask, behind gates of their own.
        """
        self.video = VideoAdapter(config, self.encoder.config, self.config).to(self.adapter.embedding.device)
        _draw_part(self.video, "video", seed, gate)
        images = dict(zip(self.adapter.config.places, self.adapter.layers, strict=True))
        for place, layer in zip(config.places, self.video.layers, strict=True):
            known = {name: weight for name, weight in images[place].state_dict().items() if not name.endswith("_gate")}
            layer.load_state_dict(layer.state_dict() | known)


def _draw_part(part: nn.Module, name: str, seed: int, gate: float) -> None:
    device = next(part.parameters()).device
    generator = torch.Generator(device).manual_seed(derive_seed(seed, "init", name))
    for weight_name, weight in part.named_parameters():
        _draw(weight, weight_name, generator, gate)


def _draw(weight: Tensor, name: str, generator: torch.Generator, gate: float) -> None:
    """Norms 1, biases 0, gates as told, filters over time with std 1, all else with std 1 / sqrt(fan in or width)."""
    if name.endswith("_gate"):
        weight.fill_(gate)
    elif weight.dim() == 1:
        weight.fill_(0.0 if name.endswith("bias") else 1.0)
    else:
        weight.normal_(0.0, 1.0 if name.endswith("time_filters") else weight.shape[-1] ** -0.5, generator=generator)


@dataclass
class Sight:
    """What was seen, as the text network reads it.

    Attributes:
        model: whose embeddings stand for media tokens. readings: of videos, then of images: a video layer runs first.
    """

    model: VisionLlama
    readings: list[Reading]

    def embed(self, ids_BT: Tensor, embedding: nn.Embedding) -> Tensor:
        """Embeddings; the adapter's for media tokens."""
        adapter, vocabulary = self.model.adapter, self.model.config.vocab_size
        extra_BT = ids_BT >= vocabulary
        row_BT = torch.where(extra_BT, ids_BT - vocabulary, 0)
        if adapter.config.image_id is not None:
            extra_BT = extra_BT | (ids_BT == adapter.config.image_id)
        x_BTD = embedding(ids_BT.masked_fill(extra_BT, 0))
        return torch.where(extra_BT[..., None], adapter.embedding[row_BT].to(x_BTD.dtype), x_BTD)

    def before(self, layer: int, x_BTD: Tensor) -> Tensor:
        """States after the adapters' layers that stand before `layer`."""
        for reading in self.readings:
            x_BTD = reading.before(layer, x_BTD)
        return x_BTD
