"""How adapter stages judge a model: the share of held-out questions whose worked answer it gives word for word.

An answer is given where the likeliest token at each of its places, after the picture, the question and the answer so far, is its
own; then and only then a greedy answer is this one. One pass tells it for a packed batch, so a look costs little. What a verifier
would also accept is not counted: `vision.scores` asks for answers and measures them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from puna.core.stage import Artifact
from puna.post import adapters
from puna.post.collect import gold_dialog
from puna.post.examples import Encoded, encode_dialog, row_length
from puna.post.gate import Verdict
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Task, media_of, read_rows
from puna.train.packing import pack
from puna.vision.collate import with_media
from puna.vision.picture_rows import encode_pair
from puna.vision.rows import Form, Sees, suits
from puna.vision.tile_store import TileStore

TOGETHER = 32  # questions of a forward pass


@dataclass(frozen=True)
class Question:
    """A task, its dialog with the worked answer as ids, its media and the folder that they lie in."""

    task: Task
    encoded: Encoded
    media: list[Medium]
    root: Path


def questions(
    pictures: Sequence[Artifact], tokenizer: Tokenizer, limit: int, sees: Sees, most: int, form: Form = "dialogs"
) -> list[Question]:
    """The first `most` dev tasks of all `pictures` that have a worked answer in this form, fitting media, and `limit` tokens."""
    return list(islice(_questions(pictures, tokenizer, limit, sees, form), most))


def _questions(pictures: Sequence[Artifact], tokenizer: Tokenizer, limit: int, sees: Sees, form: Form) -> Iterator[Question]:
    for artifact in pictures:
        for task in read_rows(artifact.path / "dev.jsonl", Task):
            media, dialog = media_of(task.prompt), gold_dialog(task)
            if dialog is None or not suits(media, sees):
                continue
            encoded = (encode_pair if form == "pairs" else encode_dialog)(tokenizer, dialog)
            if len(encoded.ids) <= limit and any(encoded.loss_mask):
                yield Question(task, encoded, media, artifact.path)


def judged(model: Any, asked: Sequence[Question], tokenizer: Tokenizer, tiles: TileStore) -> Verdict:
    """The verdict on these questions, of which every process finds a part; the model's mode stays as it is."""
    tasks = [question.task for question in asked]
    return adapters.judged(model, asked, tasks, lambda mine: _passed(model, mine, tokenizer, tiles))


def _passed(model: Any, asked: Sequence[Question], tokenizer: Tokenizer, tiles: TileStore) -> list[bool]:
    found: list[bool] = []
    for start in range(0, len(asked), TOGETHER):
        part = asked[start : start + TOGETHER]
        examples = [(question.encoded.ids, question.encoded.loss_mask) for question in part]
        batch = pack(examples, None, row_length(max(len(ids) for ids, _ in examples), model.config.max_seq_len))
        shown = [[tiles(medium, question.root) for medium in question.media] for question in part]
        found += adapters.told(model, with_media(batch, shown, tokenizer.image_id, tiles.shape), len(part))
    return found
