"""Dialogs with sounds as rows to learn from: how many tokens each sound takes is found when a row is first drawn.

A dialog is never cut. One that is too long, has no sound or nothing to learn is left out and counted. A dialog is a row of its
own: sounds are what batches are measured by, and rows of like duration need no packing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from puna.core.rng import numpy_stream
from puna.post.dialog_store import DialogStore
from puna.post.examples import Encoded, Left, encode_dialog
from puna.speech.augment import Augmentation, augmented_wave, masked_frames
from puna.speech.buckets import DurationBuckets, share_of
from puna.speech.collate import respaced, with_sounds
from puna.speech.features import log_mel
from puna.speech.frames import SoundShape, normalised
from puna.speech.recordings import Form, Recordings
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, media_of
from puna.train.packing import Batch, Example, empty_batch, stacked

TOKEN_SECONDS = 0.08
EMPTY_ROW = 8  # positions of a row of padding
NOTHING = Encoded([], [], [])


def encode_spoken(
    tokenizer: Tokenizer, dialog: Dialog, root: Path, recordings: Recordings, tokens_of: Callable[[int], int]
) -> Encoded:  # fmt: skip
    """Ids and masks of a dialog whose media are sounds, at least one; nothing where that is not so.

    Args:
        root: the folder that addresses start from. tokens_of: placeholders that so many frames of 10 ms take.
    """
    media = media_of(dialog.messages)
    if not media or any(medium.kind != "audio" for medium in media):
        return NOTHING
    return encode_dialog(tokenizer, dialog, [tokens_of(recordings.count(medium, root)) for medium in media])


class SoundStore(DialogStore):
    """The rows of several files of dialogs, numbered through, with their sounds."""

    def __init__(
        self, tokenizer: Tokenizer, files: Sequence[Path], limit: int, scratch: Path, *, recordings: Recordings,
        tokens_of: Callable[[int], int],
    ):  # fmt: skip
        self.recordings, self.tokens_of = recordings, tokens_of
        super().__init__(tokenizer, files, limit, scratch)

    def encoded(self, row: int) -> Encoded:
        """Ids and masks of a row; none of one without sound."""
        return encode_spoken(self.tokenizer, self.dialog(row), self.file(row).parent, self.recordings, self.tokens_of)

    def sounds(self, row: int) -> list[tuple[Medium, Path]]:
        """The sounds of a row, and the folder of their addresses."""
        root = self.file(row).parent
        return [(medium, root) for medium in media_of(self.dialog(row).messages)]

    def left_out(self, most_seconds: float) -> LeftOut:
        """What is known to be left out, of the rows encoded so far, in this run or in one that was stopped."""
        every = np.arange(len(self))
        found = self.left(every, self.limit)
        long = sum(self.seconds(row) > most_seconds for row in self.usable(every).tolist())
        return LeftOut(found.overlong, found.empty, long)

    def seconds(self, row: int) -> float:
        """Seconds of all sounds of a row in whole tokens, 0 if it is left out."""
        if not self.tokens(row):
            return 0.0
        return int(np.count_nonzero(np.asarray(self.row(row)[0]) == self.tokenizer.speech_id)) * TOKEN_SECONDS


def form_for(augment: Augmentation | None) -> Form:
    """What recordings are kept as: frames, unless samples are changed before frames are made of them."""
    changes = augment is not None and (augment.speed * augment.changed or augment.noisy or augment.gain_db)
    return "samples" if changes else "frames"


def changed_frames(
    recordings: Recordings, medium: Medium, root: Path, shape: SoundShape, augment: Augmentation | None, rng: np.random.Generator
) -> Tensor:  # fmt: skip
    """Normalised frames [F, M] of a sound, changed by `augment`; `recordings` are in the form that it asks for."""
    if augment is None:
        return normalised(recordings.frames(medium, root), shape)
    found = recordings(medium, root)
    if recordings.form == "samples":
        found = log_mel(augmented_wave(found, augment, rng), shape.mel)
    return masked_frames(normalised(found, shape), augment, rng)


@dataclass
class LeftOut(Left):
    """Rows left out: too many tokens, no sound or nothing to learn, more seconds than a step may have."""

    long: int = 0

    def text(self, of: int, length: int) -> str:
        """One line for the user."""
        return (
            f"{self.overlong} of {of} rows are longer than {length} tokens, {self.long} than a step's seconds, and {self.empty} "
            "have no sound or nothing to learn: left out"
        )


@dataclass
class SoundBatches:
    """Batches of whole dialogs, one a row, as a pure function of the step.

    Attributes:
        shape: what frames are normalised by. augment: how sounds are changed whenever they are drawn, if at all.
        rank, world: this process's share. micro_rows: rows of a forward pass; None is all that a process has.
    """

    rows: SoundStore
    buckets: DurationBuckets
    shape: SoundShape
    augment: Augmentation | None
    seed: int
    rank: int = 0
    world: int = 1
    micro_rows: int | None = None

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step` for this rank, as many as on every other."""
        parts = share_of(self.buckets(step), self.rank, self.world, self.micro_rows)
        return [self._batch(step, part) if part else empty_batch(1, EMPTY_ROW) for part in parts]

    def _batch(self, step: int, part: list[tuple[int, int]]) -> Batch:
        drawn = [self._drawn(row, numpy_stream(self.seed, "augment", step, place)) for place, row in part]
        length = max(len(example[0]) for example, _ in drawn)
        return with_sounds(stacked([example for example, _ in drawn], length), [clip for _, clips in drawn for clip in clips])

    def _drawn(self, row: int, rng: np.random.Generator) -> tuple[Example, list[Tensor]]:
        """A row with its sounds as they are this time; as recorded where, slowed down, they would not fit a row."""
        rows, example = self.rows, self.rows.row(row)
        for augment in (self.augment, None):
            clips = [changed_frames(rows.recordings, *sound, self.shape, augment, rng) for sound in rows.sounds(row)]
            drawn = respaced(example, rows.tokenizer.speech_id, [rows.tokens_of(len(clip)) for clip in clips])
            if len(drawn[0]) <= rows.limit:
                break
        return drawn, clips
