"""Media of training rows as tiles, decoded once and kept as bytes: the CPU that decodes again every epoch starves the rest.

What fits the limit stays, first come, first kept; the rest is decoded whenever it is drawn (rows come in a new order each
epoch, so nothing is likelier to be wanted soon). Pixels are kept as the 8-bit values they came from, a quarter of the memory,
and normalised when a batch is made, to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from puna.tokenizer.chat import Medium
from puna.vision.fetch import MediaRules
from puna.vision.media import load
from puna.vision.tiles import ImageShape

LEVELS = 255
OWN_FILES = MediaRules(max_bytes=1 << 30, max_pixels=200_000_000)  # of rows to learn from: their owner has put them there


@dataclass(frozen=True)
class Shown:
    """A medium as tiles.

    Attributes:
        tiles_N3SS: uint8, the tiles of its images one after the other.
        tiles_I, ratio_I: tiles and aspect ratio id of each image (one, or the frames of a video).
    """

    video: bool
    tiles_N3SS: Tensor
    tiles_I: tuple[int, ...]
    ratio_I: tuple[int, ...]


class TileStore:
    """Looks media up, decodes them where they are not kept.

    Args:
        shape: how pictures are cut. rules: what may be read. frames: of a video that does not say how many, and the most of any.
        limit: bytes of tiles to keep.
    """

    def __init__(self, shape: ImageShape, rules: MediaRules, *, frames: int, limit: int):
        self.shape, self.rules, self.frames, self.limit = shape, rules, frames, limit
        self.bytes = 0
        self._kept: dict[tuple[Path, Medium], Shown] = {}

    def __call__(self, medium: Medium, root: Path) -> Shown:
        """The tiles of a medium of a row in a file of the folder `root`; InputError where it cannot be read."""
        key = root, replace(medium, at=0)  # wherever in a text it stands
        found = self._kept.get(key)
        if found is None:
            found = self._decode(medium, root)
            if self.bytes + found.tiles_N3SS.numel() <= self.limit:
                self._kept[key] = found
                self.bytes += found.tiles_N3SS.numel()
        return found

    def _decode(self, medium: Medium, root: Path) -> Shown:
        loaded = load(medium, root, self.rules, self.shape, self.frames)
        pixels = np.concatenate([image.pixels for image in loaded.images])
        tiles = torch.from_numpy(bytes_of(pixels, self.shape))
        images = loaded.images
        return Shown(loaded.kind == "video", tiles, tuple(len(i.pixels) for i in images), tuple(i.ratio for i in images))


def bytes_of(pixels_N3SS: np.ndarray, shape: ImageShape) -> np.ndarray:
    """The 8-bit values (uint8) that normalised pixels came from."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (shape.mean, shape.std))
    return np.rint((pixels_N3SS * std + mean) * LEVELS).astype(np.uint8)


def normalised(tiles_N3SS: Tensor, shape: ImageShape) -> Tensor:
    """Normalised pixels (float32) of 8-bit values, rounded where `tiles_of` rounds."""
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (shape.mean, shape.std))
    return (tiles_N3SS.double() * (1 / LEVELS)).float().sub_(mean).div_(std)
