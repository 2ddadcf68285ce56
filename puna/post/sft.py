"""Supervised fine-tuning: cross-entropy on what the assistant says, always from the pre-trained checkpoint (section 4.1.3).

Each round starts again from the base and not from the last chat model, with the gold dialogs and every verified answer
collected so far. The first model input is that base. Dialogs are packed with document masks; over-long ones are counted, never
cut. Run on gold alone for as many steps, this same stage is the control that rejection sampling and distillation must beat.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from puna.core.rng import derive_seed
from puna.core.settings import execution
from puna.core.stage import Artifact, StageContext
from puna.model.llama import Llama
from puna.post import checkpoints, lora, spread
from puna.post.dialog_store import DialogStore, Mixed, longest_of
from puna.post.examples import Left, row_length
from puna.post.gate import Verdict, open_judge, write_verdict
from puna.post.lora import Lora
from puna.tokenizer.bpe import Tokenizer
from puna.train.loop import TrainResult, train
from puna.train.objectives import CrossEntropy, Objective
from puna.train.optim import OptimSettings
from puna.train.packing import DialogBatches, dialog_batches
from puna.train.parallel.layout import Products
from puna.train.schedule import LearningRate, Schedule
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes
    from puna.train.parallel.placed import Placed

KIND = "model"
REVISION = 2

STREAMED_BYTES = 4 << 20  # of rows; as many are encoded in a second or two
AXES = ("tp", "cp", "recompute", "compile")  # in which a whole model is laid out, besides `dp`
LARGEST, EVENLY = 64, 256  # rows that are looked at for the row length where more are to be read

Part = Literal["gold", "samples"]


class Settings(spread.Settings):
    """How long and on what.

    Attributes:
        length: tokens of a packed row; None is the shortest power of two times 128 that holds the longest dialog.
        mix: copies of each part per epoch (section 4.2.3: good sources are repeated), e.g. {gold: 2, samples: 1}.
        samples: "accepted" takes verified answers, "raw" unchecked first ones (as a contrast), "none" gold only.
        seed_offset: another order of the same data, for variants to average.
        variant: a label for the report.
        micro_rows: rows of a forward pass (None: all of a step that a process has).
        dev: dev tasks that judge the result; max_tokens: longest answer.
        lora: train adapters alone (`puna.post.lora`); the result is measured merged.
        precision: of the products of training.
    """

    steps: int = Field(200, ge=1)
    lr: NonNegativeFloat = 2e-3
    weight_decay: NonNegativeFloat = 0.1
    warmup: NonNegativeFloat = 5
    batch_tokens: PositiveInt = 1024
    length: PositiveInt | None = None
    micro_rows: PositiveInt | None = None
    mix: dict[Part, NonNegativeInt] = {"gold": 1, "samples": 1}
    samples: Literal["accepted", "raw", "none"] = "accepted"
    seed_offset: int = 0
    variant: str = ""
    dev: PositiveInt = 500
    max_tokens: int = Field(64, ge=1)
    lora: Lora | None = None
    precision: Products = "fp32"
    log_every: PositiveInt = 10
    checkpoint_seconds: NonNegativeFloat = execution(20.0)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Fine-tune the first model input on gold dialogs and pooled samples; report dev accuracy."""
    return spread.on_ranks(_train, settings, ctx, axes=() if settings.lora else AXES)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    base, tasks = ctx.inputs.all("model")[:1] or [ctx.inputs.one("model")], ctx.inputs.one("tasks")
    model, tokenizer = lora.load(base[0], settings.lora, ctx)
    pool = Pool(settings, ctx, tokenizer, model.config.max_seq_len, base[0], tasks)
    if not pool.examples:
        return untrained(base[0], settings, ctx)
    model, result = fit(model, CrossEntropy(), pool.batches(settings, ctx), settings, ctx, meshes)
    model = lora.finished(model, base[0], settings.lora, ctx).to(settings.device)
    return finish(model, tokenizer, result, pool, settings, ctx)


class Pool:
    """The dialogs a stage learns from, as packed examples with counts of where they came from and what was left out.

    Up to STREAMED_BYTES of rows are encoded before the first step. Of more, a row is encoded when it is drawn, so the first step
    comes at once and memory stays as it is; the row length is then that of the longest among the largest rows and a sample.
    """

    def __init__(self, settings: Settings, ctx: StageContext, tokenizer: Tokenizer, limit: int, base: Artifact, tasks: Artifact):
        self.settings = settings
        files = [tasks.path / "train.jsonl", *_sampled(settings, ctx, base)]
        own = f"dialogs-{World.current().process}" if World.current().process else "dialogs"
        self.store = DialogStore(
            tokenizer, files, limit if settings.length is None else min(limit, settings.length), ctx.scratch / own
        )
        self.parts: dict[Part, np.ndarray] = {
            "gold": self.store.rows_of(slice(0, 1)),
            "samples": self.store.rows_of(slice(1, len(files))),
        }
        self.streams = self.store.bytes > STREAMED_BYTES
        looked = largest_and_some(self.store) if self.streams else range(len(self.store))
        longest = longest_of(self.store, looked)
        if not longest and any(map(self.store.tokens, range(len(self.store)))):
            longest = self.store.limit  # one row fits, and how long the others are is not known
        self.streams = self.streams and longest > 0  # where nothing fits, all has been read by now
        self.length = min(limit, settings.length or row_length(longest, limit))
        self.examples = Mixed(self.store, self._mixed(), self.length)
        if not self.streams:
            self.note_left(ctx)

    def _mixed(self) -> np.ndarray:
        """Numbers of the rows of one epoch: of what is read before, only those that are not left out."""
        copies = []
        for part, rows in self.parts.items():
            kept = rows if self.streams else rows[[bool(self.store.tokens(int(row))) for row in rows]]
            copies += [kept] * self.settings.mix.get(part, 1)
        return np.concatenate([np.zeros(0, np.int32), *copies])

    def left(self, part: Part) -> Left:
        """What is known to be left out of a part."""
        return self.store.left(self.parts[part], self.length)

    def note_left(self, ctx: StageContext) -> None:
        """Tell the user what was left out, by part."""
        for part, rows in self.parts.items():
            left = self.left(part)
            if left.overlong or left.empty:
                ctx.note(f"{part}: {left.text(len(rows), self.length if self.streams else self.store.limit)}")

    def counts(self) -> dict[str, int]:
        """Dialogs of each part that are not left out."""
        lefts = {part: self.left(part) for part in self.parts}
        return {part: len(rows) - lefts[part].overlong - lefts[part].empty for part, rows in self.parts.items()}

    def summary(self) -> dict[str, Any]:
        """Counts for the stage's summary; where rows are read when drawn also how many were."""
        found = {"dialogs": self.counts(), "overlong": sum(self.left(part).overlong for part in self.parts)}
        every = np.arange(len(self.store))
        return {**found, **({"dialogs_read": self.store.known(every)} if self.streams else {})}

    def batches(self, settings: Settings, ctx: StageContext) -> DialogBatches:
        """Packed batches of this process as a pure function of the step."""
        if settings.batch_tokens < self.length:
            ctx.note(f"a step reads one row of {self.length} tokens, though batch_tokens is {settings.batch_tokens}")
        tokens, seed = max(settings.batch_tokens, self.length), batch_seed(settings, ctx)
        return dialog_batches(self.examples, self.length, tokens, seed, micro_rows=settings.micro_rows, **spread.share())


def largest_and_some(store: DialogStore) -> np.ndarray:
    """The rows of most bytes, and others evenly spaced: among them is the longest dialog, or one nearly as long."""
    largest = np.argsort(-store.sizes(), kind="stable")[:LARGEST]
    return np.concatenate([largest, np.linspace(0, len(store) - 1, EVENLY).astype(np.int64)])


def batch_seed(settings: Settings, ctx: StageContext) -> int:
    """Seed of the data order: the run's and the offset's, not the stage's name, so that a control sees gold in the same order."""
    return derive_seed(ctx.seed, "post.sft", settings.seed_offset)


def _sampled(settings: Settings, ctx: StageContext, base: Artifact) -> list[Path]:
    """Files of every samples input; unchecked dialogs only if they are another model's."""
    if settings.samples == "none":
        return []
    found = []
    for samples in ctx.inputs.all("samples"):
        if settings.samples == "raw":
            checkpoints.refuse_own_text(base, checkpoints.policy_ancestors(samples), f"{ctx.name}, samples of {samples.name}")
        found.append(samples.path / f"{settings.samples}.jsonl")
    return found


def fit(
    model: Llama, objective: Objective, batches: DialogBatches, settings: Settings, ctx: StageContext,
    meshes: Meshes | None = None,
) -> tuple[Llama, TrainResult]:  # fmt: skip
    """The loop with this stage's schedule and optimiser; the trained model comes back whole, adapters on it."""
    placed: Llama | Placed = spread.laid_out(model, None if settings.lora else meshes, settings)
    schedule = Schedule(steps=settings.steps, lr=LearningRate(shape="wsd", warmup=settings.warmup, decay=0.3, final=0.03))
    optim = OptimSettings(name="adamw", lr=settings.lr, weight_decay=settings.weight_decay)
    result = train(
        placed,
        objective,
        batches,
        schedule,
        optim,
        ctx,
        log_every=settings.log_every,
        checkpoint_seconds=settings.checkpoint_seconds,
        device=settings.device,
        precision=settings.precision,
    )
    return spread.gathered(placed, settings.device), result


def finish(
    model: Llama, tokenizer: Tokenizer, result: TrainResult, pool: Pool, settings: Settings, ctx: StageContext
) -> dict[str, Any]:
    """Judge, save and sum up."""
    verdict = open_judge(ctx.inputs.one("tasks"), tokenizer, limit=settings.dev, max_tokens=settings.max_tokens)(model.eval())
    write_verdict(verdict, ctx.out)
    checkpoints.save(model, tokenizer, ctx, ctx.inputs.all("model"))
    _note(verdict, ctx)
    if pool.streams:
        pool.note_left(ctx)
    return {
        "steps": result.steps,
        "tokens": result.tokens,
        "epochs": round(result.tokens / pool.examples.tokens(), 2),
        "first_loss": result.first_loss,
        "loss": result.loss,
        **pool.summary(),
        "row_length": pool.length,
        "variant": settings.variant,
        "products": result.products,
        "dev": verdict.summary(),
    }


def _note(verdict: Verdict, ctx: StageContext) -> None:
    if verdict.measure != "accuracy":
        ctx.note(f"no dev task can be verified: {verdict.text()} is what this model is judged by")


def untrained(base: Artifact, settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Nothing fits: the base goes on, judged all the same so that later gates have a verdict."""
    found = pass_on(base, "no dialog to learn from fits the model", ctx)
    model, tokenizer = checkpoints.load(base)
    judge = open_judge(ctx.inputs.one("tasks"), tokenizer, limit=settings.dev, max_tokens=settings.max_tokens)
    verdict = judge(model.to(settings.device))
    write_verdict(verdict, ctx.out)
    return {**found, "dev": verdict.summary()}


def pass_on(base: Artifact, reason: str, ctx: StageContext) -> dict[str, Any]:
    """Hand the input on unchanged, saying why; a later stage can still run and the report shows what happened."""
    ctx.note(f"{reason}: {base.name} is handed on unchanged")
    checkpoints.carry(base, ctx)
    return {"skipped": reason, "model": base.name}
