"""The reward model: a scalar at the end of an answer, trained on ranked answers without a margin term (section 4.1.2).

The trunk starts from the first model input (the paper: the pre-trained checkpoint), the score is read at the terminator of the
last turn, and two or three answers a row are ranked edited > chosen > rejected. Prompts are held out by the hash of their text;
what the model is worth (`puna.post.reward_measure`) is measured on those only, and where the trunk has learnt from answers of
earlier samples or from dialogs, on none of their prompts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from puna.core.rng import derive_seed
from puna.core.settings import execution
from puna.core.stage import Artifact, StageContext
from puna.evals.seeds import GAINS_FILE
from puna.model.checkpoint import load_model, save_model
from puna.model.reward import AnswerTokens, RewardHead
from puna.post import checkpoints, spread
from puna.post.answer_rows import AnswerRows, Form, row_tokens, within
from puna.post.examples import Encoded, Ranked, encode_answer, encode_preferences, read_preferences, row_length
from puna.post.losses import bradley_terry
from puna.post.pairs import ABSENT, RankedBatches, ranked_batch
from puna.post.prompts import prompt_key
from puna.post.reward_measure import best_of_n, measure, sampled_prompts, scored_pairs
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Dialog, MessageRow, read_rows
from puna.train.loop import train
from puna.train.objectives import beside, states_of
from puna.train.optim import OptimSettings
from puna.train.packing import Batch, Batches
from puna.train.parallel.layout import Products
from puna.train.schedule import LearningRate, Schedule
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "reward"
REVISION = 7

HEAD_FILE, STATE_FILE = "reward_head.safetensors", "reward.json"
WEIGHED, HALVINGS = 512, 30  # rows that the first weight of the log-probability is read from; steps of its bisection
SCORED_TOGETHER = 256  # answers per forward pass when scoring


class Settings(spread.Settings):
    """`held` is the share of prompts kept for measuring; with fewer than `least_pairs` the head stays zero and says so.

    `form` is how the answers to a prompt lie in a row (`puna.post.answer_rows`): each behind a copy of it (`documents`), all
    behind one without seeing each other (`blocks`, the same scores for less work), or as in the paper (`row`).
    `likelihood` adds a learnt multiple of the answer's log-probability to the score (`puna.model.reward`); the trunk should then
    be one that answers. `precision` is that of the products of training.
    """

    form: Form = "documents"
    likelihood: bool = False
    steps: int = Field(100, ge=1)
    lr: NonNegativeFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.1
    warmup: NonNegativeFloat = 10
    pairs_per_step: int = Field(32, ge=1)
    micro_pairs: PositiveInt | None = None
    held: float = Field(0.15, ge=0, lt=1)
    least_pairs: NonNegativeInt = 100
    length: PositiveInt | None = None
    precision: Products = "fp32"
    log_every: PositiveInt = 10
    checkpoint_seconds: NonNegativeFloat = execution(20.0)


class RewardModel(nn.Module):
    """A Llama, or one that sees, and a head that scores answers; its output matrix is read and learnt only with `likelihood`."""

    def __init__(self, trunk: Any, *, likelihood: bool = False):
        super().__init__()
        self.trunk = trunk
        trunk.lm_head.requires_grad_(likelihood or trunk.config.tied)  # a tied one is the embedding, which learns
        self.head = RewardHead(trunk.config.dim, likelihood=likelihood)

    def forward(self, batch: Batch) -> Tensor:
        """Scores [N], one per answer of the batch, in float32."""
        x_BTD = states_of(self.trunk, batch)
        names = ("before_S", "ids_S", "answer_S")
        tokens = None if self.head.likelihood is None else AnswerTokens(*(batch.extra[name] for name in names))
        return self.head.scores(self.trunk.lm_head, x_BTD, batch.extra["ends_N"], tokens)


class RankingLoss:
    """Bradley-Terry over the ranked answers of a row, as a sum and a count."""

    weights = {"ranking": 1.0}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Rows."""
        rows = float(len(batch.extra["answers_PR"]))
        return {"ranking": rows, "pair_accuracy": rows}

    def sums(self, model: RewardModel, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Sum of row losses; sum of shares of pairs in the right order."""
        answers_PR = batch.extra["answers_PR"]
        loss, _, correct = bradley_terry(model(batch)[answers_PR.clamp(min=0)], answers_PR != ABSENT)
        return {"ranking": loss}, {"pair_accuracy": correct}


class RewardScorer:
    """Scores whole dialogs; the same dialog gets the same score in any company."""

    def __init__(self, model: RewardModel, tokenizer: Tokenizer):
        self.model, self.tokenizer = model.eval(), tokenizer

    def score(self, dialogs: Sequence[Sequence[MessageRow]]) -> list[float]:
        """A reward per dialog (each ends with the assistant); -inf for one longer than the model reads."""
        return self.score_encoded([encode_answer(self.tokenizer, list(d[:-1]), [d[-1]])[0] for d in dialogs])

    @torch.no_grad()
    def score_encoded(self, rows: Sequence[Encoded]) -> list[float]:
        """`score` for dialogs already tokenised."""
        limit = self.model.trunk.config.max_seq_len
        order = sorted((i for i, row in enumerate(rows) if len(row.ids) <= limit), key=lambda i: (len(rows[i].ids), i))
        scores = [-math.inf] * len(rows)
        for start in range(0, len(order), SCORED_TOGETHER):
            part = order[start : start + SCORED_TOGETHER]
            length = row_length(max(len(rows[i].ids) for i in part), limit)
            batch = ranked_batch([Ranked("", "", [rows[i]]) for i in part], length)
            found = self.model(beside(self.model, batch)).tolist()
            for i, value in zip(part, found, strict=True):
                scores[i] = value
        return scores


def load_reward(directory: Path) -> RewardScorer | None:
    """The reward model in a directory, None if it had too few pairs to be trained."""
    if json.loads((directory / STATE_FILE).read_text())["skipped"]:
        return None
    head = load_file(directory / HEAD_FILE)
    model = RewardModel(load_model(directory), likelihood="likelihood" in head)
    model.head.load_state_dict(head)
    return RewardScorer(model, Tokenizer.load(directory))


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train on every preference of the inputs, measure on held-out prompts."""
    return spread.on_ranks(_train, settings, ctx, rows=settings.pairs_per_step)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    base, tasks = ctx.inputs.all("model")[:1] or [ctx.inputs.one("model")], ctx.inputs.one("tasks")
    trunk, tokenizer = checkpoints.load_to_train(base[0], checkpoints.TO_BF16)
    model = RewardModel(trunk, likelihood=settings.likelihood)
    limit = min(settings.length or trunk.config.max_seq_len, trunk.config.max_seq_len)
    sampled = ctx.inputs.all("samples")
    unseen = [samples for samples in sampled if samples.digest not in checkpoints.ancestors(base[0])]
    pairs = encode_preferences(tokenizer, read_preferences(_rankings([tasks, *sampled])), limit)
    rows = within(pairs.rows, limit, settings.form)
    known = [row for row in rows if not is_held(row.key, settings.held)]
    fresh = {preference.id for preference in read_preferences(_rankings([tasks, *unseen]))}
    held = [row for row in rows if is_held(row.key, settings.held) and row.identity in fresh]
    if tasks.digest in checkpoints.ancestors(base[0]):
        learnt = _prompts_of_dialogs(tasks)
        kept = [row for row in held if row.key not in learnt]
        if len(kept) < len(held):
            seen = len(held) - len(kept)
            ctx.note(f"{seen} held-out pairs are on prompts that {base[0].name} has learnt answers to: not measured on")
        held = kept
    summary: dict[str, Any] = {
        "pairs": len(known),
        "held_pairs": len(held),
        "weak": pairs.weak,
        "overlong": pairs.left.overlong + len(pairs.rows) - len(rows),
        "empty": pairs.left.empty,
    }
    skipped = len(known) < max(1, settings.least_pairs)
    if skipped:
        ctx.note(f"only {len(known)} preference pairs ({settings.least_pairs} wanted): the reward model is not trained")
    else:
        scorer = RewardScorer(model.to(settings.device), tokenizer)
        if settings.likelihood:
            summary["first_weight"] = start_likelihood(scorer, known)
        summary |= _fit(model, known, limit, settings, ctx)
        model.eval()
        prompts = sampled_prompts(tasks, unseen, lambda key: is_held(key, settings.held))
        chosen, gains = best_of_n(scorer, prompts)
        summary |= measure(scorer, held) | chosen
        (ctx.out / GAINS_FILE).write_text(json.dumps(gains) + "\n")
    save_scorer(model, tokenizer, ctx)
    (ctx.out / STATE_FILE).write_text(json.dumps({"skipped": skipped}) + "\n")
    return {**summary, "skipped": skipped}


@torch.no_grad()
def start_likelihood(scorer: RewardScorer, rows: Sequence[Ranked]) -> float:
    """Set the weight of the log-probability to that with which it alone orders the rows best, 0 where it does not.

    A few nats tell two answers of a line apart and hundreds two of a page, and people often prefer what is less likely: what one
    nat is worth has to be read from the pairs, since a learning rate that suits the trunk would hardly move it.
    """
    some = rows[:: -(-len(rows) // WEIGHED)]
    head = scorer.model.head
    assert head.likelihood is not None
    head.likelihood.fill_(1.0)
    pairs = scored_pairs(some, scorer.score_encoded([answer for row in some for answer in row.answers]))
    weight = best_weight([pair.score for pair in pairs])
    head.likelihood.fill_(weight)
    return round(weight, 6)


def best_weight(differences: Sequence[float]) -> float:
    """The w >= 0 with the least mean of log(1 + exp(-w d)), by bisection; at most 1 where all d are above zero."""
    d_N = torch.tensor(differences, dtype=torch.float64)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rises = (d_N * torch.sigmoid(-middle * d_N)).sum() > 0  # the loss still falls
        low, high = (middle, high) if rises else (low, middle)
    return low


def _prompts_of_dialogs(tasks: Artifact) -> set[str]:
    """Names of the prompts that a model fine-tuned on these tasks has seen answers to."""
    return {prompt_key(dialog.messages) for dialog in read_rows(tasks.path / "train.jsonl", Dialog)}


def _rankings(artifacts: Sequence[Artifact]) -> list[Path]:
    return [artifact.path / "preferences.jsonl" for artifact in artifacts]


def save_scorer(model: RewardModel, tokenizer: Tokenizer, ctx: StageContext) -> None:
    """Write trunk and head, from process 0."""
    if World.current().process == 0:
        save_model(model.trunk, ctx.out, tokenizer=tokenizer)
        save_file({name: value.cpu().contiguous() for name, value in model.head.state_dict().items()}, ctx.out / HEAD_FILE)


def is_held(key: str, share: float) -> bool:
    """Whether the prompt with this id is kept for measuring: by its hash, the same in every round."""
    return derive_seed(0, "held", key) % 10_000 < share * 10_000


def _batches(rows: list[Ranked], limit: int, settings: Settings, seed: int) -> Batches:
    """Rows of training in the form that the settings name."""
    per_step, micro = settings.pairs_per_step, settings.micro_pairs
    if settings.form == "documents":
        longest = max(len(answer.ids) for row in rows for answer in row.answers)
        return RankedBatches(rows, per_step, row_length(longest, limit), seed, micro=micro, **spread.share())
    longest = max(map(row_tokens, rows))
    return AnswerRows(rows, per_step, row_length(longest, longest), seed, form=settings.form, micro=micro, **spread.share())


def _fit(model: RewardModel, rows: list[Ranked], limit: int, settings: Settings, ctx: StageContext) -> dict[str, Any]:
    batches = _batches(rows, limit, settings, derive_seed(ctx.seed, "post.reward"))
    schedule = Schedule(steps=settings.steps, lr=LearningRate(shape="linear", warmup=settings.warmup, final=0.05))
    optim = OptimSettings(name="adamw", lr=settings.lr, weight_decay=settings.weight_decay)
    result = train(
        model,
        RankingLoss(),
        batches,
        schedule,
        optim,
        ctx,
        log_every=settings.log_every,
        checkpoint_seconds=settings.checkpoint_seconds,
        device=settings.device,
        precision=settings.precision,
    )
    weight = {} if model.head.likelihood is None else {"weight": round(model.head.likelihood.item(), 6)}
    return {
        **weight,
        "steps": result.steps,
        "first_loss": result.first_loss,
        "loss": result.loss,
        "epochs": round(settings.steps * settings.pairs_per_step / len(rows), 2),
    }
