"""Answering verifiable tasks: the chat prompt, the engine, the verifier. One path for evaluation, dev scores and gates alike.

An answer counts only if the model ended it itself: what is cut at `max_tokens` fails, however right it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from puna.core.rng import derive_seed
from puna.infer.engine import Completion, Engine, Request
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import parse, render
from puna.tokenizer.dialog import Task
from puna.verify.check import verify_many


@dataclass
class Answer:
    """One answer to one task. `ids` leaves the stop token out; `text` is their plain decoding, special tokens by name."""

    task_id: str
    text: str
    passed: bool
    finished: bool = False
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0


def run_tasks(
    engine: Engine,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    *,
    max_tokens: int = 48,
    n: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """`n` answers per task, those of one task side by side, in the order of `tasks`.

    A task's random numbers depend on `seed` and its id, not on its place in the list. A prompt that leaves the model no room
    for an answer fails.
    """
    prompts = [render(tokenizer, task.prompt, generation_prompt=True).ids for task in tasks]
    fits = [len(prompt) < engine.max_seq_len for prompt in prompts]
    requests = [
        Request(prompt, n=n, temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=derive_seed(seed, task.id))
        for prompt, task, room in zip(prompts, tasks, fits, strict=True)
        if room
    ]
    completions = iter(engine.generate(requests, progress))
    answered = judge_many(
        tokenizer, [(task, c) for task, room in zip(tasks, fits, strict=True) if room for c in next(completions)]
    )
    judged = iter(answered)
    return [
        next(judged) if room else Answer(task.id, "", False) for task, room in zip(tasks, fits, strict=True) for _ in range(n)
    ]


def judge(tokenizer: Tokenizer, task: Task, completion: Completion) -> Answer:
    """Decode, parse and verify one completion."""
    return judge_many(tokenizer, [(task, completion)])[0]


def judge_many(tokenizer: Tokenizer, completions: Sequence[tuple[Task, Completion]]) -> list[Answer]:
    """Decode, parse and verify; programs run side by side."""
    ended = [(task, parse(tokenizer, c.drawn)) for task, c in completions if c.finished]
    verdicts = iter(verify_many(ended))
    return [
        Answer(task.id, tokenizer.decode(c.ids), c.finished and next(verdicts), c.finished, c.ids, c.logprob)
        for task, c in completions
    ]
