"""Distillation on logits: cross-entropy plus forward KL to the teacher's top k entries and the mass of the rest.

The teacher runs beside the student on the same packed rows, so nothing is shifted, padded or re-tokenised between them; both are
of one family and share the tokenizer. The rest of the teacher's mass is one bucket and is not shared out, which would teach
over-confidence. Llama 3.1 itself distilled with text; in the embedded recipe logits add nothing to it, and the report shows that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from puna.core.errors import InputError
from puna.core.stage import StageContext
from puna.model.llama import Llama
from puna.post import checkpoints, lora, sft, spread
from puna.post.losses import top_k_kl, top_k_log_probs
from puna.train.objectives import hidden_at_targets
from puna.train.packing import Batch

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "model"
REVISION = 2


class Settings(sft.Settings):
    """As `post.sft`, with `k` entries of the teacher and the KL's `weight` (the cross-entropy has the rest)."""

    k: int = Field(64, ge=1)
    weight: float = Field(0.5, ge=0, le=1)


class LogitLoss:
    """(1 - weight) * cross-entropy + weight * KL(teacher || student), both per learnt token."""

    def __init__(self, teacher: Llama, k: int, weight: float):
        self.teacher, self.k = teacher.eval(), k
        self.weights = {"ce": 1.0 - weight, "kl": weight}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Learnt tokens, for both terms."""
        learnt = float(len(batch.supervised()))
        return {"ce": learnt, "kl": learnt}

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Both sums over the learnt tokens; the teacher gets no gradient."""
        states_ND, targets_N = hidden_at_targets(model, batch)
        logits_NV = model.lm_head(states_ND).float()
        with torch.no_grad():
            taught_ND, _ = hidden_at_targets(self.teacher, batch)
            indices_NK, log_probs_NK = top_k_log_probs(self.teacher.lm_head(taught_ND), self.k)
        kl, _ = top_k_kl(logits_NV, indices_NK, log_probs_NK)
        return {"ce": torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="sum"), "kl": kl}, {}


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train the first model input (the student's base) with the second one as the teacher."""
    return spread.on_ranks(_train, settings, ctx, axes=() if settings.lora else ("recompute", "compile"))


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    models = ctx.inputs.all("model")
    if len(models) != 2:
        raise InputError(
            f"logit distillation takes a student and a teacher and got {len(models)} models",
            where=ctx.name,
            fix="from: [student, teacher, tasks]",
        )
    (model, tokenizer), (teacher, theirs) = lora.load(models[0], settings.lora, ctx), checkpoints.load(models[1])
    if theirs.digest != tokenizer.digest:
        raise InputError(
            "student and teacher have different tokenizers, so their logits cannot be compared",
            where=f"{models[0].name} and {models[1].name}",
            fix="distil on text instead (post.sft with samples)",
        )
    pool = sft.Pool(
        settings, ctx, tokenizer, min(model.config.max_seq_len, teacher.config.max_seq_len), models[0], ctx.inputs.one("tasks")
    )
    if not pool.examples:
        return sft.untrained(models[0], settings, ctx)
    objective = LogitLoss(teacher.to(settings.device), settings.k, settings.weight)
    model, result = sft.fit(model, objective, pool.batches(settings, ctx), settings, ctx, meshes)
    model = lora.finished(model, models[0], settings.lora, ctx).to(settings.device)
    return {**sft.finish(model, tokenizer, result, pool, settings, ctx), "k": settings.k, "weight": settings.weight}
