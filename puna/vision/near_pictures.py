"""Near-duplicate pictures: a 64-bit difference hash, banded look-up, a look at small colour copies, connected components.

The paper (7.1) embeds pictures with SSCD, a trained copy detector, and searches among all embeddings. Here the hash (dHash: is each
of 8 x 8 places brighter than the one to its right) needs no weights; what it cannot see is compared in copies of 8 x 8 colours.
Candidates are pictures that agree in some blocks of the hash, looked up in tables by sorting, so the cost is linear in the number
of pictures: with pairs of the eight bytes as keys two hashes within six bits always meet, with triples, which larger sets need,
within five, and most pairs somewhat farther apart.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from puna.core.settings import Settings
from puna.data.near_duplicates import candidate_pairs, components, each_once
from puna.data.versions import VERSION

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 8  # of the hash and of the colour copy
PAIRS_UP_TO = 1 << 16  # pictures; with more, keys of two bytes would be shared by chance
FLAT = 2  # brightness levels: a step to the right neighbour below this is no edge


class NearPictures(Settings):
    """When two pictures are the same.

    Attributes:
        bits: of 64 that may differ.
        colours: mean difference between the colour copies, 0-255.
        rows: "one" keeps one row of each set of equal pictures, as the paper does with image-text pairs; "all" keeps every row of
            the one picture that stays, which suits several questions about a picture.
    """

    bits: int = 10
    colours: float = 16.0
    rows: str = "all"


def dhash(image: Image) -> int:
    """64 bits of an RGB picture, row by row, the first the highest: 1 where a place is brighter than its right neighbour."""
    from PIL.Image import Resampling

    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] - grey[:, 1:] >= FLAT).tobytes(), "big")


def colour_copy(image: Image) -> np.ndarray:
    """The picture shrunk to 8 x 8. Returns uint8 [192]."""
    from PIL.Image import Resampling

    return np.asarray(image.resize((SIDE, SIDE), Resampling.BOX), np.uint8).ravel()


def equal_pairs(hashes: np.ndarray, copies: np.ndarray, settings: NearPictures) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pictures that are the same, found by look-up and not among all pairs.

    Args:
        hashes: uint64 [pictures]. copies: uint8 [pictures, 192].

    Returns:
        int64 [pairs] and int64 [pairs], the smaller number of each pair first.
    """
    pairs = [_verified(candidate_pairs(rows), hashes, copies, settings) for rows in _tables(hashes)]
    found = each_once(np.concatenate(pairs))
    return found["first"], found["second"]


def clusters(hashes: np.ndarray, copies: np.ndarray, settings: NearPictures) -> np.ndarray:
    """For each picture the first that it is equal to, through others if need be. Returns int64 [pictures]."""
    first, second = equal_pairs(hashes, copies, settings)
    return components(first, second, len(hashes))


def _tables(hashes: np.ndarray):
    """Rows (key, date 0, picture) of one look-up table after the other."""
    blocks = hashes[:, None].astype(">u8").view(np.uint8).reshape(-1, 8).astype(np.uint64)
    pictures = np.arange(len(hashes))
    for chosen in combinations(range(8), 2 if len(hashes) <= PAIRS_UP_TO else 3):
        rows = np.zeros(len(hashes), VERSION)
        for block in chosen:
            rows["key"] = rows["key"] << np.uint64(8) | blocks[:, block]
        rows["document"] = pictures
        yield rows


def _verified(pairs: np.ndarray, hashes: np.ndarray, copies: np.ndarray, settings: NearPictures) -> np.ndarray:
    """Those of some candidate pairs that are the same picture."""
    near = np.bitwise_count(hashes[pairs["first"]] ^ hashes[pairs["second"]]) <= settings.bits
    pairs = pairs[near]
    apart = np.abs(copies[pairs["first"]].astype(np.int16) - copies[pairs["second"]]).mean(axis=1)
    return pairs[apart <= settings.colours]
