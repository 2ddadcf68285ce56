"""A reward model that sees (section 7.6.4): vision parts of a fine-tuned model around the text part of a language reward model.

Encoder and adapters learn, and the head that scores; the text part does not. The loss is that of the language reward model and,
as it runs away less, a weighted mean of the squared scores. The paper gives no weight.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.core.stage import StageContext
from puna.post import adapters, spread
from puna.post.adapters import UNJUDGED
from puna.post.answer_rows import row_tokens
from puna.post.frozen import FrozenText, text_prompts
from puna.post.losses import bradley_terry
from puna.post.pairs import ABSENT, RankedBatches
from puna.post.reward import HEAD_FILE, STATE_FILE, WEIGHED, RewardModel, best_weight, is_held, load_reward
from puna.post.reward_measure import measures, scored_pairs
from puna.train.objectives import beside
from puna.train.packing import Batch
from puna.train.world import World
from puna.vision import fit
from puna.vision.fit import Learner, Part
from puna.vision.gates import Gates
from puna.vision.hf import load_vision
from puna.vision.preferences import Lay, Shows, laid, shown_rows
from puna.vision.rows import Sees
from puna.vision.tile_store import TileStore

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "vision_reward"
REVISION = 1

TOGETHER = 16  # rows of a forward pass when scoring


class Settings(adapters.Rates):
    """What it learns from, and how.

    Attributes:
        sees: whether the rows are about images or about videos; the adapter of the latter is trained too.
        frames: frames of a video that does not say how many.
        square: weight of the mean squared score.
        likelihood: without a language reward model, add a learnt multiple of the answer's log-probability (`puna.model.reward`).
        held: share of prompts kept for measuring. least_pairs: with fewer rows nothing is trained, and the summary says so.
    """

    sees: Sees = "images"
    frames: PositiveInt = 16
    steps: int = Field(100, ge=1)
    pairs_per_step: int = Field(32, ge=1)
    micro_pairs: PositiveInt | None = None
    square: NonNegativeFloat = 0.01
    likelihood: bool = False
    held: float = Field(0.15, ge=0, lt=1)
    least_pairs: NonNegativeInt = 100


class SquaredRanking:
    """Bradley-Terry over ranked answers, and the squares of their scores, as sums and counts."""

    def __init__(self, square: float):
        self.weights = {"ranking": 1.0, "square": square}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Rows; and their answers."""
        answers_PR = batch.extra["answers_PR"]
        rows = float(len(answers_PR))
        return {"ranking": rows, "pair_accuracy": rows, "square": float((answers_PR != ABSENT).sum())}

    def sums(self, model: RewardModel, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Sum of row losses and of squared scores; sum of shares of pairs in the right order."""
        answers_PR, scores_N = batch.extra["answers_PR"], model(batch)
        loss, _, correct = bradley_terry(scores_N[answers_PR.clamp(min=0)], answers_PR != ABSENT)
        return {"ranking": loss, "square": scores_N.square().sum()}, {"pair_accuracy": correct}


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train on the preferences of the `pictures`, from a `vision_model` and, where there is one, a language `reward` model."""
    return spread.on_ranks(_train, settings, ctx, rows=settings.pairs_per_step)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    learner, model = _opened(settings, ctx)
    tiles = fit.tiles_for(learner, settings.frames, settings.cache_mb)
    found = shown_rows(ctx.inputs.all("pictures"), learner.tokenizer, learner.model.config.max_seq_len, settings.sees)
    known = [row for row in found.rows if not is_held(row.key, settings.held)]
    held = [row for row in found.rows if is_held(row.key, settings.held)]
    summary = {"pairs": len(known), "held_pairs": len(held), "weak": found.weak, "left": vars(found.left)}
    skipped = len(known) < max(1, settings.least_pairs)
    if skipped:
        ctx.note(f"only {len(known)} preference pairs ({settings.least_pairs} wanted): the reward model is not trained")
    else:
        summary |= _fit(model, learner, known, tiles, settings, ctx)
        summary |= measures(scored_pairs(held, scores_of(model, held, laid(learner.tokenizer, tiles))))
    proof = fit.finish(learner, UNJUDGED, ctx)
    if World.current().process == 0:
        save_file({name: value.cpu().contiguous() for name, value in model.head.state_dict().items()}, ctx.out / HEAD_FILE)
    (ctx.out / STATE_FILE).write_text(json.dumps({"skipped": skipped}) + "\n")
    return {**summary, "frozen_text": proof["frozen_text"], "gates": proof["gates"], "skipped": skipped}


def _opened(settings: Settings, ctx: StageContext) -> tuple[Learner, RewardModel]:
    """The model that sees, around the text part of the language reward model if there is one, and with its head."""
    learner = fit.opened(ctx, ctx.inputs.one("vision_model"))
    language = ctx.inputs.optional("reward")
    if language is None:
        return learner, RewardModel(learner.model, likelihood=settings.likelihood)
    scorer = load_reward(language.path)
    if scorer is None:
        raise InputError("the language reward model was not trained for want of pairs", where=language.name,
                         fix="leave it out, or give it more preferences")  # fmt: skip
    text, tokenizer = scorer.model.trunk, scorer.tokenizer
    frozen = FrozenText.of(text, text_prompts(tokenizer, ctx, text.config.max_seq_len))
    learner = fit.swapped(learner, text, tokenizer, language, frozen)
    model = RewardModel(learner.model, likelihood=scorer.model.head.likelihood is not None)
    model.head = scorer.model.head
    return learner, model


def _fit(
    model: RewardModel, learner: Learner, rows: list[Shows], tiles: TileStore, settings: Settings, ctx: StageContext
) -> dict[str, Any]:
    parts: tuple[Part, ...] = ("encoder", "adapter") if settings.sees == "images" else ("encoder", "adapter", "video")
    adapters.free(learner.model, settings.learning(parts))
    model.head.requires_grad_(True)
    model.to(settings.device)
    summary, lay = {}, laid(learner.tokenizer, tiles)
    if model.head.likelihood is not None and not float(model.head.likelihood.detach()):
        summary["first_weight"] = _start_likelihood(model, rows, lay)
    batches = RankedBatches(
        rows, settings.pairs_per_step, max(map(row_tokens, rows)), derive_seed(ctx.seed, "vision.reward"),
        micro=settings.micro_pairs, lay=lay, **spread.share(),
    )  # fmt: skip
    objective = Gates(SquaredRanking(settings.square), learner.model)
    result = adapters.optimise(model, objective, batches, settings.steps, settings, ctx)
    return {**summary, "steps": result.steps, "first_loss": result.first_loss, "loss": result.loss}


@torch.no_grad()
def _start_likelihood(model: RewardModel, rows: Sequence[Shows], lay: Lay) -> float:
    """Set the weight of the log-probability to that with which it alone orders the rows best (`puna.post.reward`)."""
    assert model.head.likelihood is not None
    some = rows[:: -(-len(rows) // WEIGHED)]
    model.head.likelihood.fill_(1.0)
    model.head.likelihood.fill_(best_weight([pair.score for pair in scored_pairs(some, scores_of(model, some, lay))]))
    return round(float(model.head.likelihood), 6)


@torch.no_grad()
def scores_of(model: RewardModel, rows: Sequence[Shows], lay: Lay) -> list[float]:
    """The scores of the answers of all rows, row by row, best answer first."""
    training, found = model.training, list[float]()
    model.eval()
    for start in range(0, len(rows), TOGETHER):
        part = rows[start : start + TOGETHER]
        found += model(beside(model, lay(part, max(map(row_tokens, part))))).tolist()
    model.train(training)
    return found


def load_vision_reward(directory: Path) -> RewardModel | None:
    """The reward model in a directory, in evaluation mode; None if it had too few pairs to be trained."""
    if json.loads((directory / STATE_FILE).read_text())["skipped"]:
        return None
    head = load_file(directory / HEAD_FILE)
    model = RewardModel(load_vision(directory), likelihood="likelihood" in head)
    model.head.load_state_dict(head)
    return model.eval()
