"""The reward model: a scalar at the end of an answer, trained on ranked answers without a margin term (section 4.1.2).

The trunk starts from the first model input (the paper: the pre-trained checkpoint), the score is read at the terminator of the
last turn, and two or three answers a row are ranked edited > chosen > rejected. Prompts are held out by the hash of their text:
pair accuracy, best-of-n against a random pick, against the majority and against an oracle, and the correlation of score and
length are measured on those only. At the size of the embedded recipe the choice can be worse than a random one (docs/log.md); the
summary has the figures, and the report makes a claim of them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from puna.core.intervals import bounded_mean
from puna.core.rng import derive_seed
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.model.checkpoint import load_model, save_model
from puna.model.llama import Llama
from puna.post import checkpoints
from puna.post.collect import prompt_id
from puna.post.examples import Encoded, Ranked, encode_dialog, encode_preferences, read_preferences, row_length
from puna.post.losses import bradley_terry
from puna.post.pairs import ABSENT, RankedBatches, ranked_batch
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import parse
from puna.tokenizer.dialog import Dialog, MessageRow, Provenance, Sample, Task, read_rows
from puna.train.loop import train
from puna.train.optim import OptimSettings
from puna.train.packing import Batch
from puna.train.parallel.layout import Products
from puna.train.schedule import LearningRate, Schedule

KIND = "reward"
REVISION = 4

HEAD_FILE, STATE_FILE = "reward_head.safetensors", "reward.json"
SCORED_TOGETHER = 256  # answers per forward pass when scoring


class Settings(BaseSettings):
    """`held` is the share of prompts kept for measuring; with fewer than `least_pairs` the head stays zero and says so.

    `precision` is that of the products of training.
    """

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
    """A Llama without its output matrix, and a linear head from the last state of an answer to a number."""

    def __init__(self, trunk: Llama):
        super().__init__()
        self.trunk = trunk
        trunk.lm_head.requires_grad_(trunk.config.tied)  # not read; a tied one is the embedding, which learns
        self.head = nn.Linear(trunk.config.dim, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Scores [N], one per document of the batch, in float32."""
        x_BTD = self.trunk.hidden(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask())
        ends_ND = x_BTD.flatten(0, 1)[batch.extra["ends_N"]].float()
        with torch.autocast(ends_ND.device.type, enabled=False):  # differences of scores are small
            return self.head(ends_ND)[:, 0]


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
        provenance = Provenance(source="", licence="")
        rows = [encode_dialog(self.tokenizer, Dialog(id="", messages=list(d), provenance=provenance)) for d in dialogs]
        return self.score_encoded(rows)

    @torch.no_grad()
    def score_encoded(self, rows: Sequence[Encoded]) -> list[float]:
        """`score` for dialogs already tokenised."""
        limit = self.model.trunk.config.max_seq_len
        order = sorted((i for i, row in enumerate(rows) if len(row.ids) <= limit), key=lambda i: (len(rows[i].ids), i))
        scores = [-math.inf] * len(rows)
        for start in range(0, len(order), SCORED_TOGETHER):
            part = order[start : start + SCORED_TOGETHER]
            length = row_length(max(len(rows[i].ids) for i in part), limit)
            found = self.model(ranked_batch([Ranked("", "", [rows[i]]) for i in part], length)).tolist()
            for i, value in zip(part, found, strict=True):
                scores[i] = value
        return scores


def load_reward(directory: Path) -> RewardScorer | None:
    """The reward model in a directory, None if it had too few pairs to be trained."""
    if json.loads((directory / STATE_FILE).read_text())["skipped"]:
        return None
    model = RewardModel(load_model(directory))
    model.head.load_state_dict(load_file(directory / HEAD_FILE))
    return RewardScorer(model, Tokenizer.load(directory))


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train on every preference of the inputs, measure on held-out prompts."""
    base, tasks = ctx.inputs.all("model")[:1] or [ctx.inputs.one("model")], ctx.inputs.one("tasks")
    trunk, tokenizer = checkpoints.load(base[0])
    model = RewardModel(trunk)
    limit = min(settings.length or trunk.config.max_seq_len, trunk.config.max_seq_len)
    sources = [tasks, *ctx.inputs.all("samples")]
    pairs = encode_preferences(tokenizer, read_preferences(source.path / "preferences.jsonl" for source in sources), limit)
    known = [row for row in pairs.rows if not is_held(row.key, settings.held)]
    held = [row for row in pairs.rows if is_held(row.key, settings.held)]
    summary: dict[str, Any] = {
        "pairs": len(known),
        "held_pairs": len(held),
        "weak": pairs.weak,
        "overlong": pairs.left.overlong,
        "empty": pairs.left.empty,
    }
    skipped = len(known) < max(1, settings.least_pairs)
    if skipped:
        ctx.note(f"only {len(known)} preference pairs ({settings.least_pairs} wanted): the reward model is not trained")
    else:
        summary |= _fit(model, known, limit, settings, ctx)
        summary |= measure(RewardScorer(model, tokenizer), held, sampled_prompts(ctx, settings.held))
    save_model(trunk, ctx.out, tokenizer=tokenizer)
    save_file({name: value.contiguous() for name, value in model.head.state_dict().items()}, ctx.out / HEAD_FILE)
    (ctx.out / STATE_FILE).write_text(json.dumps({"skipped": skipped}) + "\n")
    return {**summary, "skipped": skipped}


def is_held(key: str, share: float) -> bool:
    """Whether the prompt with this id is kept for measuring: by its hash, the same in every round."""
    return derive_seed(0, "held", key) % 10_000 < share * 10_000


def _fit(model: RewardModel, rows: list[Ranked], limit: int, settings: Settings, ctx: StageContext) -> dict[str, Any]:
    longest = max(len(answer.ids) for row in rows for answer in row.answers)
    batches = RankedBatches(
        rows,
        settings.pairs_per_step,
        row_length(longest, limit),
        derive_seed(ctx.seed, "post.reward"),
        micro=settings.micro_pairs,
    )
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
        precision=settings.precision,
    )
    return {
        "steps": result.steps,
        "first_loss": result.first_loss,
        "loss": result.loss,
        "epochs": round(settings.steps * settings.pairs_per_step / len(rows), 2),
    }


@dataclass
class SampledPrompt:
    """A held-out prompt with its n samples: what was written, whether it passed."""

    task: Task
    samples: list[Sample]

    def right(self) -> list[bool]:
        """Verifier's verdict per sample."""
        return [sample.scores["verifier"] > 0 for sample in self.samples]


def sampled_prompts(ctx: StageContext, held: float) -> list[SampledPrompt]:
    """Held-out verifiable prompts of the samples inputs, each with its samples."""
    tasks = {task.id: task for task in read_rows(ctx.inputs.one("tasks").path / "prompts.jsonl", Task)}
    found: list[SampledPrompt] = []
    for artifact in ctx.inputs.all("samples"):
        groups: dict[str, list[Sample]] = {}
        for sample in read_rows(artifact.path / "samples.jsonl", Sample):
            groups.setdefault(sample.task_id, []).append(sample)
        found += [
            SampledPrompt(tasks[key], group)
            for key, group in groups.items()
            if key in tasks and tasks[key].verifier and len(group) > 1 and is_held(prompt_id(tasks[key].prompt), held)
        ]
    return found


def measure(scorer: RewardScorer, held: list[Ranked], prompts: list[SampledPrompt]) -> dict[str, Any]:
    """Pair accuracy by prompt, best-of-n, and the correlation of score with length, on held-out prompts."""
    return {"pair_accuracy": _pair_accuracy(scorer, held), **_best_of_n(scorer, prompts)}


def _pair_accuracy(scorer: RewardScorer, held: list[Ranked]) -> dict[str, Any]:
    """Share of pairs in the right order, first averaged within each prompt so that prompts with many pairs do not dominate."""
    scores = iter(scorer.score_encoded([answer for row in held for answer in row.answers]))
    by_prompt: dict[str, list[float]] = {}
    for row in held:
        ranked = [next(scores) for _ in row.answers]
        for i, better in enumerate(ranked):
            by_prompt.setdefault(row.key, []).extend(float(better > worse) for worse in ranked[i + 1 :])
    return mean_interval([sum(found) / len(found) for found in by_prompt.values()])


def _best_of_n(scorer: RewardScorer, prompts: list[SampledPrompt]) -> dict[str, Any]:
    if not prompts:
        return {"best_of_n": None, "length_correlation": None}
    dialogs = [[*p.task.prompt, MessageRow.model_validate(parse(scorer.tokenizer, s.ids))] for p in prompts for s in p.samples]
    flat = iter(scorer.score(dialogs))
    best, chance, majority, oracle, scores, lengths = [], [], [], [], [], []
    for prompt in prompts:
        right, found = prompt.right(), [next(flat) for _ in prompt.samples]
        best.append(float(right[max(range(len(found)), key=lambda i: (found[i], -i))]))
        chance.append(sum(right) / len(right))
        majority.append(float(right[_majority(prompt.samples)]))
        oracle.append(float(any(right)))
        scores += found
        lengths += [len(sample.ids) for sample in prompt.samples]
    n = Counter(len(prompt.samples) for prompt in prompts).most_common(1)[0][0]
    gains = [b - c for b, c in zip(best, chance, strict=True)]
    return {
        "best_of_n": {
            "n": n,
            "random": mean_interval(chance),
            "reward": mean_interval(best),
            "majority": mean_interval(majority),
            "oracle": mean_interval(oracle),
            "reward_over_random": mean_interval(gains, least=-1.0),
        },
        "length_correlation": _correlation(scores, lengths),
    }


def _majority(samples: list[Sample]) -> int:
    """Index of the first sample that gives the most frequent final answer."""
    from puna.verify.language import answer_tags

    finals = []
    for sample in samples:
        tags = answer_tags(sample.text)
        finals.append(" ".join((sample.text[tags[-1][2] :] if tags else sample.text).casefold().split()))
    return finals.index(Counter(finals).most_common(1)[0][0])


def mean_interval(values: Sequence[float], least: float = 0.0) -> dict[str, Any]:
    """Mean of values between `least` and 1 with its 95 % interval and n; nulls when there is nothing."""
    if not values:
        return {"mean": None, "low": None, "high": None, "n": 0}
    low, high = bounded_mean(values, least)
    return {"mean": round(sum(values) / len(values), 6), "low": round(low, 6), "high": round(high, 6), "n": len(values)}


def _correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    kept = [(a, b) for a, b in zip(first, second, strict=True) if math.isfinite(a)]
    if len(kept) < 2:
        return None
    means = [sum(column) / len(kept) for column in zip(*kept, strict=True)]
    moved = [(a - means[0], b - means[1]) for a, b in kept]
    spread = math.sqrt(sum(a * a for a, _ in moved) * sum(b * b for _, b in moved))
    return round(sum(a * b for a, b in moved) / spread, 4) if spread > 0 else None
