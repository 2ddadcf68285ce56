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

import torch
from torch import Tensor

from puna.core.intervals import wilson
from puna.core.stage import Artifact
from puna.post.collect import gold_dialog
from puna.post.examples import Encoded, encode_dialog, row_length
from puna.post.gate import Verdict, by_family
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Task, read_rows
from puna.train.objectives import beside, document_sums, hidden_at_targets
from puna.train.packing import pack
from puna.train.world import World
from puna.vision.collate import with_media
from puna.vision.picture_rows import encode_pair
from puna.vision.rows import Form, Sees, media_of, suits
from puna.vision.tile_store import TileStore

TOGETHER = 32  # questions of a forward pass
UNJUDGED = Verdict("none", 0.0, 0)


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


@torch.no_grad()
def judged(model: Any, asked: Sequence[Question], tokenizer: Tokenizer, tiles: TileStore) -> Verdict:
    """The verdict on these questions, of which every process finds a part; the model's mode stays as it is."""
    if not asked:
        return UNJUDGED
    training = model.training
    model.eval()
    passed = World.current().shared(asked, lambda mine: _passed(model, mine, tokenizer, tiles))
    model.train(training)
    low, high = wilson(sum(passed), len(passed))
    families = by_family([question.task for question in asked], passed)
    return Verdict("accuracy", sum(passed) / len(passed), len(passed), low, high, tuple(passed), families)


def _passed(model: Any, asked: Sequence[Question], tokenizer: Tokenizer, tiles: TileStore) -> list[bool]:
    found: list[bool] = []
    for start in range(0, len(asked), TOGETHER):
        part = asked[start : start + TOGETHER]
        examples = [(question.encoded.ids, question.encoded.loss_mask) for question in part]
        batch = pack(examples, None, row_length(max(len(ids) for ids, _ in examples), model.config.max_seq_len))
        shown = [[tiles(medium, question.root) for medium in question.media] for question in part]
        batch = beside(model, with_media(batch, shown, tokenizer.image_id, tiles.shape))
        states_ND, targets_N = hidden_at_targets(model, batch)
        wrong_BT = torch.zeros(batch.targets_BT.numel(), device=states_ND.device)
        wrong_BT[batch.supervised()] = _wrong(model, states_ND, targets_N)
        found += (document_sums(wrong_BT.view_as(batch.targets_BT), batch.documents_BT, len(part)) == 0).tolist()
    return found


def _wrong(model: Any, states_ND: Tensor, targets_N: Tensor) -> Tensor:
    """1.0 where the target is not the likeliest token, [N]."""
    return (model.lm_head(states_ND).argmax(-1) != targets_N).float()
