"""Direct preference optimisation on pictures (section 7.6.5): the reference follows the policy instead of standing still.

Every `ema_every` steps the reference takes a step of 1 - `ema_decay` towards the policy. Policy and reference share the frozen
text model, so the reference costs an encoder and an adapter more. The paper names neither number. Format tokens are masked and
the chosen answer keeps its likelihood as in section 4.1.4, and the dev questions decide which step is kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from puna.core.rng import derive_seed
from puna.core.settings import Share, execution
from puna.core.stage import StageContext
from puna.post import adapters, gated, spread
from puna.post.answer_rows import row_tokens
from puna.post.dpo import PairLoss
from puna.post.gate import Verdict
from puna.post.pairs import RankedBatches, answer_logps
from puna.train.packing import Batch
from puna.vision import fit
from puna.vision.dev import judged, questions
from puna.vision.fit import Part
from puna.vision.gates import Gates
from puna.vision.model import VisionLlama
from puna.vision.preferences import laid, shown_rows
from puna.vision.rows import Sees

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "vision_model"
REVISION = 1


class Settings(gated.Settings):
    """What it learns from, and how.

    Attributes:
        sees: whether the rows are about images or about videos, whose adapter is then what learns.
        beta, nll: as in `post.dpo`.
        ema_every, ema_decay: steps between two moves of the reference, and what it keeps of itself; a decay of 1 is a fixed one.
        passes: epochs over the pairs. pairs_per_step: pairs of an optimiser step; `micro_pairs` of a forward pass (None: all).
        least_pairs: with fewer, the policy is handed on unchanged.
        frames: frames of a video that does not say how many. cache_mb: decoded tiles kept in memory.
    """

    sees: Sees = "images"
    beta: NonNegativeFloat = 0.1
    nll: NonNegativeFloat = 0.2
    ema_every: PositiveInt = 10
    ema_decay: Share = 0.9
    passes: PositiveFloat = 1.0
    pairs_per_step: int = Field(32, ge=1)
    micro_pairs: PositiveInt | None = None
    least_pairs: NonNegativeInt = 200
    frames: PositiveInt = 16
    cache_mb: NonNegativeInt = execution(512)


class Followed(nn.Module):
    """A policy, and a reference that has weights of its own where the policy learns: buffers, so that checkpoints hold them."""

    def __init__(self, policy: VisionLlama):
        super().__init__()
        self.policy = policy
        video = None if policy.video is None else policy.video.config
        reference = VisionLlama(policy.text, policy.encoder.config, policy.adapter.config, video, seed=None)
        own = dict(policy.named_parameters())
        self.pairs: list[tuple[nn.Parameter, Tensor]] = []
        for name, weight in reference.named_parameters():
            if not own[name].requires_grad:
                weight.data = own[name].data  # the same memory
                continue
            weight.data = own[name].detach().clone()
            self.register_buffer("reference " + name.replace(".", " "), weight.data)
            self.pairs.append((own[name], weight.data))
        self.known = [reference.requires_grad_(False)]  # in a list, so that its weights are no weights of this module

    @property
    def reference(self) -> VisionLlama:
        """The model that the policy is held to."""
        return self.known[0]

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the reference towards the policy."""
        torch._foreach_lerp_([kept for _, kept in self.pairs], [weight.detach() for weight, _ in self.pairs], 1 - decay)


class FollowedBatches:
    """Batches of pairs; before the first of a step at which it is due, the reference moves."""

    def __init__(self, batches: RankedBatches, model: Followed, every: int, decay: float):
        self.batches, self.model, self.every, self.decay = batches, model, every, decay

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step`. The loop asks once a step; its checkpoints hold the reference as it was before."""
        if step and step % self.every == 0:
            self.model.follow(self.decay)
        return self.batches(step)


class FollowedPairLoss(PairLoss):
    """`PairLoss` whose reference answers when it is asked."""

    def sums(self, model: Followed, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As of `PairLoss`, the reference's log-probabilities computed beside the policy's."""
        with torch.no_grad():
            content_N, _ = answer_logps(model.reference, batch)
        extra = {**batch.extra, "reference_PR": content_N[batch.extra["answers_PR"]]}
        return super().sums(model.policy, replace(batch, extra=extra))


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train the `vision_model` on the preferences of the `pictures`."""
    return spread.on_ranks(_train, settings, ctx, rows=settings.pairs_per_step)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    learner = fit.opened(ctx, ctx.inputs.one("vision_model"))
    policy, tokenizer, pictures = learner.model.to(settings.device), learner.tokenizer, ctx.inputs.all("pictures")
    tiles = fit.tiles_for(learner, settings.frames, settings.cache_mb)
    found = shown_rows(pictures, tokenizer, policy.config.max_seq_len, settings.sees, ranks=2)
    asked = questions(pictures, tokenizer, policy.config.max_seq_len, settings.sees, settings.dev)
    summary: dict[str, Any] = {"pairs": len(found.rows), "weak": found.weak, "left": vars(found.left)}
    if len(found.rows) < max(1, settings.least_pairs):
        reason = f"only {len(found.rows)} preference pairs ({settings.least_pairs} wanted)"
        ctx.note(f"{reason}: {learner.parents[0].name} is handed on unchanged")
        return {**summary, "skipped": reason, **fit.finish(learner, judged(policy, asked, tokenizer, tiles), ctx)}
    parts: tuple[Part, ...] = ("encoder", "adapter") if settings.sees == "images" else ("video",)
    adapters.free(policy, parts)
    model = Followed(policy)
    batches = RankedBatches(
        found.rows, settings.pairs_per_step, max(map(row_tokens, found.rows)), derive_seed(ctx.seed, "vision.dpo"),
        micro=settings.micro_pairs, lay=laid(tokenizer, tiles), **spread.share(),
    )  # fmt: skip
    objective = FollowedPairLoss(settings.beta, settings.nll)

    def judge(current: Any) -> Verdict:
        return judged(current.policy, asked, tokenizer, tiles)

    result = gated.optimise(
        model, Gates(objective, policy), FollowedBatches(batches, model, settings.ema_every, settings.ema_decay),
        batches.steps(settings.passes), judge, settings, ctx,
    )  # fmt: skip
    verdict = judge(model)
    return {**summary, **gated.outcome(result, verdict, objective.figures, ctx), **fit.finish(learner, verdict, ctx)}
