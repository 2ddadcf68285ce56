"""Long context (section 3.4.2): continued pre-training in stages of growing length, each left only when short text has recovered
and the needle is found at the new length.

The paper takes six stages from 8K to 128K over about 800B tokens and gives no RoPE change; the release stretches its low
frequencies (`rope_scaling`), so both are settings. A stage that does not pass goes on for `patience` more rounds of steps and is
then recorded as not passed: the gate informs, it does not hide.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from puna.core.errors import InputError, RunError
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import Share, execution
from puna.core.stage import StageContext
from puna.model.config import RopeScaling
from puna.model.llama import Llama
from puna.train.corpus import Corpus, held_losses, open_corpus
from puna.train.loop import train
from puna.train.objectives import CrossEntropy
from puna.train.optim import Optimizer, OptimSettings
from puna.train.packing import Batch, empty_batch
from puna.train.parallel.layout import Layout, Precision
from puna.train.pretrain import Watching, load_for, placed, write_model
from puna.train.ranks import on_ranks
from puna.train.recall import NeedleRows, needle_accuracy
from puna.train.schedule import Batching, LearningRate, Schedule, check_rows
from puna.train.stream import TokenStream
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes
    from puna.train.parallel.placed import Placed

KIND = "model"
REVISION = 3


class Scaling(BaseSettings):
    """Llama 3.1's RoPE scaling; `original` None is the context the model was trained with."""

    factor: float = Field(default=8.0, ge=1)
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    original: PositiveInt | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Scaling:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("low_freq_factor is less than high_freq_factor")
        return self


class Needles(BaseSettings):
    """Needle rows: their share of all rows, entries and questions per row, weights of an answer and of
    the text around it; entries and rows of the test."""

    share: Share = 0.5
    pairs: PositiveInt = 8
    queries: PositiveInt = 8
    answer_weight: NonNegativeFloat = 4.0
    filler_weight: NonNegativeFloat = 1.0
    test_pairs: PositiveInt = 4
    test_rows: PositiveInt = 100

    @model_validator(mode="after")
    def _asked_of_what_is_there(self) -> Needles:
        if self.queries > self.pairs:
            raise ValueError(f"queries {self.queries} is more than pairs {self.pairs}")
        return self


class Gate(BaseSettings):
    """What a stage must show: needle accuracy, and a held-out loss at the old length of at most (1 + tolerance) x the start's.

    A stage that does not, after `patience` rounds of `round_steps` more steps, ends the run if `required`; else a note says so.
    """

    needle: Share = 0.9
    short_tolerance: NonNegativeFloat = 0.05
    patience: NonNegativeInt = 0
    round_steps: PositiveInt = 20
    required: bool = False


class Settings(BaseSettings):
    """Settings of `train.long_context`: `stages` are row lengths, `steps` those of each stage (one number: of every stage)."""

    stages: tuple[PositiveInt, ...]
    steps: PositiveInt | tuple[PositiveInt, ...] = 55
    batch_tokens: PositiveInt = 4096
    rope_scaling: Scaling | None = Scaling()
    mix: dict[str, NonNegativeFloat] | None = None
    needles: Needles = Needles()
    gate: Gate = Gate()
    optim: OptimSettings = OptimSettings(name="muon", lr=4e-3)
    lr: LearningRate = LearningRate(shape="linear", warmup=10, final=0.1)
    micro_rows: PositiveInt | None = None
    loss_chunk: PositiveInt | None = None
    precision: Precision = "fp32"
    watch: Watching = Watching()
    parallel: Layout = execution(Layout())

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if not self.stages or list(self.stages) != sorted(set(self.stages)):
            raise ValueError("stages must be growing row lengths, such as [256, 512]")
        if isinstance(self.steps, tuple) and len(self.steps) != len(self.stages):
            raise ValueError("give one number of steps, or one per stage")
        check_rows(self.batch_tokens, self.stages[-1])
        return self

    def stage_steps(self) -> list[int]:
        """Steps of each stage."""
        return list(self.steps) if isinstance(self.steps, tuple) else [self.steps] * len(self.stages)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Lengthen the context of the `model` input on the `tokens` input."""
    return on_ranks(_train, settings, ctx)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    corpus = open_corpus(ctx.inputs.one("tokens").path)
    old = load_for(ctx, corpus)
    short = old.config.max_seq_len
    if settings.stages[0] < short:
        raise InputError(
            f"a stage of {settings.stages[0]} tokens is shorter than the model's {short}",
            where="stages",
            fix="begin `stages` at the model's own length",
        )
    model = placed(lengthened(old, settings.stages[-1], settings.rope_scaling), meshes, settings.precision)
    lengths = [short, *settings.stages]
    watcher = LongWatcher(corpus, settings, ctx.stream_seed("needle-test"), short)
    before = watcher.needle_map(old, lengths)
    scaled = watcher.needle_map(model, lengths) if settings.rope_scaling else before
    start = held_losses(old, watcher.short).get("held_loss")
    stages = _train_stages(settings, ctx, corpus, model, watcher, start)
    write_model(model, ctx, corpus)
    return {
        "parameters": model.config.parameters(), "max_seq_len": settings.stages[-1], "stages": stages,
        "steps": sum(s["steps"] for s in stages), "tokens": sum(s["tokens"] for s in stages),
        "needle_rows": settings.needles.test_rows, "needle_before": before, "needle_scaled_untrained": scaled,
        "needle_after": watcher.needle_map(model, lengths), "short_loss_before": start,
        "short_loss_after": held_losses(model, watcher.short).get("held_loss"),
    }  # fmt: skip


def lengthened(model: Llama, max_seq_len: int, scaling: Scaling | None) -> Llama:
    """The same weights under a longer context and the given RoPE scaling (None keeps the rotation as it is)."""
    rope = model.config.rope_scaling
    if scaling is not None:
        rope = RopeScaling(scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor,
                           scaling.original or model.config.max_seq_len)  # fmt: skip
    longer = Llama(replace(model.config, max_seq_len=max_seq_len, rope_scaling=rope), seed=None)
    longer.load_state_dict(model.state_dict())
    return longer


class LongBatches:
    """Each step: needle rows in one micro-batch, ordinary long rows in others. Pure in the step, like what it is made of."""

    def __init__(self, settings: Settings, ctx: StageContext, corpus: Corpus, seq_len: int, part: str, steps: int):
        rows = max(1, settings.batch_tokens // seq_len)
        self.needle_rows = min(rows, max(1, round(settings.needles.share * rows))) if settings.needles.share > 0 else 0
        self.seq_len, self.world, self.micro = seq_len, World.current(), settings.micro_rows
        self.needles = needle_rows(corpus, ctx.stream_seed("needles", part), settings.needles)
        self.plain: TokenStream | None = None
        if rows > self.needle_rows:
            tokens = (rows - self.needle_rows) * seq_len
            batching = Batching(batch_tokens=tokens, seq_len=seq_len, mix=settings.mix or corpus.long_mix)
            schedule = Schedule(steps=steps, batching=batching)
            self.plain = corpus.stream(schedule, ctx.stream_seed("tokens", part), micro_rows=settings.micro_rows)

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step` for this rank."""
        rank, size, rows = self.world.rank, self.world.size, self.needle_rows
        mine = range(rows * rank // size, rows * (rank + 1) // size)
        micro = self.micro or max(1, rows)
        parts = [mine[i : i + micro] for i in range(0, len(mine), micro)]
        found = [self.needles.batch(step, part, self.seq_len) for part in parts]
        found += self.plain(step) if self.plain else []
        return found or [empty_batch(1, self.seq_len)]


def needle_rows(corpus: Corpus, seed: int, needles: Needles) -> NeedleRows:
    """The training rows these settings describe."""
    return NeedleRows(corpus, seed, needles.pairs, needles.queries, needles.answer_weight, needles.filler_weight)


class LongWatcher:
    """What a stage is judged by: held-out loss at the old length, and needle accuracy."""

    def __init__(self, corpus: Corpus, settings: Settings, seed: int, short: int):
        self.corpus, self.needles, self.seed = corpus, settings.needles, seed
        self.short = corpus.held_batches(short, settings.watch.held_rows)

    def needle(self, model: Any, length: int) -> float:
        """Needle accuracy at one length."""
        return needle_accuracy(model, self.corpus, length, self.needles.test_rows, self.seed, self.needles.test_pairs)

    def needle_map(self, model: Any, lengths: list[int]) -> dict[str, float]:
        """Needle accuracy by length."""
        return {str(length): self.needle(model, length) for length in lengths}

    def at(self, length: int) -> Any:
        """The loop's evaluation for a stage of this length."""
        return lambda model, step: {**held_losses(model, self.short), "seq_len": length, "needle": self.needle(model, length)}


def _train_stages(
    settings: Settings, ctx: StageContext, corpus: Corpus, model: Llama | Placed, watcher: LongWatcher, start: float | None
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    optimizer: Optimizer | None = None
    steps = settings.stage_steps()
    for i, seq_len in enumerate(settings.stages):
        before = watcher.needle(model, seq_len)
        curve = Schedule(steps=steps[i], lr=settings.lr, first=sum(steps[:i]), of=sum(steps))
        optimizer, last, tokens = _part(settings, ctx, corpus, model, watcher, optimizer, seq_len, str(seq_len), curve, 1.0)
        extra = 0
        while not _passed(settings.gate, last, start) and extra < settings.gate.patience:
            extra += 1
            more = Schedule(steps=settings.gate.round_steps, lr=LearningRate(shape="constant", warmup=0))
            factor = curve.lr_factor(steps[i] - 1)
            part = f"{seq_len}-more{extra}"
            optimizer, last, read = _part(settings, ctx, corpus, model, watcher, optimizer, seq_len, part, more, factor)
            tokens += read
        passed = _passed(settings.gate, last, start)
        if not passed:
            _missed(settings.gate, ctx, seq_len, last, start)
        found.append({
            "seq_len": seq_len, "steps": steps[i] + extra * settings.gate.round_steps, "extra_rounds": extra, "tokens": tokens,
            "needle_before": before, "needle_after": last["needle"], "short_loss_after": last.get("held_loss"), "passed": passed,
        })  # fmt: skip
    return found


def _missed(gate: Gate, ctx: StageContext, seq_len: int, last: dict[str, Any], start: float | None) -> None:
    """Say that a gate was not passed, and end there if it is required."""
    figures = f"needle {last['needle']:.2f}, goal {gate.needle:.2f}; short loss {last.get('held_loss')}, at the start {start}"
    if gate.required:
        raise RunError(f"context of {seq_len} did not pass its gate ({figures})", where=ctx.name,
                       fix="give this stage more steps or gate.patience, or set gate.required=false")  # fmt: skip
    ctx.note(f"context of {seq_len}: the gate was not passed, going on ({figures})")


def _part(
    settings: Settings, ctx: StageContext, corpus: Corpus, model: Llama | Placed, watcher: LongWatcher,
    optimizer: Optimizer | None, seq_len: int, part: str, schedule: Schedule, factor: float,
) -> tuple[Optimizer, dict[str, Any], int]:  # fmt: skip
    """One call of the loop; returns the optimiser to go on with, the last evaluation, and the tokens read."""
    optim = settings.optim.model_copy(update={"lr": settings.optim.lr * factor})
    batches = LongBatches(settings, ctx, corpus, seq_len, part, schedule.steps)
    streams = batches.plain.names if batches.plain else ()
    result = train(
        model, CrossEntropy(settings.loss_chunk, streams), batches, schedule, optim, ctx, evaluate=watcher.at(seq_len),
        log_every=settings.watch.log_every, name=part, optimizer=optimizer,
        checkpoint_seconds=settings.watch.checkpoint_seconds, device=settings.watch.device, precision=settings.precision,
        measuring=settings.watch.measuring(),
    )  # fmt: skip
    return result.optimizer, [row for row in result.rows if "needle" in row][-1], result.tokens


def _passed(gate: Gate, last: dict[str, Any], start: float | None) -> bool:
    short = last.get("held_loss")
    recovered = start is None or short is None or short <= start * (1 + gate.short_tolerance)
    return recovered and last["needle"] >= gate.needle
