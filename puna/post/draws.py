"""Answers that a model in training gives to prompts, for whoever learns from them at once: GRPO and on-policy distillation.

They are drawn at temperature 1, so that what is learnt from is the model itself, from the weights of the moment and from named
streams alone: a run that was stopped has the weights of its checkpoint and draws the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from puna.core.rng import derive_seed
from puna.core.stage import Artifact, StageContext
from puna.infer.engine import Completion, Engine, Request
from puna.model.llama import Llama
from puna.post.gate import MAX_RUNNING
from puna.post.reject import PromptSlice
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import render
from puna.tokenizer.dialog import Task, read_rows
from puna.train.packing import Example, epochs
from puna.train.world import World

Prompt = tuple[Task, list[int]]  # and its ids


def read_prompts(
    tasks: Artifact, wanted: PromptSlice, tokenizer: Tokenizer, limit: int, ctx: StageContext, *, verified: bool
) -> list[Prompt]:
    """The wanted prompts that leave room for an answer within `limit` tokens, if `verified` those with a verifier alone."""
    rows = list(read_rows(tasks.path / "prompts.jsonl", Task))
    start, end = wanted.bounds(len(rows))
    usable = [task for task in rows[start:end] if task.verifier or not verified]
    encoded = [(task, render(tokenizer, task.prompt, generation_prompt=True).ids) for task in usable]
    fitting = [(task, ids) for task, ids in encoded if len(ids) < limit]
    if len(fitting) < end - start:
        ctx.note(f"{len(encoded) - len(fitting)} of {end - start} prompts leave the model no room for an answer and "
                 f"{end - start - len(encoded)} cannot be verified: left out")  # fmt: skip
    return fitting


class Draws:
    """`self(draw, told)` are the prompts of one draw, each with what is told of the `k` answers of the model as it is now.

    Args:
        stage: names the stream of the order in which prompts come, e.g. "post.grpo".
    """

    def __init__(
        self, model: Llama, tokenizer: Tokenizer, prompts: Sequence[Prompt], ctx: StageContext, stage: str, *,
        per_draw: int, k: int, max_tokens: int,
    ):  # fmt: skip
        self.prompts, self.ctx = prompts, ctx
        self.per_draw, self.k, self.max_tokens = per_draw, k, max_tokens
        self.engine = Engine(model, stop_ids=tokenizer.stop_ids, max_running=MAX_RUNNING, kernels="torch")
        self._order = epochs(len(prompts), derive_seed(ctx.seed, stage))

    def __call__(self, draw: int, told: Callable[[Task, list[Completion]], Any]) -> list[tuple[list[int], Any]]:
        """Ids of each prompt, and what `told` says of its answers, as JSON; each process answers some, and all get all."""
        first = draw * self.per_draw
        chosen = [self.prompts[self._order[first + i]] for i in range(self.per_draw)]
        requests = [
            Request(ids, n=self.k, temperature=1.0, max_tokens=self.max_tokens, seed=self.ctx.stream_seed("draw", first + i))
            for i, (_, ids) in enumerate(chosen)
        ]
        self.engine.forget()

        def found(mine: Sequence[tuple[Task, Request]]) -> list[Any]:
            answers = self.engine.generate([request for _, request in mine])
            return [told(task, one) for (task, _), one in zip(mine, answers, strict=True)]

        asked = [(task, request) for (task, _), request in zip(chosen, requests, strict=True)]
        return [(ids, one) for (_, ids), one in zip(chosen, World.current().shared(asked, found), strict=True)]


def answered(prompt: Sequence[int], answer: Sequence[int]) -> Example:
    """A prompt with an answer behind it, of which the answer alone is learnt."""
    return [*prompt, *answer], [0] * len(prompt) + [1] * len(answer)
