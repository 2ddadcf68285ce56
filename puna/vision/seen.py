"""What inference keeps of a medium: keys and values for each cross-attention layer, computed once and read by every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from puna.vision.cross import KeysValues, Reading, Visible
from puna.vision.model import ImageAdapter, Sight, VisionLlama
from puna.vision.video import VideoAdapter

Place = tuple["Seen", int, int]  # a medium, and the positions [start, end) of the text that sees it


@dataclass(frozen=True)
class Seen:
    """Keys and values [K,S,E] of one medium by layer; `real_S` is False for padding that only `leak` reads."""

    video: bool
    layers: list[KeysValues]
    real_S: Tensor

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(part.numel() * part.element_size() for pair in self.layers for part in pair)


@torch.no_grad()
def see(model: VisionLlama, tiles_N3SS: Tensor, tiles_I: Tensor, ratio_I: Tensor, *, video: bool = False) -> Seen:
    """Look at one image, or at the frames of one video (all of the same size)."""
    weight = model.adapter.projector.weight
    tiles_N3SS, ratio_I = tiles_N3SS.to(weight.device, weight.dtype), ratio_I.to(weight.device)
    tiles, padded = int(tiles_I[0]), model.adapter.config.leak and not video
    features = model.encoder(tiles_N3SS, tiles_I, ratio_I, padded=padded)
    part: ImageAdapter | VideoAdapter
    if video:
        assert model.video is not None, "a video needs a video adapter"
        part, memory_SD = model.video, model.video(features, len(tiles_I), tiles)
    else:
        part, memory_SD = model.adapter, model.adapter.projector(features.flatten(0, -2))
    pairs = [layer.cross_attn.keys_values(memory_SD[None]) for layer in part.layers]  # type: ignore[operator, union-attr]
    real_S = torch.arange(len(memory_SD), device=weight.device) < tiles * model.encoder.config.tokens if padded else None
    real_S = torch.ones(len(memory_SD), dtype=torch.bool, device=weight.device) if real_S is None else real_S
    return Seen(video, [(k[0], v[0]) for k, v in pairs], real_S)


def attach_seen(model: VisionLlama, rows: Sequence[Sequence[Place]], positions_BT: Tensor) -> Sight | None:
    """What the media of each row add to a pass over `positions_BT`; None where no row has any.

    A row is computed as it would be alone, also with `leak`, where its neighbours count in transformers.
    """
    readings = []
    for video, part in ((True, model.video), (False, model.adapter)):
        places = [[place for place in row if place[0].video == video] for row in rows]
        if part is None or not any(places):
            continue
        leak = not video and model.adapter.config.leak
        visible = Visible.of(_sees(places, positions_BT), leak=leak, there_BS=_there(places) if leak else None)
        layers = part.layers
        memory = [_memory(places, i) for i in range(len(layers))]
        readings.append(Reading(layers, part.config.places, memory.__getitem__, visible))  # type: ignore[arg-type]
    return Sight(model, readings) if readings else None


def _sees(places: list[list[Place]], positions_BT: Tensor) -> Tensor:
    """bool [B,T,S]: which tokens of media each position sees."""
    spans = []
    for row in places:
        parts = [torch.tensor([start, end]).expand(len(seen.real_S), 2) * seen.real_S.cpu()[:, None] for seen, start, end in row]
        spans.append(torch.cat(parts) if parts else torch.zeros(1, 2, dtype=torch.int64))
    span_BS2 = pad_sequence(spans, batch_first=True).to(positions_BT.device)
    return (positions_BT[..., None] >= span_BS2[:, None, :, 0]) & (positions_BT[..., None] < span_BS2[:, None, :, 1])


def _there(places: list[list[Place]]) -> Tensor:
    """bool [B,S]: False where a row is filled up."""
    lengths = [sum(len(seen.real_S) for seen, _, _ in row) for row in places]
    device = next(row[0][0].real_S.device for row in places if row)
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]


def _memory(places: list[list[Place]], layer: int) -> KeysValues:
    """Keys and values [B,K,S,E] of a layer, rows padded with zeros."""
    like = next(row[0][0].layers[layer][0] for row in places if row)
    nothing = like.new_zeros((like.shape[0], 1, like.shape[2]))
    found = []
    for which in (0, 1):
        rows = [torch.cat([seen.layers[layer][which] for seen, _, _ in row], 1) if row else nothing for row in places]
        found.append(pad_sequence([part.transpose(0, 1) for part in rows], batch_first=True).transpose(1, 2))
    return found[0], found[1]
