"""What stages that train adapters around a frozen text model share (sections 7 and 8): rates, the loop, and how they are judged.

Encoder and adapter learn together at rates of their own, the text model never. Gradients, weights and the optimiser's state are
float32 whatever the precision of the products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from puna.core.intervals import wilson
from puna.core.settings import Share, execution
from puna.core.stage import Artifact, StageContext
from puna.model.llama import Llama
from puna.post import checkpoints, spread
from puna.post.frozen import FrozenText, text_prompts
from puna.post.gate import Verdict, by_family
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Task
from puna.train.loop import train
from puna.train.objectives import Objective, beside, document_sums, hidden_at_targets
from puna.train.optim import OptimSettings, build
from puna.train.packing import Batch, Batches
from puna.train.parallel.layout import Products, resolved
from puna.train.place import Place
from puna.train.result import TrainResult
from puna.train.schedule import LearningRate, Schedule
from puna.train.world import World

ENCODERS = ("encoder.", "trunk.encoder.")  # how names of the encoder's weights begin, in a model and in a reward model
TINY = 1e-30
UNJUDGED = Verdict("none", 0.0, 0)

Part = TypeVar("Part", bound=str)
Asked = TypeVar("Asked")


class Rates(spread.Settings):
    """How the parts of a model learn.

    Attributes:
        lr: peak learning rate of the adapter; `encoder_lr` is that of the encoder (None: the same, 0: it stays as it is).
        curve, warmup, decay, final: as in `puna.train.schedule.LearningRate`, whose `shape` the curve is.
        cache_mb: decoded media kept in memory.
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: NonNegativeFloat = 1e-3
    encoder_lr: NonNegativeFloat | None = None
    weight_decay: NonNegativeFloat = 0.01
    curve: Literal["wsd", "cosine", "linear", "constant"] = "cosine"
    warmup: NonNegativeFloat = 0.05
    decay: Share = 0.3
    final: NonNegativeFloat = 0.03
    precision: Products = "fp32"
    log_every: PositiveInt = 10
    checkpoint_seconds: NonNegativeFloat = execution(20.0)
    cache_mb: NonNegativeInt = execution(512)

    def learning(self, parts: Sequence[Part]) -> list[Part]:
        """Those of these parts that learn at all."""
        return [part for part in parts if part != "encoder" or self.encoder_lr != 0]


def opened_text(ctx: StageContext) -> tuple[Llama, Tokenizer, Artifact, FrozenText]:
    """The text model of the `model` input, its tokenizer, the artifact, and what it is known by before anything surrounds it."""
    artifact = ctx.inputs.one("model")
    text, tokenizer = checkpoints.load_to_train(artifact, checkpoints.TO_BF16)
    return text, tokenizer, artifact, FrozenText.of(text, text_prompts(tokenizer, ctx, text.config.max_seq_len))


def free(model: nn.Module, learns: Sequence[str]) -> None:
    """Let these parts learn and no other."""
    model.requires_grad_(False)
    for part in learns:
        getattr(model, part).requires_grad_(True)


def optimise(
    model: nn.Module | Place, objective: Objective, batches: Batches, steps: int, settings: Rates, ctx: StageContext
) -> TrainResult:
    """The loop with the schedule and optimiser of `settings`; the encoder, wherever in `model` it is, at its own rate."""
    optim = OptimSettings(name=settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay)
    curve = LearningRate(shape=settings.curve, warmup=settings.warmup, decay=settings.decay, final=settings.final)
    named = dict(model.to(settings.device).named_parameters()) if isinstance(model, nn.Module) else model.named()
    rate = 1.0 if settings.encoder_lr is None else settings.encoder_lr / max(settings.lr, TINY)
    narrow = resolved(settings.precision, settings.device) == "bf16"
    return train(
        model,
        objective,
        batches,
        Schedule(steps=steps, lr=curve),
        optim,
        ctx,
        optimizer=build(named, optim, torch.bfloat16 if narrow else torch.float32, dict.fromkeys(ENCODERS, rate)),
        log_every=settings.log_every,
        checkpoint_seconds=settings.checkpoint_seconds,
        device=settings.device,
        precision=settings.precision,
    )


@torch.no_grad()
def judged(model: Any, asked: Sequence[Asked], tasks: Sequence[Task], passed: Callable[[Sequence[Asked]], list[bool]]) -> Verdict:
    """The verdict on these questions, of which every process finds a part with `passed`; the model's mode stays as it is."""
    if not asked:
        return UNJUDGED
    training = model.training
    model.eval()
    found = World.current().shared(asked, passed)
    model.train(training)
    low, high = wilson(sum(found), len(found))
    return Verdict("accuracy", sum(found) / len(found), len(found), low, high, tuple(found), by_family(tasks, found))


def told(model: Any, batch: Batch, documents: int) -> list[bool]:
    """Of each document of a packed batch, whether all that is to be learnt in it is the likeliest token at its place.

    Then and only then a greedy answer is this one. The batch brings its media.
    """
    batch = beside(model, batch)
    states_ND, targets_N = hidden_at_targets(model, batch)
    wrong_BT = torch.zeros(batch.targets_BT.numel(), device=states_ND.device)
    wrong_BT[batch.supervised()] = _wrong(model, states_ND, targets_N)
    return (document_sums(wrong_BT.view_as(batch.targets_BT), batch.documents_BT, documents) == 0).tolist()


def _wrong(model: Any, states_ND: Tensor, targets_N: Tensor) -> Tensor:
    """1.0 where the target is not the likeliest token, [N]."""
    return (model.lm_head(states_ND).argmax(-1) != targets_N).float()
