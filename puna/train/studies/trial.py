"""One arm of a mix study: a small model pre-trained on one mix by the ordinary pre-training stage, and its held-out losses.

Arms of one study start from the same weights and read each group in the same order, so that what differs is the mix.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.plan.flops import training_flops_per_token
from puna.train import pretrain
from puna.train.corpus import Corpus, open_corpus
from puna.train.optim import OptimSettings
from puna.train.pretrain import ModelShape, Watching
from puna.train.schedule import Batching, LearningRate, Schedule, check_rows
from puna.train.studies.rows import in_study, losses, rounded, row_losses, write_rows

KIND = "model"
REVISION = 2

TRIAL_FILE = "trial.json"


class Training(BaseSettings):
    """How the models of a study are trained, the same for all; `held_rows` per group are what they are measured on."""

    batch_tokens: PositiveInt = 1024
    seq_len: PositiveInt = 128
    piece_tokens: PositiveInt | None = None
    optim: OptimSettings = OptimSettings(name="muon", lr=7e-3)
    lr: LearningRate = LearningRate()
    held_rows: PositiveInt = 64

    @model_validator(mode="after")
    def _rows(self) -> Training:
        check_rows(self.batch_tokens, self.seq_len)
        return self


class Settings(Training):
    """One arm.

    Attributes:
        study, replicate: name the random streams.
        mix: weights of the mix, None for the corpus's own. With `rank`, the mix comes from the ranking among the inputs instead:
            0 is its best, 1 what the best is checked against.
    """

    study: str
    replicate: NonNegativeInt = 1
    mix: dict[str, NonNegativeFloat] | None = None
    rank: NonNegativeInt | None = None
    model: ModelShape
    steps: PositiveInt


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train the model, measure it row by row, and write `trial.json` and `held_rows.json` beside its weights."""
    from puna.model.checkpoint import load_model

    name, mix = _mix(settings, ctx)
    shared = in_study(ctx, f"{settings.study}/{settings.replicate}")
    trained = pretrain.run(
        pretrain.Settings(
            model=settings.model, steps=settings.steps, batch_tokens=settings.batch_tokens, seq_len=settings.seq_len,
            piece_tokens=settings.piece_tokens, mix=mix, optim=settings.optim, lr=settings.lr, watch=Watching(evaluate_every=0),
        ),
        shared,
    )  # fmt: skip
    model = load_model(ctx.out)
    corpus = open_corpus(ctx.inputs.one("tokens").path, settings.piece_tokens)
    rows = row_losses(model, corpus.held_batches(settings.seq_len, settings.held_rows))
    write_rows(rows, ctx.out)
    facts = {
        "mix": name, "weights": mix or corpus.mix, "replicate": settings.replicate, "parameters": trained["parameters"],
        "vocab_size": corpus.tokenizer.vocab_size,
        "tokens": trained["tokens"], "flops": training_flops_per_token(model.config, settings.seq_len) * trained["tokens"],
        "epochs": _epochs(settings, corpus, mix, trained["tokens"]),
        "held_loss": {group: rounded(float(losses([rows], {group: 1.0})[0])) for group in rows},
    }  # fmt: skip
    (ctx.out / TRIAL_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return facts


def _epochs(settings: Settings, corpus: Corpus, mix: dict[str, float] | None, tokens: int) -> dict[str, float]:
    """How often each part of the mix was read: repeated data is not worth what fresh data is, so a rank may hang on it."""
    batching = Batching(batch_tokens=settings.batch_tokens, seq_len=settings.seq_len)
    stream = corpus.stream(Schedule(steps=settings.steps, batching=batching), 0, mix)
    shares = stream.segments[0].shares()
    return {name: rounded(tokens * share / stream.groups[name].size) for name, share in shares.items()}


def _mix(settings: Settings, ctx: StageContext) -> tuple[str | None, dict[str, float] | None]:
    """Name and weights of the mix to train on; the name is None where the study's own stage knows it."""
    if settings.rank is None:
        return None, settings.mix
    ranking = json.loads((ctx.inputs.one("ranking").path / "ranking.json").read_text())
    name = ranking["check"][settings.rank]
    return name, ranking["weights"][name]
