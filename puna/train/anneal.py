"""Annealing (section 3.4.3): the learning rate falls linearly to zero on a mix that up-samples the best sources, and the final
model is the Polyak average of checkpoints taken along the way.

The paper does not say how many checkpoints it averages, nor how much that gave. Here both candidates, the last weights and the
average, are measured on held-out text, the better one is written, and the summary says which it was.

The paper anneals at the whole 128K context. A tiny model learns most from short rows, and forgets the long ones within a few
hundred of them, so `needles` spends a share of the tokens on needle rows of the whole context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import NonNegativeFloat, PositiveInt, model_validator

from puna.core.settings import Settings as BaseSettings
from puna.core.settings import Share, execution
from puna.core.stage import StageContext
from puna.train.corpus import held_losses, open_corpus
from puna.train.long_context import Needles, needle_rows
from puna.train.loop import train
from puna.train.objectives import CrossEntropy
from puna.train.optim import OptimSettings
from puna.train.packing import Batch, Batches
from puna.train.parallel.layout import Layout, Precision
from puna.train.pretrain import Watcher, Watching, load_for, placed, training_summary, write_model
from puna.train.ranks import on_ranks
from puna.train.recall import NeedleRows
from puna.train.schedule import Batching, LearningRate, Schedule, check_rows
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "model"
REVISION = 4


class Settings(BaseSettings):
    """Settings of `train.anneal`.

    `seq_len` None keeps the model's whole context, as the paper does; `mix` None takes the corpus's `anneal_mix`. With `average`,
    the weights after every `average_every` steps (None: a twentieth of them) enter the mean, once the fraction `average_from` of
    the phase is over: earlier weights are still far from the end in a phase this short. `needles` adds rows of the model's whole
    context, `share` of `batch_tokens` on average.
    """

    steps: PositiveInt
    batch_tokens: PositiveInt = 1024
    seq_len: PositiveInt | None = None
    piece_tokens: PositiveInt | None = None
    mix: dict[str, NonNegativeFloat] | None = None
    optim: OptimSettings = OptimSettings(name="adamw", lr=5e-4)
    lr: LearningRate = LearningRate(shape="linear", warmup=0.02, final=0.0)
    average: bool = True
    average_every: PositiveInt | None = None
    average_from: Share = 0.5
    needles: Needles | None = None
    micro_rows: PositiveInt | None = None
    loss_chunk: PositiveInt | None = None
    precision: Precision = "fp32"
    watch: Watching = Watching()
    parallel: Layout = execution(Layout())

    @model_validator(mode="after")
    def _check(self) -> Settings:
        check_rows(self.batch_tokens, self.seq_len)
        return self


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Anneal the `model` input on the `tokens` input."""
    return on_ranks(_train, settings, ctx)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    corpus = open_corpus(ctx.inputs.one("tokens").path, settings.piece_tokens)
    model = placed(load_for(ctx, corpus), meshes, settings.precision)
    seq_len = settings.seq_len or model.config.max_seq_len
    if settings.batch_tokens < seq_len:
        ctx.note(f"a step reads one row of {seq_len} tokens, the model's context, though batch_tokens is {settings.batch_tokens}")
    mix = settings.mix or corpus.anneal_mix
    schedule = Schedule(
        steps=settings.steps, lr=settings.lr, batching=Batching(batch_tokens=settings.batch_tokens, seq_len=seq_len, mix=mix)
    )
    stream = corpus.stream(schedule, ctx.stream_seed("tokens"), micro_rows=settings.micro_rows)
    watcher = Watcher(corpus, settings.watch, seq_len)
    before = held_losses(model, watcher.batches)
    batches: Batches = stream
    if settings.needles:
        rows = needle_rows(open_corpus(ctx.inputs.one("tokens").path), ctx.stream_seed("needles"), settings.needles)
        batches = WithNeedles(stream, rows, settings.needles.share * settings.batch_tokens, model.config.max_seq_len)
    result = train(
        model, CrossEntropy(settings.loss_chunk, stream.names), batches, schedule, settings.optim, ctx, evaluate=watcher,
        evaluate_every=settings.watch.evaluate_every, log_every=settings.watch.log_every,
        average_every=(settings.average_every or max(1, settings.steps // 20)) if settings.average else 0,
        average_from=int(settings.average_from * settings.steps), checkpoint_seconds=settings.watch.checkpoint_seconds,
        device=settings.watch.device, precision=settings.precision,
        measuring=settings.watch.measuring(),
    )  # fmt: skip
    chosen = choose(model, result.average, watcher.batches)
    if "held_loss_of" in chosen:
        ctx.note(f"annealing: the {chosen['written']} weights were written ({_spoken(chosen['held_loss_of'])})")
    write_model(model, ctx, corpus)
    return training_summary(model, result) | chosen | {"held_loss_before": before.get("held_loss"), "mix": mix}


class WithNeedles:
    """Batches of `stream`, and now and then a needle row of `length` tokens: `tokens` a step on average, over all ranks."""

    def __init__(self, stream: Batches, rows: NeedleRows, tokens: float, length: int):
        self.stream, self.rows, self.length, self.per_step = stream, rows, length, tokens / length
        self.world = World.current()

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step` for this rank."""
        mine = range(int(step * self.per_step), int((step + 1) * self.per_step))
        numbers = [number for number in mine if number % self.world.size == self.world.rank]
        return [*self.stream(step), *(self.rows.batch(step, range(number, number + 1), self.length) for number in numbers)]


def choose(model: Any, average: dict[str, torch.Tensor] | None, batches: dict[str, Any]) -> dict[str, Any]:
    """Leave the better of the model's weights and their average in `model`; say which, and both held-out losses.

    With nothing held out the average is taken, as in the paper.
    """
    last = held_losses(model, batches)
    if average is None:
        return {"written": "last", **last}
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    _copy_weights(model, average)
    mean = held_losses(model, batches)
    better = not last or mean["held_loss"] <= last["held_loss"]
    if not better:
        _copy_weights(model, kept)
    compared = {"last": last.get("held_loss"), "average": mean.get("held_loss")}
    return {"written": "average" if better else "last", "held_loss_of": compared, **(mean if better else last)}


def _copy_weights(model: Any, weights: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


def _spoken(losses: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {'not measured' if loss is None else f'{loss:.4f}'}" for name, loss in losses.items())
