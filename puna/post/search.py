"""Monte-Carlo tree search over the steps of an answer, for prompts that rejection sampling found no right answer to (4.3.3).

A node is an answer so far, up to the end of a step. A simulation walks down from the empty answer by what the step model and the
visits so far say (UCT, Kocsis and Szepesvari 2006, values scaled to those of the tree), draws `k` whole continuations there,
checks each with the verifier, and makes their first steps new nodes. Drawing again at a node is a choice beside its children:
what the first draws missed stays within reach. All prompts advance together; prompts and beginnings come from the engine's prefix
cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.core.stage import Artifact, StageContext
from puna.infer.engine import Engine, Request
from puna.post import reject
from puna.post.choose import drawn_from, select
from puna.post.gate import MAX_RUNNING
from puna.post.reject import Asked, prompt_ids
from puna.post.reward_measure import mean_interval
from puna.post.row_lineage import terms_of_outputs
from puna.post.step_reward import load_steps
from puna.post.steps import step_ends
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Sample, Task, read_rows

KIND = "samples"
REVISION = 2

PROMPTS_PER_PART = 128  # prompts searched together, between two looks at whether to stop
Values = Callable[[Sequence[Sequence[int]]], list[float]]  # chance of a right end, for prompts with their answers so far


class Settings(reject.Settings):
    """Those of `post.reject`, where `k` continuations are drawn at a time and `prompts` counts hard ones only.

    Attributes:
        simulations: walks per prompt; the search of a prompt ends with its first right answer.
        exploration: weight of what was seldom visited.
    """

    k: int = Field(4, ge=1)
    simulations: PositiveInt = 16
    exploration: NonNegativeFloat = 0.5


@dataclass
class Node:
    """An answer so far. `value` is the step model's; `total` sums what visits found below it, `draws` counts those at it."""

    ids: tuple[int, ...]
    value: float
    parent: Node | None = None
    children: dict[tuple[int, ...], Node] = field(default_factory=dict)
    visits: int = 1
    total: float = 0.0
    draws: int = 0

    def __post_init__(self) -> None:
        self.total = self.value


@dataclass
class Tree:
    """The search for one prompt: its samples in the order drawn, and the range of values met so far."""

    task: Task
    prompt: list[int]
    root: Node
    samples: list[Sample] = field(default_factory=list)
    low: float = math.inf
    high: float = -math.inf

    def choose(self, exploration: float) -> Node:
        """The node to draw at next."""
        node = self.root
        while node.draws:
            parent = node
            best = max(parent.children.values(), key=lambda n: self._urge(n.total / n.visits, n.visits, parent, exploration),
                       default=None)  # fmt: skip
            if best is None:
                return node
            again = self._urge(node.value, node.draws, node, exploration)
            if again >= self._urge(best.total / best.visits, best.visits, node, exploration):
                return node
            node = best
        return node

    def _urge(self, mean: float, visits: int, parent: Node, exploration: float) -> float:
        scaled = (mean - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return scaled + exploration * math.sqrt(math.log(1 + parent.visits) / visits)

    def found(self) -> bool:
        """Whether an answer verified."""
        return any(sample.scores["verifier"] > 0 for sample in self.samples)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Search on the hard prompts of the `samples` inputs; write what rejection sampling writes."""
    policy = ctx.inputs.one("model")
    model, tokenizer = reject.open_policy(policy, settings)
    scorer = load_steps(ctx.inputs.one("step_reward"))
    if scorer.tokenizer.digest != tokenizer.digest:
        raise InputError("the step model has another tokenizer than the policy", where=policy.name, fix="train one on its labels")
    hard = [task for task in hard_tasks(ctx.inputs.one("tasks"), ctx.inputs.all("samples")) if reject.is_wanted(task, settings)]
    start, end = settings.prompts.bounds(len(hard))
    asked = [(task, reject.steering(task, settings, ctx)) for task in hard[start:end]]
    asked = reject.with_room(asked, model, tokenizer, ctx)
    engine = Engine(model, stop_ids=tokenizer.stop_ids, max_running=MAX_RUNNING)
    samples: list[Sample] = []
    for number, first in enumerate(range(0, len(asked), PROMPTS_PER_PART)):
        part = asked[first : first + PROMPTS_PER_PART]

        def make(part: list[Asked] = part) -> Iterator[Sample]:
            for tree in search(engine, tokenizer, part, scorer.values, policy.digest, settings, ctx.stream_seed("search")):
                yield from tree.samples

        samples += reject.part_of(ctx, number, make, name=reject.parts_name("samples", model))
        ctx.progress(first + len(part), len(asked), samples=len(samples))
    by_task: dict[str, list[Sample]] = {task.id: [] for task, _ in asked}
    for sample in samples:
        by_task[sample.task_id].append(sample)
    drawn = [drawn_from(tokenizer, task, by_task[task.id], system) for task, system in asked]
    kept = select(drawn, None, policy.digest, settings, ctx, terms_of_outputs(policy))
    reject.write(ctx, samples, kept, policy, settings)
    solved = [float(any(sample.scores["verifier"] > 0 for sample in found)) for found in by_task.values()]
    return {
        "precision": reject.precision_of(model),
        "hard_prompts": len(hard),
        "prompts": len(asked),
        "solved": mean_interval(solved),
        "samples": len(samples),
        "accepted": len(kept.accepted),
        "pairs": len(kept.preferences),
        "other_language": kept.other_language,
        "round": settings.round,
    }


def hard_tasks(tasks: Artifact, samples: Sequence[Artifact]) -> list[Task]:
    """The tasks with a verifier that were sampled on and never answered rightly, in the order of the file."""
    tried: dict[str, bool] = {}
    for artifact in samples:
        for sample in read_rows(artifact.path / "samples.jsonl", Sample):
            tried[sample.task_id] = tried.get(sample.task_id, False) or sample.scores.get("verifier", 0.0) > 0
    rows = read_rows(tasks.path / "prompts.jsonl", Task)
    return [task for task in rows if task.verifier and tried.get(task.id) is False]


def search(
    engine: Engine,
    tokenizer: Tokenizer,
    asked: Sequence[Asked],
    values: Values,
    policy: str,
    settings: Settings,
    seed: int,
) -> list[Tree]:
    """One tree per task and its system prompt, walked until an answer verifies or `simulations` are spent."""
    prompts = [prompt_ids(tokenizer, task.prompt, system) for task, system in asked]
    trees = [Tree(task, p, Node((), value)) for (task, _), p, value in zip(asked, prompts, values(prompts), strict=True)]
    for _ in range(settings.simulations):
        open_trees = [tree for tree in trees if not tree.found()]
        if not open_trees:
            break
        _simulate(engine, tokenizer, open_trees, values, policy, settings, seed)
    return trees


def _simulate(
    engine: Engine, tokenizer: Tokenizer, trees: Sequence[Tree], values: Values, policy: str, settings: Settings, seed: int
) -> None:
    """One walk in every tree: draw, verify, add nodes, and tell those above what was found."""
    chosen = [tree.choose(settings.exploration) for tree in trees]
    seeds = [derive_seed(seed, tree.task.id, node.draws, *node.ids) for tree, node in zip(trees, chosen, strict=True)]
    requests = [
        Request([*tree.prompt, *node.ids], n=settings.k, seed=own, **{**settings.drawing(), "max_tokens": room(node, settings)})
        for tree, node, own in zip(trees, chosen, seeds, strict=True)
    ]
    fresh: list[tuple[Tree, Node, tuple[int, ...]]] = []
    for tree, node, own, completions in zip(trees, chosen, seeds, engine.generate(requests), strict=True):
        node.draws += 1
        for completion in completions:
            sample = reject.sampled(tokenizer, tree.task, completion, own, policy, settings, begun=node.ids)
            tree.samples.append(sample)
            step = _next_step(tokenizer, sample.ids, node.ids)
            limit = engine.max_seq_len - len(tree.prompt)
            if step and step not in node.children and len(step) < min(settings.max_tokens, limit):
                fresh.append((tree, node, step))
    found = values([[*tree.prompt, *step] for tree, _, step in fresh])
    best = {id(node): 0.0 for node in chosen}
    for (tree, node, step), value in zip(fresh, found, strict=True):
        node.children[step] = Node(step, value, node)
        tree.low, tree.high = min(tree.low, value), max(tree.high, value)
        best[id(node)] = max(best[id(node)], value)
    for node in chosen:
        _tell(node, best[id(node)])


def room(node: Node, settings: Settings) -> int:
    """Tokens that an answer may still have."""
    return settings.max_tokens - len(node.ids)


def _next_step(tokenizer: Tokenizer, ids: Sequence[int], begun: Sequence[int]) -> tuple[int, ...] | None:
    """The answer up to the end of its first new step; None where that ends the answer."""
    ends = [end for end in step_ends(tokenizer, ids)[:-1] if end >= len(begun)]
    return tuple(ids[: ends[0] + 1]) if ends else None


def _tell(node: Node | None, value: float) -> None:
    """Count a visit that found `value` in a node and all above it."""
    while node is not None:
        node.visits += 1
        node.total += value
        node = node.parent
