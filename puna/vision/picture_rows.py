"""Rows with pictures as token ids, read when training first draws them (`puna.post.dialog_store`), with the media that they show.

Nothing is cut: a row that is too long is left out whole, so a picture and its token never part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puna.post.dialog_store import DialogStore
from puna.post.examples import Encoded
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog
from puna.train.packing import Example
from puna.world.pictures import CAPTIONS

CAPTION_KINDS = frozenset(kind for kind, _ in CAPTIONS.values())


@dataclass(frozen=True)
class Pictured:
    """One row to learn from.

    Attributes:
        example: its ids (uint32) and loss mask (uint8).
        media: what it shows, in order; places: the positions of their tokens in the ids.
        root: the folder that their addresses start from.
    """

    example: Example
    media: tuple[Medium, ...]
    places: tuple[int, ...]
    root: Path


class PictureStore(DialogStore):
    """The rows of `train.jsonl` of several `pictures` artifacts, or other files of dialogs, numbered through."""

    def pictured(self, row: int) -> Pictured:
        """A row that is not left out, with its media; a row without any is read from the encoded file alone."""
        ids, mask = self.row(row)
        places = tuple(np.flatnonzero(ids == self.tokenizer.image_id).tolist())
        media = tuple(medium for message in self.dialog(row).messages for medium in message.media) if places else ()
        return Pictured((ids, mask), media, places, self.file(row).parent)


class PairStore(PictureStore):
    """The same rows as `encode_pair` writes them."""

    def encoded(self, row: int) -> Encoded:
        """Ids and masks of the picture and what is said of it."""
        return encode_pair(self.tokenizer, self.dialog(row))


def encode_pair(tokenizer: Tokenizer, dialog: Dialog) -> Encoded:
    """A picture and its caption as a document, without question and frame: image tokens, then text that is all learnt (7.3).

    Rows that are no captions (`capability`, see `puna.world.pictures.CAPTIONS`) teach nothing.
    """
    head = [tokenizer.bos_id, *(tokenizer.image_id for message in dialog.messages for _ in message.media)]
    text = [*tokenizer.encode(dialog.messages[-1].content), tokenizer.eos_id]
    learnt = int(dialog.capability in CAPTION_KINDS)
    return Encoded([*head, *text], [0] * len(head) + [learnt] * len(text), [1] * len(head) + [0] * (len(text) - 1) + [1])
