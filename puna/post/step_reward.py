"""Outcome and step-wise reward models for reasoning: the chance that a worked answer, so far, ends right (section 4.3.3).

A trunk and a head as of the reward model, read at the end of every step instead of at the end of the answer, trained by binary
cross-entropy on the labels that `post.steps` estimated. With `target: outcome` only the end of the answer is read and only the
verifier's result is learnt (Cobbe et al. 2021, arXiv 2110.14168); the paper uses both kinds to filter training data, and the
step-wise one in a tree search (`puna.post.search`).
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from safetensors.torch import load_file
from torch import Tensor

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.core.settings import execution
from puna.core.stage import Artifact, StageContext
from puna.model.checkpoint import load_model
from puna.post import checkpoints, spread
from puna.post.answer_rows import end_to_end, starts_of
from puna.post.examples import Encoded, row_length
from puna.post.prompts import prompt_key
from puna.post.reject import prompt_ids
from puna.post.reward import HEAD_FILE, RewardModel, RewardScorer, is_held, save_scorer
from puna.post.reward_measure import correlation, mean_interval
from puna.post.steps import LABELS, TOKENS, Labelled
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import read_rows
from puna.train.loop import train
from puna.train.objectives import beside
from puna.train.optim import OptimSettings
from puna.train.packing import Batch, epochs, pack
from puna.train.parallel.layout import Products
from puna.train.schedule import LearningRate, Schedule

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "step_reward"
REVISION = 1

Target = Literal["steps", "outcome"]


class Settings(spread.Settings):
    """`target` is what is learnt; `held` the share of prompts kept for measuring; other settings as of `post.reward`."""

    target: Target = "steps"
    steps: int = Field(100, ge=1)
    lr: NonNegativeFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.1
    warmup: NonNegativeFloat = 10
    answers_per_step: PositiveInt = 32
    micro_answers: PositiveInt | None = None
    held: float = Field(0.15, ge=0, lt=1)
    least_answers: NonNegativeInt = 50
    length: PositiveInt | None = None
    precision: Products = "fp32"
    log_every: PositiveInt = 10
    checkpoint_seconds: NonNegativeFloat = execution(20.0)


@dataclass(frozen=True)
class Worked:
    """An answer behind its prompt: `ends` are places in `ids`. `key` names the prompt, `passed` is the verifier's result."""

    key: str
    ids: array[int]
    ends: list[int]
    values: list[float]
    passed: bool


class StepLoss:
    """Binary cross-entropy against the share of right completions, as a sum over step ends and their count."""

    weights = {"steps": 1.0}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Step ends."""
        return {"steps": float(len(batch.extra["ends_N"]))}

    def sums(self, model: RewardModel, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The sum of the cross-entropies, in nats."""
        return {"steps": F.binary_cross_entropy_with_logits(model(batch), batch.extra["values_N"], reduction="sum")}, {}


class StepScorer:
    """The chance of a right end, for answers so far."""

    def __init__(self, model: RewardModel, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._scorer = RewardScorer(model, tokenizer)

    def values(self, beginnings: Sequence[Sequence[int]]) -> list[float]:
        """A chance for each prompt with its answer so far (ids, open header included); 0 for one longer than the model reads."""
        rows = [Encoded(list(ids), [0] * len(ids), [0] * len(ids)) for ids in beginnings]
        return [_chance(score) for score in self._scorer.score_encoded(rows)]


def _chance(score: float) -> float:
    return 1 / (1 + math.exp(-score)) if score > -700 else 0.0


def load_steps(artifact: Artifact) -> StepScorer:
    """The scorer of a `step_reward` artifact. InputError for one that was not trained, or learnt outcomes alone."""
    state = json.loads((artifact.path / "steps.json").read_text())
    if state["skipped"] or state["target"] != "steps":
        what = "was not trained for want of answers" if state["skipped"] else "knows whole answers only"
        raise InputError(f"{artifact.name} {what}", where=str(artifact.path), fix="give more prompts, and `target: steps`")
    model = RewardModel(load_model(artifact.path))
    model.head.load_state_dict(load_file(artifact.path / HEAD_FILE))
    return StepScorer(model, Tokenizer.load(artifact.path))


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train on the labels of every `steps` input from the first model input; measure on held-out prompts."""
    return spread.on_ranks(_train, settings, ctx, rows=settings.answers_per_step)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    base = ctx.inputs.all("model")[:1] or [ctx.inputs.one("model")]
    trunk, tokenizer = checkpoints.load_to_train(base[0], checkpoints.TO_BF16)
    limit = min(settings.length or trunk.config.max_seq_len, trunk.config.max_seq_len)
    for source in ctx.inputs.all("steps"):
        if json.loads((source.path / TOKENS).read_text())["tokenizer"] != tokenizer.digest:
            fix = "start from a model with the tokenizer of the policy"
            raise InputError("the labels are of another tokenizer than the model", where=source.name, fix=fix)
    read = [row for source in ctx.inputs.all("steps") for row in read_rows(source.path / LABELS, Labelled)]
    rows = [worked(tokenizer, row, settings.target) for row in read]
    fitting = [row for row in rows if len(row.ids) <= limit and row.ends]
    known = [row for row in fitting if not is_held(row.key, settings.held)]
    held = [row for row in fitting if is_held(row.key, settings.held)]
    counts = {"answers": len(known), "held_answers": len(held), "left_out": len(rows) - len(fitting), "target": settings.target}
    model, skipped = RewardModel(trunk), len(known) < max(1, settings.least_answers)
    summary: dict[str, Any] = {**counts, "skipped": skipped}
    if skipped:
        ctx.note(f"only {len(known)} labelled answers ({settings.least_answers} wanted): the step model is not trained")
    else:
        summary |= _fit(model, known, limit, settings, ctx) | measure(model, held, limit)
    save_scorer(model, tokenizer, ctx)
    (ctx.out / "steps.json").write_text(json.dumps({"skipped": skipped, "target": settings.target}) + "\n")
    return summary


def worked(tokenizer: Tokenizer, row: Labelled, target: Target) -> Worked:
    """A labelled answer as ids behind its prompt, with the ends that the target reads."""
    prompt = prompt_ids(tokenizer, row.prompt)
    ids = [*prompt, *row.ids]
    ends, values = [len(prompt) + end for end in row.ends], row.values
    if target == "outcome":
        ends, values = ([len(ids) - 1], [float(row.passed)]) if row.ids else ([], [])
    return Worked(prompt_key(row.prompt), array("i", ids), ends, values, row.passed)


def step_batch(rows: Sequence[Worked], length: int) -> Batch:
    """Pack answers into rows of `length` tokens; `extra` holds the flat place and the value of every step end, in order."""
    batch = pack([(row.ids, [0] * len(row.ids)) for row in rows], None, length)
    lengths = [len(row.ids) for row in rows]
    _, flat = end_to_end(batch, lengths)
    places = [start + end for row, start in zip(rows, starts_of(lengths), strict=True) for end in row.ends]
    batch.extra |= {"ends_N": flat[places], "values_N": torch.tensor([value for row in rows for value in row.values])}
    return batch


def _fit(model: RewardModel, rows: list[Worked], limit: int, settings: Settings, ctx: StageContext) -> dict[str, Any]:
    length = row_length(max(len(row.ids) for row in rows), limit)
    order, per_step = epochs(len(rows), derive_seed(ctx.seed, "post.step_reward")), settings.answers_per_step
    micro, share = settings.micro_answers or per_step, spread.share()

    def batches(step: int) -> list[Batch]:
        drawn = [rows[order[step * per_step + i]] for i in range(share["rank"], per_step, share["world"])]
        return [step_batch(drawn[start : start + micro], length) for start in range(0, len(drawn), micro)]

    result = train(
        model,
        StepLoss(),
        batches,
        Schedule(steps=settings.steps, lr=LearningRate(shape="linear", warmup=settings.warmup, final=0.05)),
        OptimSettings(name="adamw", lr=settings.lr, weight_decay=settings.weight_decay),
        ctx,
        log_every=settings.log_every,
        checkpoint_seconds=settings.checkpoint_seconds,
        device=settings.device,
        precision=settings.precision,
    )
    epochs_done = round(settings.steps * per_step / len(rows), 2)
    return {"steps": result.steps, "first_loss": result.first_loss, "loss": result.loss, "epochs": epochs_done}


@torch.no_grad()
def measure(model: RewardModel, held: Sequence[Worked], limit: int) -> dict[str, Any]:
    """On held-out prompts: loss beside that of always saying the mean, correlation with the labels, and best of the answers.

    `best_of_k` takes the answer whose least step is best (Lightman et al. 2023, which the paper cites, compares that with the
    product); `random` is the mean over the answers of the same prompts.
    """
    model.eval()
    chances: list[float] = []
    for row in held:
        batch = beside(model, step_batch([row], row_length(len(row.ids), limit)))
        chances += model(batch).sigmoid().tolist()
    values = [value for row in held for value in row.values]
    mean = sum(values) / len(values) if values else 0.0
    best, chance = _best(held, chances)
    return {
        "held_loss": _cross_entropy(chances, values),
        "held_loss_of_mean": _cross_entropy([mean] * len(values), values),
        "correlation": correlation(chances, values),
        "best_of_k": {"reward": mean_interval(best), "random": mean_interval(chance)},
    }


def _best(held: Sequence[Worked], chances: Sequence[float]) -> tuple[list[float], list[float]]:
    """Per prompt with several answers: whether the chosen one is right, and the share of right ones."""
    left = iter(chances)
    answers: dict[str, list[tuple[float, bool]]] = {}
    for row in held:
        least = min(next(left) for _ in row.ends)
        answers.setdefault(row.key, []).append((least, row.passed))
    several = [found for found in answers.values() if len(found) > 1]
    best = [float(max(found, key=lambda answer: answer[0])[1]) for found in several]
    return best, [sum(passed for _, passed in found) / len(found) for found in several]


def _cross_entropy(chances: Sequence[float], values: Sequence[float]) -> float | None:
    """Mean over steps in nats; None without any."""
    least = 1e-7
    clamped = [min(max(chance, least), 1 - least) for chance in chances]
    losses = [-v * math.log(p) - (1 - v) * math.log(1 - p) for p, v in zip(clamped, values, strict=True)]
    return round(sum(losses) / len(losses), 6) if losses else None
