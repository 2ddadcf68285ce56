"""What stages that teach a frozen text model to listen have in common (section 8.3): rows, steps, and what each must show.

Encoder, adapter and the embeddings of the two special tokens learn, the text model never, which is proved. A step is recordings
of like duration. Paper: 650,000 steps of 512 rows at 1e-4 with the 8B model, segments of at most 60 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from puna.core.errors import InputError
from puna.core.rng import derive_seed, numpy_stream
from puna.core.settings import execution
from puna.core.stage import Artifact, StageContext
from puna.post import adapters, checkpoints, spread
from puna.post.adapters import Rates, free, optimise
from puna.post.collect import gold_dialog
from puna.post.examples import Encoded
from puna.post.frozen import FrozenText
from puna.post.gate import Verdict, write_verdict
from puna.speech.augment import Augmentation
from puna.speech.buckets import DurationBuckets
from puna.speech.collate import with_sounds
from puna.speech.features import MelConfig
from puna.speech.files import save_speech
from puna.speech.frames import SoundShape, measured, normalised
from puna.speech.model import SpeechLlama
from puna.speech.recordings import Recordings
from puna.speech.sharded import ShardedEars
from puna.speech.sound_rows import SoundBatches, SoundStore, encode_spoken, form_for
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, Task, media_of, read_rows
from puna.train.objectives import CrossEntropy
from puna.train.packing import stacked
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

PARTS = ("encoder", "adapter", "marks")  # of a model that listens, those that learn
TOGETHER = 32  # dev questions of a forward pass


class Steps(Rates):
    """How long, and on which sounds.

    Attributes:
        batch_rows: recordings of a step over all processes. batch_seconds: of a step, padding counted; longer rows are left out.
        window: steps whose recordings are sorted by duration together.
        micro_rows: rows of a forward pass (None: all of a step that a process has).
        augment: how sounds are changed for training; null leaves them as they are.
        measure: recordings from which mean and deviation of the features are taken.
        seed_offset: another order of the same data, for variants.
    """

    steps: int = Field(600, ge=1)
    lr: float = Field(1.2e-3, ge=0)
    warmup: float = Field(0.1, ge=0)
    batch_rows: PositiveInt = 24
    batch_seconds: PositiveFloat = 240.0
    window: PositiveInt = 16
    micro_rows: PositiveInt | None = None
    augment: Augmentation | None = Augmentation()
    measure: PositiveInt = 400
    seed_offset: int = 0


class Settings(Steps):
    """The same for dialogs.

    Attributes:
        length: longest row in tokens (None: the longest that the text model reads).
        shard: cut the weights over the processes of `parallel` (FSDP) instead of keeping a copy in each.
        dev: dev questions that the result is judged on, 0 for none. variant: a label for the report.
    """

    length: PositiveInt | None = None
    shard: bool = execution(False)
    dev: NonNegativeInt = 200
    variant: str = ""


@dataclass
class Learner:
    """A model that listens, as a stage trains it.

    Attributes:
        frozen: what its text model was known by before.
        parents: the artifacts it is made of.
        sounds: what it learns from.
        recordings: the sounds, decoded.
    """

    model: SpeechLlama
    tokenizer: Tokenizer
    frozen: FrozenText
    parents: list[Artifact]
    sounds: list[Artifact]
    recordings: Recordings


@dataclass(frozen=True)
class Question:
    """A task, its dialog with the worked answer as ids, its sounds and the folder that they lie in."""

    task: Task
    encoded: Encoded
    media: list[Medium]
    root: Path


def sounds_of(ctx: StageContext) -> list[Artifact]:
    """The `sounds` inputs; InputError where there are none."""
    found = ctx.inputs.all("sounds")
    if not found:
        raise InputError(
            "there are no sounds to learn from",
            where=ctx.name,
            fix="name a `sounds` stage under `from`, or give --input sounds=DIR",
        )
    return found


def recordings_for(settings: Steps) -> Recordings:
    """What decodes and keeps the sounds of a stage."""
    return Recordings(MelConfig(), settings.cache_mb << 20, form_for(settings.augment))


def heard_in(sounds: Sequence[Artifact], split: str, kind: type[Dialog] | type[Task]) -> list[tuple[Medium, Path]]:
    """Every sound that the rows of a split name, once, with the folder of its address."""
    found = {
        (artifact.path, medium.url): medium
        for artifact in sounds
        for row in read_rows(artifact.path / f"{split}.jsonl", kind)
        for medium in media_of(row.messages if isinstance(row, Dialog) else row.prompt)
        if medium.kind == "audio"
    }
    return [(medium, root) for (root, _), medium in found.items()]


def shape_of(sounds: Sequence[tuple[Medium, Path]], recordings: Recordings, settings: Steps, ctx: StageContext) -> SoundShape:
    """Mean and deviation of the features of some of these sounds, drawn by the stage's seed."""
    drawn = numpy_stream(ctx.stream_seed("measure"), "sounds").permutation(len(sounds))[: settings.measure]
    return measured((recordings.frames(*sounds[i]) for i in drawn), recordings.mel)


def fit(learner: Learner, settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    """Train a model on the train rows, judge it, prove that its text is as it was, and write it."""
    model = learner.model
    limit = min(settings.length or model.config.max_seq_len, model.config.max_seq_len)
    rows = store_of(learner, limit, ctx.scratch / f"rows{World.current().process or ''}")
    seed = derive_seed(ctx.seed, "speech", settings.seed_offset)
    buckets = DurationBuckets(
        rows.seconds, len(rows), seed, rows=settings.batch_rows, most_seconds=settings.batch_seconds, window=settings.window
    )
    batches = SoundBatches(rows, buckets, model.sound, settings.augment, seed, micro_rows=settings.micro_rows, **spread.share())
    free(model, settings.learning(PARTS))
    place = ShardedEars(model, meshes, settings.precision) if settings.shard and meshes is not None else model
    result = optimise(place, CrossEntropy(), batches, settings.steps, settings, ctx)
    if isinstance(place, ShardedEars):
        learner.model = place.copy().to(settings.device)
    left = rows.left_out(settings.batch_seconds)
    if any(vars(left).values()):
        ctx.note(left.text(len(rows), limit))
    asked = questions(learner, limit, settings.dev)
    return {
        "rows": len(rows),
        "left": vars(left),
        "variant": settings.variant,
        "steps": result.steps,
        "tokens": result.tokens,
        "first_loss": result.first_loss,
        "loss": result.loss,
        "products": result.products,
        **finish(learner, judged(learner, asked), ctx),
    }


def store_of(learner: Learner, limit: int, scratch: Path) -> SoundStore:
    """The train rows of the learner's sounds."""
    files = [artifact.path / "train.jsonl" for artifact in learner.sounds]
    return SoundStore(learner.tokenizer, files, limit, scratch, recordings=learner.recordings, tokens_of=learner.model.tokens_of)


def questions(learner: Learner, limit: int, most: int) -> list[Question]:
    """The first `most` dev tasks of all sounds that have a worked answer, sounds alone as media, and at most `limit` tokens."""
    found = (
        Question(task, encoded, media_of(task.prompt), artifact.path)
        for artifact in learner.sounds
        for task in read_rows(artifact.path / "dev.jsonl", Task)
        if (dialog := gold_dialog(task)) is not None
        and any((encoded := encode_spoken(learner.tokenizer, dialog, artifact.path, learner.recordings,
                                          learner.model.tokens_of)).loss_mask)
        and len(encoded.ids) <= limit
    )  # fmt: skip
    return list(islice(found, most))


def judged(learner: Learner, asked: Sequence[Question]) -> Verdict:
    """The share of these questions whose worked answer the model gives word for word (`puna.post.adapters.told`)."""
    return adapters.judged(learner.model, asked, [question.task for question in asked], lambda mine: _passed(learner, mine))


def _passed(learner: Learner, asked: Sequence[Question]) -> list[bool]:
    found: list[bool] = []
    for start in range(0, len(asked), TOGETHER):
        part = asked[start : start + TOGETHER]
        batch = stacked([(q.encoded.ids, q.encoded.loss_mask) for q in part], max(len(q.encoded.ids) for q in part))
        clips = [
            normalised(learner.recordings.frames(medium, question.root), learner.model.sound)
            for question in part
            for medium in question.media
        ]
        found += adapters.told(learner.model, with_sounds(batch, clips), len(part))
    return found


def finish(learner: Learner, verdict: Verdict, ctx: StageContext) -> dict[str, Any]:
    """Prove that the text model is as it was, then write the model and its verdict, from process 0.

    The proof is asked where the fingerprint was taken, on the CPU: another device rounds logits otherwise.
    """
    model = learner.model.cpu().eval()
    proof = learner.frozen.check(model.text, model, ctx)
    if World.current().process == 0:
        write_verdict(verdict, ctx.out)
        save_speech(model, ctx.out, tokenizer=learner.tokenizer)
        checkpoints.write_ancestors(ctx, learner.parents)
    return {"dev": verdict.summary(), "frozen_text": proof}
