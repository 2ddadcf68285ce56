"""Rows with media as packed batches: dialogs of `pictures` artifacts, read and decoded when they are drawn (section 7.4).

A dialog is never cut: one that is longer than a row is left out and counted, and so is one whose media are not of the kind that a
stage trains on. Batches are a pure function of the step, of this rank's share of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from puna.core.stage import Artifact
from puna.post.dialog_store import longest_of
from puna.post.examples import Left, row_length
from puna.post.sft import STREAMED_BYTES, largest_and_some
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.train.packing import Batch, DialogBatches, Example
from puna.vision.collate import with_media
from puna.vision.picture_rows import PairStore, PictureStore
from puna.vision.tile_store import Shown, TileStore

Sees = Literal["images", "videos"]
Form = Literal["dialogs", "pairs"]
UNKNOWN, WANTED, OTHER = 0, 1, 2


def suits(media: Sequence[Medium], sees: Sees) -> bool:
    """Whether a row with these media is for a stage that trains on images (text alone suits it too), or on videos."""
    videos = any(medium.kind == "video" for medium in media)
    return videos if sees == "videos" else not videos


class MediaRows:
    """The dialogs of one split of several `pictures` artifacts, as examples with media (`puna.train.packing.Examples`).

    Args:
        limit: longest dialog in tokens.
        scratch: folder for the encoded rows (`PictureStore`).
        form: whether they are read as dialogs, or captions alone, as documents (`encode_pair`).
    """

    def __init__(
        self, tokenizer: Tokenizer, pictures: Sequence[Artifact], split: str, limit: int, scratch: Path, *, tiles: TileStore,
        sees: Sees, form: Form = "dialogs",
    ):  # fmt: skip
        self.tokenizer, self.tiles, self.sees = tokenizer, tiles, sees
        files = [artifact.path / f"{split}.jsonl" for artifact in pictures]
        self.store = (PairStore if form == "pairs" else PictureStore)(tokenizer, files, limit, scratch)
        self._kinds = np.zeros(len(self.store), np.uint8)
        looked = largest_and_some(self.store) if self.store.bytes > STREAMED_BYTES else range(len(self.store))
        longest = longest_of(self.store, looked)
        self.row_length = row_length(longest, limit)

    def __len__(self) -> int:
        return len(self.store)

    def length(self, i: int) -> int:
        """Tokens of row i, 0 if it is left out."""
        tokens = self.store.tokens(i)
        return tokens if 0 < tokens <= self.row_length and self._kind(i) == WANTED else 0

    def __getitem__(self, i: int) -> Example:
        return self.store.row(i)

    def shown(self, i: int) -> list[Shown]:
        """The media of row i, decoded; InputError where one cannot be read."""
        pictured = self.store.pictured(i)
        return [self.tiles(medium, pictured.root) for medium in pictured.media]

    def left(self) -> LeftOut:
        """What is known to be left out, of the rows encoded so far, in this run or in one that was stopped."""
        every = np.arange(len(self))
        usable = [i for i in self.store.usable(every).tolist() if self.store.tokens(i) <= self.row_length]
        return LeftOut(**vars(self.store.left(every, self.row_length)), other=sum(self._kind(i) == OTHER for i in usable))

    def _kind(self, i: int) -> int:
        if self._kinds[i] == UNKNOWN:
            self._kinds[i] = WANTED if suits(self.store.pictured(i).media, self.sees) else OTHER
        return int(self._kinds[i])


@dataclass
class LeftOut(Left):
    """Rows left out; `other` have media of another kind than the stage trains on."""

    other: int = 0


class MediaBatches(DialogBatches):
    """`DialogBatches` whose rows bring their media."""

    examples: MediaRows

    def _batch(self, plan: list[list[int]]) -> Batch:
        members = [i for row in plan for i in row]
        rows = self.examples
        batch = super()._batch(plan)
        return with_media(batch, [rows.shown(i) for i in members], rows.tokenizer.image_id, rows.tiles.shape)
