"""Learning from rewards that are checked: GRPO (Shao et al. 2024), beyond the paper, which has none of it (section 4.1.4).

At each step the policy answers some prompts k times; a verifier rewards an answer with 1 or 0 (0 also where it did not end); how
much better an answer is than the others of its group is the advantage of all its tokens. Groups whose rewards are all alike say
nothing and are left out, counted. Losses are sums over tokens, divided by the tokens of the whole optimiser step: neither the
length of an answer nor the cut into micro-batches changes what a token weighs. How answers are drawn, and drawn again by a
resumed run: `puna.post.draws`. The dev tasks are the gate (`puna.post.gated`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor

from puna.core.stage import Artifact, StageContext
from puna.evals.tasks import judge as judge_answer
from puna.infer.engine import Completion
from puna.model.llama import Llama
from puna.post import checkpoints, gated, lora, spread
from puna.post.draws import Draws, Prompt, answered, read_prompts
from puna.post.examples import row_length
from puna.post.gate import open_judge, write_verdict
from puna.post.lora import Lora
from puna.post.losses import clipped_policy, group_advantages, k3
from puna.post.reject import PromptSlice
from puna.post.sft import pass_on
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Task
from puna.train import state
from puna.train.objectives import beside, token_logps
from puna.train.packing import PADDING, Batch, empty_batch, pack
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "model"
REVISION = 1
ROWS = ("ids_BT", "targets_BT", "positions_BT", "documents_BT")  # of a batch
FIGURES = ("reward", "unfinished", "alike", "clipped")

Logps = Callable[[Batch], Tensor]


class Settings(gated.Settings):
    """How to draw and how to learn.

    Attributes:
        steps: optimiser steps; each has `prompts_per_step` prompts with `k` answers each (a group).
        updates: optimiser steps on the same answers; the ratio to the policy that drew them is clipped from the second on.
        clip: how far that ratio counts.
        kl: weight of the KL to the starting policy, per token (0: no reference is kept).
        micro_samples: answers of a forward pass (None: all of a step).
        lora: train adapters alone (`puna.post.lora`); the reference is then the model without them.
    """

    lr: NonNegativeFloat = 1e-4
    steps: PositiveInt = 100
    prompts: PromptSlice = PromptSlice()
    prompts_per_step: PositiveInt = 16
    k: int = Field(8, ge=2)
    updates: PositiveInt = 1
    clip: float = Field(0.2, gt=0, le=1)
    kl: NonNegativeFloat = 0.0
    micro_samples: PositiveInt | None = None
    lora: Lora | None = None


@dataclass
class Group:
    """One prompt with its answers (what ended them included), whether each ended, and their rewards."""

    prompt: list[int]
    answers: list[list[int]]
    finished: list[bool]
    rewards: list[float]

    @property
    def alike(self) -> bool:
        """Whether no answer was better than another."""
        return len(set(self.rewards)) == 1


class GroupLoss:
    """`clipped_policy`, and `k3` if it has a weight, per learnt token; see `puna.train.objectives.Objective`."""

    def __init__(self, clip: float, kl: float):
        self.clip = clip
        self.weights = {"policy": 1.0, **({"kl": kl} if kl else {})}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Learnt tokens; of what was drawn for the step, answers and groups."""
        tokens, drawn = float(len(batch.supervised())), batch.extra["drawn"]
        answers, groups = float(drawn[0]), float(drawn[3])
        return {**dict.fromkeys(self.weights, tokens), **dict(zip(FIGURES, (answers, answers, groups, tokens), strict=True))}

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Loss sums; rewards, unfinished answers, groups that were alike and clipped tokens to report."""
        index, drawn = batch.supervised(), batch.extra["drawn"]
        logps_N = token_logps(model, batch).reshape(-1)[index]
        sampled_BT = batch.extra.get("sampled_BT")
        sampled_N = logps_N.detach() if sampled_BT is None else sampled_BT.reshape(-1)[index]
        loss, clipped = clipped_policy(logps_N, sampled_N, batch.extra["advantages_BT"].reshape(-1)[index], self.clip)
        terms = {"policy": loss}
        if "kl" in self.weights:
            terms["kl"] = k3(logps_N, batch.extra["reference_BT"].reshape(-1)[index])
        return terms, dict(zip(FIGURES, (drawn[1], drawn[2], drawn[4], clipped), strict=True))


class GroupBatches:
    """Micro-batches of freshly drawn groups: a function of the step and of the weights, which change from step to step.

    Args:
        model: the policy, sampled from as it is when a step is asked for.
        reference: log-probabilities of a batch's targets under the starting policy; None where they are not wanted.
    """

    def __init__(
        self, model: Llama, tokenizer: Tokenizer, prompts: Sequence[Prompt], settings: Settings, ctx: StageContext,
        reference: Logps | None = None,
    ):  # fmt: skip
        self.model, self.tokenizer = model, tokenizer
        self.settings, self.ctx, self.reference = settings, ctx, reference
        self.draws = Draws(model, tokenizer, prompts, ctx, "post.grpo", per_draw=settings.prompts_per_step, k=settings.k,
                           max_tokens=settings.max_tokens)  # fmt: skip
        self._last: tuple[int, list[Batch]] = (-1, [])

    def __call__(self, step: int) -> list[Batch]:
        """This process's micro-batches of `step`; of padding where there are fewer than processes."""
        draw, world = step // self.settings.updates, World.current()
        if self._last[0] != draw:
            self._last = draw, self._drawn(draw)
        every = self._last[1]
        return every[world.rank :: world.size] or [_padding_like(every[0])]

    def _drawn(self, draw: int) -> list[Batch]:
        """All of one draw, of every process. If later steps take them too they are kept in scratch: the weights are not."""
        if self.settings.updates == 1:
            return self.batches(self.groups(draw))
        path, world = self._kept(draw), World.current()
        if world.any(not path.exists()):
            batches = self.batches(self.groups(draw))
            _add_logps(batches, "sampled_BT", lambda batch: _logps(self.model, batch))
            if world.process == 0:
                _write(batches, path)
            world.barrier()
        if world.process == 0:
            self._drop_but(draw)
        return _read(path)

    def _kept(self, draw: int) -> Path:
        return self.ctx.scratch / f"drawn-{draw}.safetensors"

    def _drop_but(self, draw: int) -> None:
        """Remove every draw but this one and those in the midst of which a checkpoint may be resumed."""
        steps = state.kept_steps(self.ctx.scratch / "train")
        needed = {self._kept(number) for number in (draw, *(step // self.settings.updates for step in steps))}
        for path in set(self.ctx.scratch.glob("drawn-*.safetensors")) - needed:
            path.unlink()

    def groups(self, draw: int) -> list[Group]:
        """The prompts of a draw, answered by the model as it is now."""

        def told(task: Task, completions: list[Completion]) -> tuple[list[list[int]], list[bool], list[float]]:
            rewards = [float(judge_answer(self.tokenizer, task, c).passed) for c in completions]
            return [c.drawn for c in completions], [c.finished for c in completions], rewards

        return [Group(prompt, *found) for prompt, found in self.draws(draw, told)]

    def batches(self, groups: Sequence[Group]) -> list[Batch]:
        """Micro-batches of the groups that have something to say; if none has, of one answer at advantage 0."""
        told = [group for group in groups if not group.alike]
        samples = [
            (group.prompt, answer, advantage)
            for group in told
            for answer, advantage in zip(group.answers, group_advantages(torch.tensor([group.rewards]))[0].tolist(), strict=True)
        ] or [(groups[0].prompt, groups[0].answers[0], 0.0)]
        length = row_length(max(len(prompt) + len(answer) for prompt, answer, _ in samples), self.model.config.max_seq_len)
        size = self.settings.micro_samples or -(-len(samples) // World.current().size)
        batches = [_batch(samples[start : start + size], length) for start in range(0, len(samples), size)]
        if self.reference is not None:
            _add_logps(batches, "reference_BT", self.reference)
        rewards = [reward for group in groups for reward in group.rewards]
        unfinished = sum(not finished for group in groups for finished in group.finished)
        drawn = torch.tensor([len(rewards), sum(rewards), unfinished, len(groups), len(groups) - len(told)])
        for i, batch in enumerate(batches):
            batch.extra["drawn"] = drawn if i == 0 else torch.zeros_like(drawn)
        return batches


def _batch(samples: Sequence[tuple[list[int], list[int], float]], length: int) -> Batch:
    batch = pack([answered(prompt, answer) for prompt, answer, _ in samples], None, length)
    advantages_BT = torch.tensor([advantage for _, _, advantage in samples])[batch.documents_BT.clamp(min=0)]
    batch.extra["advantages_BT"] = advantages_BT.masked_fill(batch.documents_BT == PADDING, 0.0)
    return batch


def _padding_like(batch: Batch) -> Batch:
    """A batch of the same fields in which nothing is learnt and nothing was drawn."""
    padding = empty_batch(*batch.ids_BT.shape)
    padding.extra = {name: torch.zeros_like(value) for name, value in batch.extra.items()}
    return padding


def _add_logps(batches: Sequence[Batch], name: str, logps: Logps) -> None:
    """Give every batch its log-probabilities as `extra[name]`; each process computes some."""
    found = World.current().shared(batches, lambda mine: [logps(batch).tolist() for batch in mine])
    for batch, values in zip(batches, found, strict=True):
        batch.extra[name] = torch.tensor(values, dtype=torch.float32)


@torch.no_grad()
def _logps(model: Llama, batch: Batch) -> Tensor:
    return token_logps(model, beside(model, batch))


def _write(batches: Sequence[Batch], path: Path) -> None:
    """Batches as tensors, written whole or not at all."""
    parts = [{name: getattr(batch, name) for name in ROWS} | batch.extra for batch in batches]
    partial = path.with_suffix(".partial")
    save_file({f"{i}/{name}": value.contiguous() for i, part in enumerate(parts) for name, value in part.items()}, partial)
    partial.rename(path)


def _read(path: Path) -> list[Batch]:
    """What `_write` wrote."""
    parts: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        number, _, name = key.partition("/")
        parts.setdefault(int(number), {})[name] = value
    return [Batch(*map(part.pop, ROWS), extra=part) for _, part in sorted(parts.items())]  # type: ignore[misc, arg-type]


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train the policy on the verifiable prompts of the tasks."""
    return spread.on_ranks(_train, settings, ctx)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    policy, tasks = ctx.inputs.one("model"), ctx.inputs.one("tasks")
    model, tokenizer = lora.load(policy, settings.lora, ctx)
    model.to(settings.device)
    prompts = read_prompts(tasks, settings.prompts, tokenizer, model.config.max_seq_len, ctx, verified=True)
    if not prompts:
        return pass_on(policy, "no prompt can be verified", ctx)
    batches = GroupBatches(model, tokenizer, prompts, settings, ctx, _reference(settings, policy, model))
    judge = open_judge(tasks, tokenizer, limit=settings.dev, max_tokens=settings.max_tokens)
    result = gated.optimise(model, GroupLoss(settings.clip, settings.kl), batches, settings.steps, judge, settings, ctx)
    model = lora.finished(model, policy, settings.lora, ctx).to(settings.device)
    verdict = judge(model.eval())
    write_verdict(verdict, ctx.out)
    checkpoints.save(model, tokenizer, ctx, [policy])
    figures = ("policy", "kl") if settings.kl else ()
    return {"model": policy.name, "prompts": len(prompts), **gated.outcome(result, verdict, (*FIGURES, *figures), ctx)}


def _reference(settings: Settings, policy: Artifact, model: Llama) -> Logps | None:
    """The starting policy: the model with its adapters off, or where there are none a second copy."""
    if not settings.kl:
        return None
    start = model if settings.lora else checkpoints.load(policy)[0].to(settings.device)

    def logps(batch: Batch) -> Tensor:
        with lora.adapters_off(start):
            return _logps(start, batch)

    return logps
