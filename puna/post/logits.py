"""Distillation on logits: cross-entropy plus forward KL to the teacher's top k entries and the mass of the rest.

The teacher runs beside the student on the same packed rows, so nothing is shifted, padded or re-tokenised between them; both are
of one family and share the tokenizer. The rest of the teacher's mass is one bucket and is not shared out, which would teach
over-confidence. Llama 3.1 itself distilled with text; in the embedded recipe logits add nothing to it, and the report shows that.
What of this does not depend on the divergence is here for `puna.post.online` too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from puna.core.errors import InputError
from puna.core.stage import Artifact, StageContext
from puna.model.llama import Llama
from puna.post import checkpoints, lora, sft, spread
from puna.post.losses import top_k_kl, top_k_log_probs
from puna.tokenizer.bpe import Tokenizer
from puna.train.objectives import hidden_at_targets
from puna.train.packing import Batch
from puna.train.result import TrainResult

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "model"
REVISION = 3
TEACHER = 1  # of the model inputs

AXES = ("recompute", "compile")  # of a student without adapters, besides `dp`; the teacher is whole in every process
CHUNK = 1024  # learnt positions whose logits exist at a time: 0.5 GB each of teacher and student at 128,256 ids


class Settings(sft.Settings):
    """As `post.sft`, with `k` entries of the teacher and the KL's `weight` (the cross-entropy has the rest)."""

    k: int = Field(64, ge=1)
    weight: float = Field(0.5, ge=0, le=1)


class TaughtLoss(ABC):
    """(1 - weight) * cross-entropy + weight * a divergence from the teacher, both per learnt token.

    A batch with weights has them for the cross-entropy alone; the teacher is read at every learnt position.
    """

    def __init__(self, teacher: Llama, weight: float):
        self.teacher = teacher.eval()
        self.weights = {"ce": 1.0 - weight, "kl": weight}

    @abstractmethod
    def divergence(self, logits_NV: Tensor, taught_NV: Tensor) -> Tensor:
        """How far the student is from the teacher, summed over N tokens, in nats."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """Learnt tokens, for the cross-entropy by their weights."""
        learnt = float(len(batch.supervised()))
        return {"ce": learnt if batch.weights_BT is None else float(_weights(batch).sum()), "kl": learnt}

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Both sums over the learnt tokens; the teacher gets no gradient."""
        states_ND, targets_N = hidden_at_targets(model, batch)
        with torch.no_grad():
            taught_ND, _ = hidden_at_targets(self.teacher, batch)
        whole = states_ND, taught_ND, targets_N, _weights(batch)
        if len(targets_N) <= CHUNK:
            ce, kl = self._part(model.lm_head, *whole)
        else:
            cut = zip(*(part.split(CHUNK) for part in whole), strict=True)
            sums = [checkpoint(self._part, model.lm_head, *part, use_reentrant=False) for part in cut]
            ce, kl = (torch.stack(term).sum() for term in zip(*sums, strict=True))
        return {"ce": ce, "kl": kl}, {}

    def _part(self, lm_head: Any, states: Tensor, taught: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        logits_NV = lm_head(states).float()
        with torch.no_grad():
            taught_NV = self.teacher.lm_head(taught).float()
        ce_N = torch.nn.functional.cross_entropy(logits_NV, targets, reduction="none")
        return (ce_N * weights).sum(), self.divergence(logits_NV, taught_NV)


def _weights(batch: Batch) -> Tensor:
    """Weights [N] of the learnt positions, 1 where the batch brings none."""
    index = batch.supervised()
    return torch.ones(len(index), device=index.device) if batch.weights_BT is None else batch.weights_BT.reshape(-1)[index]


class LogitLoss(TaughtLoss):
    """With the forward KL over the teacher's top `k` entries and the mass of the rest."""

    def __init__(self, teacher: Llama, k: int, weight: float):
        super().__init__(teacher, weight)
        self.k = k

    def divergence(self, logits_NV: Tensor, taught_NV: Tensor) -> Tensor:
        """See `losses.top_k_kl`."""
        return top_k_kl(logits_NV, *top_k_log_probs(taught_NV, self.k))[0]


@dataclass
class Taught:
    """A student that learns, its teacher, and the dialogs that both read."""

    artifacts: tuple[Artifact, Artifact]  # of the student and of the teacher
    model: Llama
    teacher: Llama
    tokenizer: Tokenizer
    pool: sft.Pool

    @property
    def limit(self) -> int:
        """Longest text that both models read, in tokens."""
        return min(self.model.config.max_seq_len, self.teacher.config.max_seq_len)


def open_taught(settings: sft.Settings, ctx: StageContext) -> Taught:
    """The first model input is the student's start, the second one the teacher; InputError unless their tokenizers are one."""
    models = ctx.inputs.all("model")
    if len(models) != 2:
        raise InputError(
            f"distillation takes a student and a teacher and got {len(models)} models",
            where=ctx.name,
            fix="from: [student, teacher, tasks]",
        )
    if models[0].digest and models[0].digest == models[1].digest:
        raise InputError("a model has nothing to learn from itself", where=f"{models[0].name} and {models[1].name}",
                         fix="take another model as the teacher")  # fmt: skip
    (model, tokenizer), (teacher, theirs) = lora.load(models[0], settings.lora, ctx), checkpoints.load(models[1])
    if theirs.digest != tokenizer.digest:
        raise InputError(
            "student and teacher have different tokenizers, so their logits cannot be compared",
            where=f"{models[0].name} and {models[1].name}",
            fix="distil on text instead (post.sft with samples)",
        )
    limit = min(model.config.max_seq_len, teacher.config.max_seq_len)
    pool = sft.Pool(settings, ctx, tokenizer, limit, models[0], ctx.inputs.one("tasks"))
    return Taught((models[0], models[1]), model, teacher.to(settings.device).requires_grad_(False), tokenizer, pool)


def finish(taught: Taught, result: TrainResult, settings: sft.Settings, ctx: StageContext) -> dict[str, Any]:
    """As `sft.finish`, with the tokens that the teacher read: as many as the student was trained on."""
    model = lora.finished(taught.model, taught.artifacts[0], settings.lora, ctx).to(settings.device)
    summary = sft.finish(model, taught.tokenizer, result, taught.pool, settings, ctx)
    return {**summary, "teacher_tokens": result.tokens}


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train the first model input (the student's base) with the second one as the teacher."""
    return spread.on_ranks(_train, settings, ctx, axes=() if settings.lora else AXES)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    taught = open_taught(settings, ctx)
    if not taught.pool.examples:
        return sft.untrained(taught.artifacts[0], settings, ctx)
    objective = LogitLoss(taught.teacher, settings.k, settings.weight)
    taught.model, result = sft.fit(taught.model, objective, taught.pool.batches(settings, ctx), settings, ctx, meshes)
    return {**finish(taught, result, settings, ctx), "k": settings.k, "weight": settings.weight}
