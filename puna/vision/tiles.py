"""From a file to the tiles the encoder reads: a picture is fitted into a canvas of at most 4 squares, then cut (paper 7.1).

The tiles equal those of transformers' `MllamaImageProcessorPil` (and so of the released Llama 3.2 models) to the bit. Where that
processor would spoil a picture, this one does not: pictures are turned as their EXIF data says, and grey values of 16 bits are
scaled and not clipped.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from puna.core.errors import InputError
from puna.vision.config import ratios
from puna.vision.fetch import MediaRules

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000")  # none that starts a program, as EPS does
BYTE_OF_SHORT = 255 / 65535


@dataclass(frozen=True)
class ImageShape:
    """How pictures are cut: squares of `tile` pixels, at most `max_tiles` of them, normalised by channel.

    The defaults are those of the released instruct models; mean and std are CLIP's.
    """

    tile: int = 560
    max_tiles: int = 4
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


@dataclass(frozen=True)
class Tiled:
    """A picture as tiles.

    Attributes:
        pixels: float32 [t, 3, S, S], row by row; what the picture does not fill is black.
        ratio: 1 + the index of (height, width) among `puna.vision.config.ratios`; 0 is left for no picture.
        height, width: in tiles; t is their product.
    """

    pixels: np.ndarray
    ratio: int
    height: int
    width: int


def read_image(content: bytes, rules: MediaRules, where: str = "the picture") -> Image:
    """A picture as RGB, upright, transparent parts on white; of an animated one the first frame.

    Its size is checked before its pixels are decoded. InputError for what is no picture, is truncated, or is too large.
    """
    from PIL import Image, ImageOps

    if not content:
        raise InputError("the picture is empty", where=where)
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        check_pixels(image.width, image.height, rules, where)
        image.load()
        return as_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise _too_large(rules, where) from None
    except Image.UnidentifiedImageError:
        raise InputError("this is no picture in a known format", where=where, fix="PNG, JPEG, WebP or GIF") from None
    except InputError:
        raise
    except Exception as error:  # decoders of foreign bytes raise anything
        raise InputError(f"the picture is damaged ({error or type(error).__name__})", where=where) from None


def check_pixels(width: int, height: int, rules: MediaRules, where: str) -> None:
    """InputError for a picture without pixels or with too many."""
    if width < 1 or height < 1:
        raise InputError(f"the picture has {width} x {height} pixels", where=where)
    if width * height > rules.max_pixels:
        raise _too_large(rules, where)


def _too_large(rules: MediaRules, where: str) -> InputError:
    what = f"the picture has more than {rules.max_pixels / 1e6:g} million pixels"
    return InputError(what, where=where, fix="send a smaller one")


def as_rgb(image: Image) -> Image:
    """Any mode as RGB: transparency on white, 16-bit grey scaled, wider greys from their darkest to their brightest."""
    from PIL import Image

    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode.startswith(("I", "F")):
        grey = np.asarray(image).astype(np.float64)
        if image.mode.startswith("I;16"):
            grey = grey * BYTE_OF_SHORT
        else:
            grey = np.nan_to_num(grey)
            grey = (grey - grey.min()) * (255 / max(float(np.ptp(grey)), 1e-12))
        image = Image.fromarray(np.rint(grey).astype(np.uint8))
    return image.convert("RGB")


def canvas(height: int, width: int, shape: ImageShape) -> tuple[int, int]:
    """(height, width) in tiles of the canvas for a picture: of those it fits into, the one it has to grow least for; if it fits
    into none, the one it has to shrink least for; of equals the smallest."""
    choices = ratios(shape.max_tiles)
    scales = [min(rows * shape.tile / height, columns * shape.tile / width) for rows, columns in choices]
    growing = [scale for scale in scales if scale >= 1]
    best = min(growing) if growing else max(scales)
    return min((choice for choice, scale in zip(choices, scales, strict=True) if scale == best), key=lambda c: c[0] * c[1])


def tiles_of(image: Image, shape: ImageShape) -> Tiled:
    """An RGB picture, shrunk or grown into its canvas, padded with black at the right and below, normalised, and cut."""
    from PIL.Image import Resampling

    rows, columns = canvas(image.height, image.width, shape)
    size = _fitted(image.height, image.width, rows * shape.tile, columns * shape.tile, shape.tile)
    planes = [np.asarray(plane) for plane in image.resize(size[::-1], Resampling.BILINEAR).split()]
    tables = _normalised(shape)
    pixels = np.empty((rows, columns, 3, shape.tile, shape.tile), np.float32)
    for row in range(rows):
        for column in range(columns):
            top, left = row * shape.tile, column * shape.tile
            for channel, (plane, table) in enumerate(zip(planes, tables, strict=True)):
                part = plane[top : top + shape.tile, left : left + shape.tile]
                tile = pixels[row, column, channel]
                tile[: part.shape[0], : part.shape[1]] = table[part]
                tile[part.shape[0] :] = tile[:, part.shape[1] :] = table[0]
    flat = pixels.reshape(rows * columns, 3, shape.tile, shape.tile)
    return Tiled(flat, 1 + ratios(shape.max_tiles).index((rows, columns)), rows, columns)


def _fitted(height: int, width: int, most_high: int, most_wide: int, tile: int) -> tuple[int, int]:
    """(height, width) in pixels of a picture in its canvas: its sides keep their proportion, and none grows beyond a tile."""
    high, wide = min(max(height, tile), most_high), min(max(width, tile), most_wide)
    by_height, by_width = high / height, wide / width
    if by_width < by_height:
        return min(math.floor(height * by_width) or 1, high), wide
    return high, min(math.floor(width * by_height) or 1, wide)


@lru_cache(maxsize=8)
def _normalised(shape: ImageShape) -> np.ndarray:
    """float32 [3, 256]: what each value of each channel becomes, rounded where transformers rounds."""
    values = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(shape.mean, np.float32)[:, None], np.array(shape.std, np.float32)[:, None]
    return (values - mean) / std
