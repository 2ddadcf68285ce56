"""Near-duplicate pictures: a 64-bit difference hash, banded look-up, a look at small copies, connected components.

The paper (7.1) embeds pictures with SSCD, a trained copy detector, and searches among all embeddings. Here the hash (dHash: is
each of 8 x 8 places brighter than the one to its right) needs no weights. It cannot tell one chart or page of text from another,
so what it finds alike is compared in copies of 16 x 16 colours, on the whole and place by place.

Candidates are pictures that agree in some bytes of the hash. They are looked up in tables by sorting, and those of one key once
more by a random projection of their copies, so that each is compared with a few neighbours: the cost grows with the number of
pictures and not with its square. With pairs of bytes as keys two hashes within six bits always meet, with triples, which larger
sets need, within five, and most that are somewhat farther apart.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat

from puna.core.rng import numpy_stream
from puna.core.settings import Settings
from puna.data.near_duplicates import components

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 8  # of the hash
FINE = 16  # of the copy
COPY_BYTES = FINE * FINE * 3
FLAT = 2  # brightness levels: a step to the right neighbour below this is no edge
NOISE = 3.0  # levels, of a compressed copy
PAIRS_UP_TO = 1 << 16  # pictures; with more, keys of two bytes would be shared by chance
NEIGHBOURS = 8  # with the same key that a picture is compared with, in each table
CHUNK = 1 << 13  # copies looked at together


class NearPictures(Settings):
    """When two pictures are the same.

    Attributes:
        bits: of 64 that may differ.
        contrast: root mean square difference of the copies, as a share of what is in them.
        levels: greatest difference at one place of the copies, 0-255.
        rows: "one" keeps one row of each set of equal pictures, as the paper does with image-text pairs; "all" keeps every row of
            the one picture that stays, which suits several questions about a picture.
    """

    bits: int = Field(default=10, ge=0, le=16)
    contrast: NonNegativeFloat = 0.25
    levels: int = Field(default=32, ge=0, le=255)
    rows: Literal["all", "one"] = "all"


def dhash(image: Image) -> int:
    """64 bits of an RGB picture, row by row, the first the highest: 1 where a place is brighter than its right neighbour."""
    from PIL.Image import Resampling

    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] - grey[:, 1:] >= FLAT).tobytes(), "big")


def small_copy(image: Image) -> np.ndarray:
    """The picture shrunk to 16 x 16 colours. Returns uint8 [COPY_BYTES]."""
    from PIL.Image import Resampling

    return np.asarray(image.resize((FINE, FINE), Resampling.BOX), np.uint8).ravel()


def clusters(hashes: np.ndarray, copies: np.ndarray, settings: NearPictures) -> np.ndarray:
    """For each picture the first that it is equal to, through others if need be.

    Args:
        hashes: uint64 [pictures]. copies: uint8 [pictures, COPY_BYTES], which may lie in a file.

    Returns:
        int64 [pictures].
    """
    first, second = equal_pairs(hashes, copies, settings)
    return components(first, second, len(hashes))


def equal_pairs(hashes: np.ndarray, copies: np.ndarray, settings: NearPictures) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pictures that are the same, the smaller number first; arguments as of `clusters`. Returns int64 [pairs] twice."""
    tables = list(combinations(range(SIDE), 2 if len(hashes) <= PAIRS_UP_TO else 3))
    order = _projections(copies, len(tables))
    found = np.zeros((0, 2), np.int64)
    for table, blocks in enumerate(tables):
        key = np.zeros(len(hashes), np.uint64)
        for block in blocks:
            key = key << np.uint64(8) | hashes >> np.uint64(8 * block) & np.uint64(255)
        found = np.unique(np.concatenate([found, _neighbours(key, order[:, table], hashes, settings.bits)]), axis=0)
    alike = [_alike(copies[part[:, 0]], copies[part[:, 1]], settings) for part in _chunks(found)]
    return tuple(found[np.concatenate(alike)].T) if alike else (found[:, 0], found[:, 1])


def _neighbours(key: np.ndarray, order: np.ndarray, hashes: np.ndarray, bits: int) -> np.ndarray:
    """Pairs of pictures with one key, close in an order, whose hashes differ in few bits. Returns int64 [pairs, 2]."""
    sorted_ = np.lexsort((order, key))
    pairs = []
    for step in range(1, NEIGHBOURS + 1):
        one, other = sorted_[:-step], sorted_[step:]
        near = (key[one] == key[other]) & (np.bitwise_count(hashes[one] ^ hashes[other]) <= bits)
        pairs.append(np.sort(np.stack([one[near], other[near]], axis=1), axis=1))
    return np.concatenate(pairs)


def _projections(copies: np.ndarray, count: int) -> np.ndarray:
    """Each copy along `count` random directions. Returns float32 [pictures, count]."""
    directions = numpy_stream(0, "vision.near_pictures").standard_normal((COPY_BYTES, count), np.float32)
    parts = [part.astype(np.float32) @ directions for part in _chunks(copies)]
    return np.concatenate(parts) if parts else np.zeros((0, count), np.float32)


def _alike(one: np.ndarray, other: np.ndarray, settings: NearPictures) -> np.ndarray:
    """Which pairs of copies are of the same picture, whatever its brightness. Returns bool [pairs]."""
    one, other = (copies - copies.mean(axis=1, keepdims=True) for copies in (one.astype(np.float32), other.astype(np.float32)))
    apart = one - other
    content = np.sqrt(np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1) / COPY_BYTES)
    whole = np.linalg.norm(apart, axis=1) / np.sqrt(COPY_BYTES) <= NOISE + settings.contrast * content
    return whole & (np.abs(apart).max(axis=1) <= settings.levels)


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
