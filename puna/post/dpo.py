"""Direct preference optimisation with the paper's changes: format tokens masked, and NLL on the chosen answer (section 4.1.4).

Headers and terminators stand in both answers of a pair; pushing them up and down at once makes a model stop abruptly or never,
so the preference sums leave them out, in policy and reference alike. The NLL term keeps the chosen answer likely and does
contain the terminator; it is divided by the chosen tokens of the whole optimiser step. Preference accuracy says nothing about
answers, so the weights kept are the best on the dev tasks among the evaluated steps, step 0 included: the stage cannot leave a
worse model on them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor

from puna.core.rng import derive_seed
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.post import checkpoints
from puna.post.examples import RankedRows, encode_preferences, read_preferences, row_length
from puna.post.gate import Judge, Verdict, comparison, open_judge, write_verdict
from puna.post.losses import dpo
from puna.post.pairs import RankedBatches, answer_logps, learnt_tokens, reference_logps
from puna.post.sft import pass_on
from puna.train.loop import TrainResult, train
from puna.train.optim import OptimSettings
from puna.train.packing import Batch
from puna.train.schedule import LearningRate, Schedule

KIND = "model"
REVISION = 3
RENDERING = 1  # of the rows a cached reference was computed on; part of its key


class Settings(BaseSettings):
    """Defaults: beta and NLL weight of the paper; learning rate, passes and least pairs as measured on the embedded recipe.

    Attributes:
        passes: epochs over the pairs. More than one made answers worse at this size.
        pairs_per_step: pairs of an optimiser step; `micro_pairs` of a forward pass (None: all).
        least_pairs: with fewer, the policy is handed on unchanged.
        evaluate_every: steps between looks at the dev tasks.
        length: longest answer with its prompt, in tokens; None is the model's own limit.
    """

    beta: NonNegativeFloat = 0.1
    nll: NonNegativeFloat = 0.2
    lr: NonNegativeFloat = 2e-4
    passes: PositiveFloat = 1.0
    pairs_per_step: int = Field(32, ge=1)
    micro_pairs: PositiveInt | None = None
    least_pairs: NonNegativeInt = 200
    evaluate_every: NonNegativeInt = 10
    length: PositiveInt | None = None
    warmup: NonNegativeFloat = 8
    dev: PositiveInt = 500
    max_tokens: int = Field(64, ge=1)
    log_every: PositiveInt = 5
    checkpoint_seconds: NonNegativeFloat = execution(20.0)


class PairLoss:
    """`dpo` + `nll` as sums and counts; see `puna.train.objectives.Objective`."""

    def __init__(self, beta: float, nll: float):
        self.beta = beta
        self.weights = {"dpo": 1.0, "nll": nll}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Pairs, and the learnt tokens of their chosen answers."""
        pairs = float(len(batch.extra["answers_PR"]))
        chosen = float(learnt_tokens(batch, batch.extra["answers_PR"][:, 0]))
        reported = dict.fromkeys(("preference_accuracy", "margin", "chosen_shift", "rejected_shift"), pairs)
        return {"dpo": pairs, "nll": chosen, **reported}

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Loss sums of both terms; right orderings, margins and shifts of log-probability to report."""
        content_N, whole_N = answer_logps(model, batch)
        answers_PR, reference_PR = batch.extra["answers_PR"], batch.extra["reference_PR"]
        chosen_P, rejected_P = answers_PR[:, 0], answers_PR[:, 1]
        found = dpo(content_N[chosen_P], content_N[rejected_P], reference_PR[:, 0], reference_PR[:, 1], self.beta)
        reported = {
            "preference_accuracy": found.correct,
            "margin": found.margin,
            "chosen_shift": found.chosen_shift,
            "rejected_shift": found.rejected_shift,
        }
        return {"dpo": found.loss, "nll": -whole_N[chosen_P].sum()}, reported


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train the policy on the pairs of every samples input (and human ones of the tasks), against itself as the reference."""
    policy, tasks = ctx.inputs.one("model"), ctx.inputs.one("tasks")
    model, tokenizer = checkpoints.load(policy)
    limit = min(settings.length or model.config.max_seq_len, model.config.max_seq_len)
    sources = [*ctx.inputs.all("samples"), tasks]
    pairs = encode_preferences(
        tokenizer, read_preferences(source.path / "preferences.jsonl" for source in sources), limit, ranks=2
    )
    if pairs.left.overlong or pairs.left.empty:
        ctx.note(pairs.left.text(len(pairs.rows) + pairs.left.overlong + pairs.left.empty, limit))
    if len(pairs.rows) < max(1, settings.least_pairs):
        return {
            **pass_on(policy, f"only {len(pairs.rows)} preference pairs ({settings.least_pairs} wanted)", ctx),
            "pairs": len(pairs.rows),
        }
    batches = _batches(pairs, limit, settings, ctx)
    batches.reference = cached_reference(model, batches, policy.digest, ctx)
    judge = open_judge(tasks, tokenizer, limit=settings.dev, max_tokens=settings.max_tokens)
    result = _optimise(model, batches, judge, settings, ctx)
    verdict = judge(model.eval())
    write_verdict(verdict, ctx.out)
    checkpoints.save(model, tokenizer, ctx, [policy])
    return {"model": policy.name, **_summary(result, pairs, verdict, ctx)}


def _batches(pairs: RankedRows, limit: int, settings: Settings, ctx: StageContext) -> RankedBatches:
    longest = max(len(answer.ids) for row in pairs.rows for answer in row.answers)
    return RankedBatches(
        pairs.rows,
        settings.pairs_per_step,
        row_length(longest, limit),
        derive_seed(ctx.seed, "post.dpo"),
        micro=settings.micro_pairs,
    )


def cached_reference(model: Any, batches: RankedBatches, policy_digest: str, ctx: StageContext) -> Tensor:
    """Reference log-probabilities [pairs, 2], computed once and kept in scratch under a key that names all they depend on.

    The key holds the policy, every pair, the rendering, the row length and the dtype: a resumed run must compare with the policy
    it started from and never with the half-trained one.
    """
    rows = [[row.identity, *(answer.ids for answer in row.answers)] for row in batches.rows]
    dtype = str(next(model.parameters()).dtype)
    text = json.dumps([policy_digest or _weights_digest(model), rows, RENDERING, batches.length, batches.micro, dtype])
    path = ctx.scratch / f"reference-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.safetensors"
    if path.exists():
        return load_file(path)["logps"]
    logps = reference_logps(model, batches)
    partial = path.with_suffix(".partial")
    save_file({"logps": logps.contiguous()}, partial)
    partial.rename(path)
    return logps


def _weights_digest(model: torch.nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in model.named_parameters():
        digest.update(name.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _optimise(model: Any, batches: RankedBatches, judge: Judge, settings: Settings, ctx: StageContext) -> TrainResult:
    def evaluate(current: Any, step: int) -> dict[str, Any]:
        verdict = judge(current)
        return {"dev": round(verdict.value, 6), "dev_measure": verdict.measure, "dev_n": verdict.n}

    schedule = Schedule(steps=batches.steps(settings.passes), lr=LearningRate(shape="linear", warmup=settings.warmup, final=0.1))
    optim = OptimSettings(name="adamw", lr=settings.lr, weight_decay=0.0)
    return train(
        model,
        PairLoss(settings.beta, settings.nll),
        batches,
        schedule,
        optim,
        ctx,
        evaluate=evaluate,
        evaluate_every=settings.evaluate_every,
        keep_best="dev",
        log_every=settings.log_every,
        checkpoint_seconds=settings.checkpoint_seconds,
    )


def _summary(result: TrainResult, pairs: RankedRows, verdict: Verdict, ctx: StageContext) -> dict[str, Any]:
    """What was kept; figures of the training pairs belong to `figures_step`: the step kept, else the last one measured."""
    looks = [(row["step"], row["dev"]) for row in result.rows if "dev" in row]
    measured = [row for row in result.rows if "preference_accuracy" in row]
    shown = next((row for row in measured if row["step"] == result.best_step), measured[-1])
    if result.best_step == 0:
        ctx.note(f"no step was better than the policy on the dev tasks ({verdict.text()}): kept step 0")
    before = Verdict(verdict.measure, looks[0][1], verdict.n)
    return {
        "pairs": len(pairs.rows),
        "weak": pairs.weak,
        "overlong": pairs.left.overlong,
        "empty": pairs.left.empty,
        "steps": result.steps,
        "kept_step": result.best_step,
        "looks": looks,
        "loss": result.loss,
        "dev": verdict.summary(),
        "dev_before": looks[0][1],
        "gain": comparison(verdict, before)["difference"],
        "figures_step": shown["step"],
        **{key: shown[key] for key in ("preference_accuracy", "margin", "chosen_shift", "rejected_shift")},
    }
