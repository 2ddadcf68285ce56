"""Direct preference optimisation with the paper's changes: format tokens masked, and NLL on the chosen answer (section 4.1.4).

Headers and terminators stand in both answers of a pair; pushing them up and down at once makes a model stop abruptly or never,
so the preference sums leave them out, in policy and reference alike. The NLL term keeps the chosen answer likely and does
contain the terminator; it is divided by the chosen tokens of the whole optimiser step. Preference accuracy says nothing about
answers: the dev tasks are the gate (`puna.post.gated`).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from puna.core.rng import derive_seed
from puna.core.stage import StageContext
from puna.post import checkpoints, gated, lora, spread
from puna.post.answer_rows import in_blocks, row_tokens
from puna.post.examples import RankedRows, encode_preferences, read_preferences, row_length
from puna.post.gate import Verdict, open_judge, write_verdict
from puna.post.lora import Lora
from puna.post.losses import PairLossKind, dpo
from puna.post.pairs import RankedBatches, answer_logps, content_tokens, learnt_tokens, reference_logps
from puna.post.sft import pass_on
from puna.train.loop import TrainResult
from puna.train.packing import Batch
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "model"
REVISION = 4
SHIFTS: dict[PairLossKind, tuple[str, str]] = {  # what the two shifts of `losses.DpoSums` are called
    "sigmoid": ("chosen_shift", "rejected_shift"),
    "ipo": ("chosen_token_shift", "rejected_token_shift"),
    "simpo": ("chosen_token_logp", "rejected_token_logp"),
}
RENDERING = 1  # of the rows a cached reference was computed on; part of its key


class Settings(gated.Settings):
    """Defaults: beta and NLL weight of the paper; learning rate, passes and least pairs as measured on the embedded recipe.

    Attributes:
        loss: of a pair, see `losses.dpo`. The paper's is `sigmoid`. `simpo` needs no reference; its paper takes a beta of about
            2 and a `gamma` of about 1.
        passes: epochs over the pairs. More than one made answers worse at this size.
        pairs_per_step: pairs of an optimiser step; `micro_pairs` of a forward pass (None: all).
        least_pairs: with fewer, the policy is handed on unchanged.
        length: longest answer with its prompt, in tokens; None is the model's own limit.
        form: whether the answers of a pair lie behind one prompt without seeing each other (`blocks`: the same log-probabilities
            for less work) or each behind a copy of it (`documents`).
        lora: train adapters alone (`puna.post.lora`). Looks on the way are at the frozen weights as they are kept, the last one
            at the merged model.
    """

    loss: PairLossKind = "sigmoid"
    beta: NonNegativeFloat = 0.1
    gamma: NonNegativeFloat = 0.5
    nll: NonNegativeFloat = 0.2
    passes: PositiveFloat = 1.0
    pairs_per_step: int = Field(32, ge=1)
    micro_pairs: PositiveInt | None = None
    least_pairs: NonNegativeInt = 200
    length: PositiveInt | None = None
    form: Literal["documents", "blocks"] = "blocks"
    lora: Lora | None = None

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.loss == "ipo" and self.beta == 0:
            raise ValueError("ipo aims at a margin of 1 / (2 beta), so beta must be over 0")
        return self


class PairLoss:
    """`dpo` (of a `kind`, with `gamma` for simpo) + `nll` as sums and counts; see `puna.train.objectives.Objective`."""

    def __init__(self, beta: float, nll: float, kind: PairLossKind = "sigmoid", gamma: float = 0.0):
        self.beta, self.kind, self.gamma = beta, kind, gamma
        self.weights = {"dpo": 1.0, "nll": nll}
        self.figures = ("preference_accuracy", "margin", *SHIFTS[kind])

    def counts(self, batch: Batch) -> dict[str, float]:
        """Pairs, and the learnt tokens of their chosen answers."""
        pairs = float(len(batch.extra["answers_PR"]))
        chosen = float(learnt_tokens(batch, batch.extra["answers_PR"][:, 0]))
        return {"dpo": pairs, "nll": chosen, **dict.fromkeys(self.figures, pairs)}

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Loss sums of both terms; right orderings, margins and shifts of log-probability to report."""
        content_N, whole_N = answer_logps(model, batch)
        chosen_P, rejected_P = batch.extra["answers_PR"][:, 0], batch.extra["answers_PR"][:, 1]
        reference_PR = None if self.kind == "simpo" else batch.extra["reference_PR"]
        tokens_N = content_tokens(batch)
        found = dpo(
            content_N[chosen_P],
            content_N[rejected_P],
            None if reference_PR is None else reference_PR[:, 0],
            None if reference_PR is None else reference_PR[:, 1],
            self.beta,
            kind=self.kind,
            tokens=(tokens_N[chosen_P], tokens_N[rejected_P]),
            gamma=self.gamma,
        )
        reported = dict(zip(self.figures, (found.correct, found.margin, found.chosen_shift, found.rejected_shift), strict=True))
        return {"dpo": found.loss, "nll": -whole_N[chosen_P].sum()}, reported


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train the policy on the pairs of every samples input (and human ones of the tasks), against itself as the reference."""
    return spread.on_ranks(_train, settings, ctx, rows=settings.pairs_per_step)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    policy, tasks = ctx.inputs.one("model"), ctx.inputs.one("tasks")
    model, tokenizer = lora.load(policy, settings.lora, ctx)
    model.to(settings.device)
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
    if settings.loss != "simpo":
        batches.reference = cached_reference(model, batches, policy.digest, ctx)
    judge = open_judge(tasks, tokenizer, limit=settings.dev, max_tokens=settings.max_tokens)
    objective = PairLoss(settings.beta, settings.nll, settings.loss, settings.gamma)
    result = gated.optimise(model, objective, batches, batches.steps(settings.passes), judge, settings, ctx)
    model = lora.finished(model, policy, settings.lora, ctx).to(settings.device)
    verdict = judge(model.eval())
    write_verdict(verdict, ctx.out)
    checkpoints.save(model, tokenizer, ctx, [policy])
    return {"model": policy.name, **_summary(result, pairs, verdict, objective.figures, ctx)}


def _batches(pairs: RankedRows, limit: int, settings: Settings, ctx: StageContext) -> RankedBatches:
    longest = max(len(answer.ids) for row in pairs.rows for answer in row.answers)
    blocks = settings.form == "blocks"
    length = max(map(row_tokens, pairs.rows)) if blocks else row_length(longest, limit)
    return RankedBatches(
        pairs.rows, settings.pairs_per_step, length, derive_seed(ctx.seed, "post.dpo"), micro=settings.micro_pairs,
        lay=in_blocks if blocks else None, **spread.share(),
    )  # fmt: skip


def cached_reference(model: Any, batches: RankedBatches, policy_digest: str, ctx: StageContext) -> Tensor:
    """Reference log-probabilities [pairs, 2], computed once and kept in scratch under a key that names all they depend on.

    The key holds the policy, every pair, the rendering, the row length and the dtypes: a resumed run must compare with the policy
    it started from and never with the half-trained one.
    """
    rows = [[row.identity, *(answer.ids for answer in row.answers)] for row in batches.rows]
    dtypes = sorted({str(weight.dtype) for weight in model.parameters()})
    packed = [batches.lay.__name__, batches.length, batches.micro]
    text = json.dumps([policy_digest or checkpoints.weights_digest(model), rows, RENDERING, packed, dtypes])
    path = ctx.scratch / f"reference-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.safetensors"
    world = World.current()
    if not world.any(not path.exists()):
        return load_file(path)["logps"]
    with lora.adapters_off(model):
        logps = reference_logps(model, batches)
    if world.process:
        return logps
    partial = path.with_suffix(".partial")
    save_file({"logps": logps.contiguous()}, partial)
    partial.rename(path)
    return logps


def _summary(
    result: TrainResult, pairs: RankedRows, verdict: Verdict, figures: tuple[str, ...], ctx: StageContext
) -> dict[str, Any]:
    return {
        "pairs": len(pairs.rows),
        "weak": pairs.weak,
        "overlong": pairs.left.overlong,
        "empty": pairs.left.empty,
        **gated.outcome(result, verdict, figures, ctx),
    }
