"""Speech out (section 8.3): a text-normalisation tagger and a prosody model learn beside a frozen text model, and without.

Both are trained twice for the same steps on the same batches: with the text model's middle states, and blind, with zeros
in their place. They are judged on sentences
whose words neither has seen, where reading and prosody depend on what kind of thing a word is: of such a word a blind model can
know nothing, so what is measured is how much of its kind the states give away. Paper: 55K samples for the tagger (with states
90.7 % at a look-ahead of 3, without 73.6 %); AdamW at 9e-4 for the prosody model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import nn

from puna.core.rng import python_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.evals.stats import bootstrap, bootstrap_ratio, rate
from puna.post import checkpoints
from puna.speech.out.examples import Example, examples, noise_stream, split_words
from puna.speech.out.files import SpeechOut, save_speech_out
from puna.speech.out.prosody_model import ProsodyModel, ProsodyShape, Speaking, features, prosody_batch, scaled
from puna.speech.out.reading import core
from puna.speech.out.states import Known, MiddleStates
from puna.speech.out.tagger import Tagger, TaggerShape, Tagging, init_weights, tagging_batch
from puna.train.loop import train
from puna.train.objectives import Objective
from puna.train.optim import OptimSettings
from puna.train.packing import Batch, Batches
from puna.train.schedule import LearningRate, Schedule

KIND = "speech_out"
REVISION = 1
VALUE_NAMES = ("log_duration", "log_f0", "log_power")

Arm = Literal["states", "blind"]
ARMS: tuple[Arm, ...] = ("states", "blind")
Collate = Callable[[list[Example], int], Batch]


class Settings(BaseSettings):
    """How the two models learn.

    Attributes:
        sentences: of training; `held` are judged on, with words of their own.
        batch: sentences a step. lr: of the prosody model; `tagger_lr` of the tagger.
        ahead: pieces the tagger waits for. phones_ahead, chunk: how far the prosody model sees, in phones and in pieces.
    """

    sentences: PositiveInt = 1000
    held: PositiveInt = 120
    steps: int = Field(120, ge=1)
    batch: PositiveInt = 24
    lr: NonNegativeFloat = 3e-3
    tagger_lr: NonNegativeFloat = 1e-2
    weight_decay: NonNegativeFloat = 0.01
    dim: PositiveInt = 48
    ahead: NonNegativeInt = 3
    phones_ahead: NonNegativeInt = 6
    chunk: PositiveInt = 3
    log_every: PositiveInt = 25
    checkpoint_seconds: NonNegativeFloat = execution(20.0)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train both models with and without the states of the `model` input, judge them, and write those with."""
    artifact = ctx.inputs.one("model")
    states = MiddleStates(*checkpoints.load(artifact))
    words, held_words = split_words(ctx.seed)
    rows = examples(words, settings.sentences, ctx.seed, "train")
    held = examples(held_words, settings.held, ctx.seed, "held")
    seen = examples(words, settings.held, ctx.seed, "seen")
    trained = {arm: _train(arm, states, rows, settings, ctx) for arm in ARMS}
    save_speech_out(trained["states"], ctx.out)
    checkpoints.write_ancestors(ctx, [artifact])
    return {
        "layer": states.layer,
        "steps": settings.steps,
        "words": {"train": words, "held": held_words},
        "normalisation": _normalisation(trained, held, seen, ctx.seed),
        "prosody": _prosody(trained, held, ctx.seed),
    }


def _known(arm: Arm, states: MiddleStates, rows: Sequence[Example]) -> Known:
    """What the text model knows of sentences, or zeros in its place."""
    known = states.of([row.pieces for row in rows])
    return known if arm == "states" else Known(torch.zeros_like(known.states_BSD), known.pieces_BS)


def _train(arm: Arm, states: MiddleStates, rows: Sequence[Example], settings: Settings, ctx: StageContext) -> SpeechOut:
    tagger = Tagger(TaggerShape(states.dim, settings.dim, ahead=settings.ahead))
    shape = ProsodyShape(states.dim, settings.dim, ffn_dim=2 * settings.dim, ahead=settings.phones_ahead, chunk=settings.chunk)
    prosody = ProsodyModel(shape)
    parts: tuple[tuple[str, nn.Module, Objective, Collate], ...] = (
        ("tagger", tagger, Tagging(), lambda chosen, step: tagging_batch(
            [row.pieces for row in chosen], [row.rules for row in chosen], _known(arm, states, chosen), tagger.shape.buckets)),
        ("prosody", prosody, Speaking(), lambda chosen, step: _heard(chosen, _known(arm, states, chosen), ctx.seed, step)),
    )  # fmt: skip
    for name, model, objective, collate in parts:
        init_weights(model, ctx.stream_seed("weights", name))  # the same for both arms

        def batches(step: int, collate: Collate = collate) -> list[Batch]:
            return [collate(_chosen(rows, settings.batch, ctx.seed, step), step)]

        _fit(f"{name}.{arm}", model, objective, batches, settings.tagger_lr if name == "tagger" else settings.lr, settings, ctx)
    return SpeechOut(states, tagger.eval(), prosody.eval())


def _chosen(rows: Sequence[Example], batch: int, seed: int, step: int) -> list[Example]:
    return python_stream(seed, "spoken batches", step).choices(rows, k=batch)


def _heard(chosen: list[Example], known: Known, seed: int, step: int) -> Batch:
    stream = noise_stream(seed, f"step {step}")
    return prosody_batch([row.phrase.phones for row in chosen], [row.heard(stream) for row in chosen], known)


def _fit(
    name: str, model: nn.Module, objective: Objective, batches: Batches, lr: float, settings: Settings, ctx: StageContext
) -> None:  # fmt: skip
    optim = OptimSettings(lr=lr, weight_decay=settings.weight_decay)
    schedule = Schedule(steps=settings.steps, lr=LearningRate(shape="cosine", warmup=0.05))
    train(model, objective, batches, schedule, optim, ctx, log_every=settings.log_every,
          checkpoint_seconds=settings.checkpoint_seconds, name=name)  # fmt: skip


def _normalisation(trained: dict[Arm, SpeechOut], held: Sequence[Example], seen: Sequence[Example], seed: int) -> dict[str, Any]:
    """Accuracy on the numbers of sentences, whose rule no shape tells: with words held out, and with words of training.

    The interval of the difference draws whole words, since the numbers beside one word are read alike.
    """
    right = {arm: _right(arm, models, held) for arm, models in trained.items()}
    words = sorted({word for word, _ in right["blind"]})
    wins, numbers = [], []
    for word in words:
        own = [
            with_states - blind
            for (at, with_states), (_, blind) in zip(right["states"], right["blind"], strict=True)
            if at == word
        ]
        wins.append(sum(own))
        numbers.append(len(own))
    low, high = bootstrap_ratio(wins, numbers, seed)
    scores: dict[str, Any] = {str(arm): rate(sum(good for _, good in found), len(found)) for arm, found in right.items()}
    known = {arm: _right(arm, models, seen) for arm, models in trained.items()}
    return {
        "ahead": trained["states"].tagger.shape.ahead,
        **scores,
        "seen_words": {arm: rate(sum(good for _, good in found), len(found)) for arm, found in known.items()},
        "difference": {"mean": sum(wins) / sum(numbers), "low": low, "high": high, "words": len(words)},
        "beats_blind": low > 0,
    }


def _right(arm: Arm, models: SpeechOut, rows: Sequence[Example]) -> list[tuple[str, bool]]:
    """For every number: the word it stands beside, and whether its rule was found."""
    found = []
    for row in rows:
        told = models.tagger.rules(row.pieces, _known(arm, models.states, [row]))
        for i, (rule, true) in enumerate(zip(told, row.rules, strict=True)):
            if true != "as_is":
                found.append((core(row.pieces[row.beside(i)]), rule == true))
    return found


def _prosody(trained: dict[Arm, SpeechOut], held: Sequence[Example], seed: int) -> dict[str, Any]:
    """Error of free-running prosody against what was meant, a sentence at a time; intervals by bootstrap over sentences."""
    errors = {arm: _errors(arm, models, held) for arm, models in trained.items()}
    better = (errors["blind"] - errors["states"]).mean(1).tolist()
    low, high = bootstrap(better, seed)
    found: dict[str, Any] = {
        str(arm): {"rmse": float(error.mean()), **{name: float(error[:, i].mean()) for i, name in enumerate(VALUE_NAMES)}}
        for arm, error in errors.items()
    }
    difference = {"mean": sum(better) / len(better), "low": low, "high": high}
    return {"sentences": len(held), **found, "difference": difference, "beats_blind": low > 0}


def _errors(arm: Arm, models: SpeechOut, rows: Sequence[Example]) -> torch.Tensor:
    """Root mean square errors [sentences,3] over the phones of each, in units of `prosody_model.SPREADS`."""
    phones = [row.phrase.phones for row in rows]
    values_BPV = models.prosody.write(features(phones, [0] * len(rows)), _known(arm, models.states, rows))
    pairs = zip(values_BPV, rows, strict=True)
    return torch.stack([(values[: len(row.phrase.phones)] - scaled(row.meant)).square().mean(0).sqrt() for values, row in pairs])
