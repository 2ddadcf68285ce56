"""BEST-RQ pre-training of the speech encoder (section 8.3): no text, sounds alone, labels that nobody wrote.

The sounds are those of the train rows of `sounds`, whatever the rows say of them. Longer ones than a minute are cut to a minute
somewhere. Paper: 15M hours, 500,000 steps of 2,048 utterances. The verdict is the share of labels told right at masked places of
the dev sounds; a guess is right once in `codes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from puna.core.rng import derive_seed, numpy_stream
from puna.core.stage import StageContext
from puna.post import checkpoints, spread
from puna.post.adapters import optimise
from puna.speech import fit
from puna.speech.augment import Augmentation
from puna.speech.bestrq import NOISE, BestRQ, MultiSoftmax, QuantizerConfig, masked_positions
from puna.speech.buckets import DurationBuckets, share_of
from puna.speech.encoder import SpeechConfig, SpeechEncoder
from puna.speech.files import TrainedEncoder, save_encoder
from puna.speech.frames import SoundShape
from puna.speech.recordings import Recordings
from puna.speech.shapes import EncoderShape
from puna.speech.sound_rows import changed_frames
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, Task
from puna.train.objectives import beside
from puna.train.packing import IGNORED, PADDING, Batch
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "speech_encoder"
REVISION = 1

CROP = 6000  # frames of 10 ms: a minute
FRAME_SECONDS = 0.01


class Settings(fit.Steps):
    """What learns, from which labels.

    Attributes:
        books, codes: softmaxes, and labels of each (paper: 16 of 8,192).
        dev: dev sounds that the result is judged on.
        augment: changes sounds; spans are masked in any case, so none is the default.
    """

    encoder: EncoderShape = EncoderShape()
    books: PositiveInt = 4
    codes: PositiveInt = 256
    augment: Augmentation | None = None
    dev: NonNegativeInt = 100

    def quantizer(self) -> QuantizerConfig:
        """The labels."""
        return QuantizerConfig(books=self.books, codes=self.codes)


class Clips:
    """Sounds by number, with their frames counted once and the counts kept in a file for a resumed run."""

    def __init__(self, sounds: Sequence[tuple[Medium, Path]], recordings: Recordings, scratch: Path):
        self.sounds, self.recordings = sounds, recordings
        scratch.mkdir(parents=True, exist_ok=True)
        path = scratch / "frames.bin"
        there = path.is_file() and path.stat().st_size == 4 * len(sounds)
        self._frames = np.memmap(path, np.int32, "r+" if there else "w+", shape=(len(sounds),)) if len(sounds) else np.zeros(0)

    def seconds(self, i: int) -> float:
        """Seconds of a sound as it is read, a minute at most."""
        if not self._frames[i]:
            self._frames[i] = self.recordings.count(*self.sounds[i])
        return min(int(self._frames[i]), CROP) * FRAME_SECONDS


@dataclass
class ClipBatches:
    """Masked batches of sounds as a pure function of the step, as `puna.speech.sound_rows.SoundBatches` are of dialogs."""

    clips: Clips
    buckets: DurationBuckets
    encoder: SpeechConfig
    quantizer: QuantizerConfig
    shape: SoundShape
    augment: Augmentation | None
    seed: int
    rank: int = 0
    world: int = 1
    micro_rows: int | None = None

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step` for this rank, as many as on every other."""
        parts = share_of(self.buckets(step), self.rank, self.world, self.micro_rows)
        return [masked_batch([self._drawn(step, *one) for one in part], self.encoder, self.quantizer) for part in parts]

    def _drawn(self, step: int, place: int, i: int) -> tuple[Tensor, np.random.Generator]:
        rng = numpy_stream(self.seed, "clip", step, place)
        frames_FM = changed_frames(self.clips.recordings, *self.clips.sounds[i], self.shape, self.augment, rng)
        start = int(rng.integers(max(1, len(frames_FM) - CROP + 1)))
        return frames_FM[start : start + CROP], rng


def masked_batch(drawn: Sequence[tuple[Tensor, np.random.Generator]], encoder: SpeechConfig, quantizer: QuantizerConfig) -> Batch:
    """What `BestRQ` reads: recordings [F, M], each with spans masked and noise drawn by a generator of its own.

    Positions of the batch are stacked frames, so that what is read is counted. Without recordings it holds one stack of silence
    and no mask, which computes nothing but takes part.
    """
    clips = [frames_FM for frames_FM, _ in drawn] or [torch.zeros(encoder.stack, encoder.channels)]
    positions = [encoder.positions(len(frames_FM)) for frames_FM in clips]
    shape = len(clips), max(positions)
    masked_BS = torch.zeros(shape, dtype=torch.bool)
    noise_BSF = torch.zeros(*shape, encoder.channels * encoder.stack)
    documents_BS = torch.full(shape, PADDING)
    for row, (_, rng) in enumerate(drawn):
        count = positions[row]
        documents_BS[row, :count] = row
        masked_BS[row, :count] = torch.from_numpy(masked_positions(count, quantizer, encoder, rng))
        noise_BSF[row, :count] = torch.from_numpy(rng.standard_normal((count, noise_BSF.shape[-1]), np.float32)) * NOISE
    extra = {
        "frames_BTM": pad_sequence(clips, batch_first=True), "frames_B": torch.tensor([len(clip) for clip in clips]),
        "masked_BS": masked_BS, "noise_BSF": noise_BSF,
    }  # fmt: skip
    zeros = torch.zeros(shape, dtype=torch.int64)
    return Batch(zeros, torch.full(shape, IGNORED), zeros, documents_BS, extra=extra)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train an encoder on the sounds of the `sounds` inputs."""
    return spread.on_ranks(_train, settings, ctx, rows=settings.batch_rows)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    sounds, recordings = fit.sounds_of(ctx), fit.recordings_for(settings)
    found = fit.heard_in(sounds, "train", Dialog)
    shape, config, rules = fit.shape_of(found, recordings, settings, ctx), settings.encoder.config(), settings.quantizer()
    encoder = SpeechEncoder(config)
    encoder.init_weights(torch.Generator().manual_seed(ctx.stream_seed("weights")))
    model = BestRQ(encoder, rules, ctx.stream_seed("labels"))
    seed = derive_seed(ctx.seed, "speech", settings.seed_offset)
    clips = Clips(found, recordings, ctx.scratch / f"clips{World.current().process or ''}")
    buckets = DurationBuckets(
        clips.seconds, len(found), seed, rows=settings.batch_rows, most_seconds=settings.batch_seconds, window=settings.window
    )
    batches = ClipBatches(
        clips, buckets, config, rules, shape, settings.augment, seed, micro_rows=settings.micro_rows, **spread.share()
    )
    held = fit.heard_in(sounds, "dev", Task)[: settings.dev]
    before = _judged(model, held, recordings, shape, seed)
    result = optimise(model, MultiSoftmax(), batches, settings.steps, settings, ctx)
    after = _judged(model.cpu(), held, recordings, shape, seed)
    if World.current().process == 0:
        save_encoder(TrainedEncoder(model.encoder, shape), ctx.out)
        checkpoints.write_ancestors(ctx, [])
    return {
        "parameters": sum(weight.numel() for weight in encoder.parameters()),
        "sounds": len(found),
        "steps": result.steps,
        "positions": result.tokens,
        "first_loss": result.first_loss,
        "loss": result.loss,
        "dev": {"sounds": len(held), "before": before, "after": after, "guess": 1 / settings.codes},
    }


@torch.no_grad()
def _judged(
    model: BestRQ, held: Sequence[tuple[Medium, Path]], recordings: Recordings, shape: SoundShape, seed: int
) -> dict[str, float]:
    """Loss and share of labels told right on held-out sounds, under masks that do not change; empty without any."""
    objective, totals, masked = MultiSoftmax(), {"loss": 0.0, "label_accuracy": 0.0}, 0.0
    model.eval()
    for place, (medium, root) in enumerate(held):
        rng = numpy_stream(seed, "held", place)
        frames_FM = changed_frames(recordings, medium, root, shape, None, rng)[:CROP]
        batch = beside(model, masked_batch([(frames_FM, rng)], model.encoder.config, model.rules))
        terms, others = objective.sums(model, batch)
        masked += objective.counts(batch)["bestrq"]
        totals["loss"] += float(terms["bestrq"])
        totals["label_accuracy"] += float(others["label_accuracy"])
    return {name: round(total / masked, 6) for name, total in totals.items()} if masked else {}
