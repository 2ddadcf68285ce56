"""Distillation from a teacher in memory: every token's whole distribution, on given dialogs and on the student's own answers.

Forward KL makes the student cover what the teacher says, reverse KL keeps it from what the teacher would not say, the generalised
Jensen-Shannon divergence lies between (Agarwal et al. 2024, "GKD"; Gu et al. 2024, "MiniLLM"). With `own` a share of the steps
reads answers that the student has just drawn, so it is corrected where it really goes; there is no cross-entropy on them, and no
gradient through the drawing (GKD, algorithm 1). The score of a larger model is the check that a model's own text needs: itself,
what descends from it, and a smaller model are refused (section 4.3.1). The paper distilled with text; this is beyond it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from puna.core.errors import InputError
from puna.core.rng import numpy_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.model.llama import Llama
from puna.post import checkpoints, logits, sft, spread
from puna.post.draws import Draws, answered, read_prompts
from puna.post.examples import row_length
from puna.post.losses import Divergence, dense_kl
from puna.post.reject import PromptSlice
from puna.train.packing import Batch, Batches, empty_batch, pack
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "model"
REVISION = 1
TEACHER = 1  # of the model inputs


class Own(BaseSettings):
    """The student's own answers.

    Attributes:
        share: of the steps that read them (GKD's lambda), from `first_step` on: a student that cannot answer yet has little to be
            corrected.
        prompts: to answer; none needs a verifier. `prompts_per_step` of them with `k` answers each.
    """

    share: float = Field(0.5, gt=0, le=1)
    first_step: NonNegativeInt = 0
    prompts: PromptSlice = PromptSlice()
    prompts_per_step: PositiveInt = 24
    k: PositiveInt = 1


class Settings(sft.Settings):
    """As `post.sft`, with the divergence's `weight` (the cross-entropy has the rest).

    Attributes:
        divergence: see `losses.dense_kl`; `mixture` is its weight of the teacher in "jensen-shannon".
        temperature: of both models' distributions in the divergence.
        own: also read the student's own answers, of at most `max_tokens`.
    """

    divergence: Divergence = "forward"
    mixture: float = Field(0.5, gt=0, lt=1)
    temperature: PositiveFloat = 1.0
    weight: float = Field(0.5, ge=0, le=1)
    own: Own | None = None


class DivergenceLoss(logits.TaughtLoss):
    """With a divergence over the whole vocabulary.

    With `own` it reports, of the batches whose cross-entropy has no weight: the divergence per token, and how many tokens.
    """

    def __init__(self, teacher: Llama, divergence: Divergence, mixture: float, temperature: float, weight: float, own: bool):
        super().__init__(teacher, weight)
        self.kind, self.mixture, self.temperature, self.own = divergence, mixture, temperature, own

    def divergence(self, logits_NV: Tensor, taught_NV: Tensor) -> Tensor:
        """See `losses.dense_kl`."""
        return dense_kl(logits_NV, taught_NV, self.kind, self.mixture, self.temperature)[0]

    def counts(self, batch: Batch) -> dict[str, float]:
        """Learnt tokens, and those of own answers."""
        found = super().counts(batch)
        return {**found, "own_kl": found["kl"] if batch.weights_BT is not None else 0.0} if self.own else found

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Both sums; the divergence and the tokens of own answers to report."""
        terms, _ = super().sums(model, batch)
        if not self.own:
            return terms, {}
        kl = terms["kl"].detach()
        mine = batch.weights_BT is not None
        return terms, {"own_kl": kl if mine else torch.zeros_like(kl), "sampled": len(batch.supervised()) if mine else 0}


class OwnBatches:
    """Given dialogs, and in a share of the steps the student's own answers: a function of the step and of the weights."""

    def __init__(self, given: Batches, draws: Draws, own: Own, length: int, ctx: StageContext, micro_rows: int | None = None):
        self.given, self.draws, self.own, self.length, self.ctx, self.micro_rows = given, draws, own, length, ctx, micro_rows

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step`."""
        return self.answers(step) if self.is_own(step) else self.given(step)

    def is_own(self, step: int) -> bool:
        """Whether a step reads own answers."""
        coin = numpy_stream(self.ctx.stream_seed("own"), step).random()
        return step >= self.own.first_step and bool(coin < self.own.share)

    def answers(self, step: int) -> list[Batch]:
        """This process's answers to the prompts of `step`, unfinished ones too; they have no weight in the cross-entropy.

        Micro-batches of `micro_rows` rows. Other processes may have more or fewer: each keeps a copy of the model, so that none
        waits for another before the step's end.
        """
        drawn = self.draws(step, lambda _, completions: [one.drawn for one in completions])
        found = [answered(prompt, ids) for prompt, answers in drawn for ids in answers]
        length, world = row_length(max(len(ids) for ids, _ in found), self.length), World.current()
        mine = found[world.rank :: world.size]
        batch = pack(mine, None, length) if mine else empty_batch(1, length)
        batch.weights_BT = torch.zeros(batch.targets_BT.shape)
        rows = len(batch.ids_BT)
        size = self.micro_rows or rows
        return [batch.rows(start, start + size) for start in range(0, rows, size)]


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train the first model input (the student's start) with the second one as the teacher."""
    return spread.on_ranks(_train, settings, ctx, axes=() if settings.lora or settings.own else logits.AXES)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    taught = logits.open_taught(settings, ctx)
    if not taught.pool.examples:
        return sft.untrained(taught.artifacts[0], settings, ctx)
    batches: Any = taught.pool.batches(settings, ctx)
    if settings.own:
        _refuse_own_text(taught, ctx)
        batches = _own_batches(batches, taught, settings, settings.own, ctx)
    objective = DivergenceLoss(
        taught.teacher, settings.divergence, settings.mixture, settings.temperature, settings.weight, settings.own is not None
    )
    taught.model, result = sft.fit(taught.model, objective, batches, settings, ctx, None if settings.own else meshes)
    sampled = int(sum(row.get("sampled", 0) for row in result.rows))
    figures = {"own_kl": next((row["own_kl"] for row in reversed(result.rows) if "own_kl" in row), None)} if settings.own else {}
    return {
        **logits.finish(taught, result, settings, ctx),
        "divergence": settings.divergence,
        "weight": settings.weight,
        "sampled_tokens": sampled,
        **figures,
    }


def _refuse_own_text(taught: logits.Taught, ctx: StageContext) -> None:
    """InputError unless the teacher may judge the student's own text: another model, and no smaller one."""
    student, teacher = taught.artifacts
    checkpoints.refuse_own_text(student, checkpoints.ancestors(teacher), f"{ctx.name}, taught by {teacher.name}")
    sizes = taught.model.config.parameters(), taught.teacher.config.parameters()
    if sizes[1] < sizes[0]:
        raise InputError(
            f"a model of {sizes[0]:,} parameters may not learn from its own unverified text by the word of one of {sizes[1]:,}",
            where=f"{ctx.name}, taught by {teacher.name}",
            fix="leave `own` out, or take a larger model as the teacher",
        )


def _own_batches(given: Batches, taught: logits.Taught, settings: Settings, own: Own, ctx: StageContext) -> OwnBatches:
    tasks = ctx.inputs.one("tasks")
    cut = taught.limit < taught.model.config.max_seq_len  # the engine ends answers where the student's context does
    room = taught.limit - settings.max_tokens if cut else taught.limit
    prompts = read_prompts(tasks, own.prompts, taught.tokenizer, room, ctx, verified=False)
    if not prompts:
        raise InputError("there is no prompt for the student to answer", where=f"{ctx.name}, own.prompts of {tasks.name}",
                         fix="leave `own` out, or widen `own.prompts`")  # fmt: skip
    draws = Draws(taught.model, taught.tokenizer, prompts, ctx, "post.online", per_draw=own.prompts_per_step, k=own.k,
                  max_tokens=settings.max_tokens)  # fmt: skip
    return OwnBatches(given, draws, own, taught.limit, ctx, settings.micro_rows)
