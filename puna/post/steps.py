"""Steps of a worked answer: where they end, what each is worth by roll-outs, and the rows that hold it (section 4.3.3).

The paper trains reward models that score each step of a solution. Nobody has to label them: from the end of a step the policy
finishes the answer many times, and the share that verifies estimates the step's worth (Wang et al. 2024, arXiv 2312.08935). The
last step, which ends the answer, is worth what the verifier says. `post.steps` writes the labels, `post.step_reward` learns them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from pydantic import Field, PositiveInt

from puna.core.rng import derive_seed
from puna.core.stage import StageContext
from puna.infer.engine import Engine, Request
from puna.post import reject
from puna.post.gate import MAX_RUNNING
from puna.post.reject import prompt_ids
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import parse
from puna.tokenizer.dialog import MessageRow, Row, Task, read_rows, write_rows
from puna.verify.check import verify

KIND = "steps"
REVISION = 2

LABELS, TOKENS = "labels.jsonl", "tokens.json"
ENDINGS = (b".", b"!", b"?", b";", b"\xe0\xa5\xa4")  # of a sentence; the last is the danda of Hindi
PROMPTS_PER_PART = 128  # prompts labelled between two looks at whether to stop


class Settings(reject.Drawing):
    """Which prompts, how answers are drawn (`k` of each), and how often each step is finished.

    Attributes:
        rollouts: completions from the end of each step; the error of a label is at most half over the root of it.
        most_steps: of an answer; later ones are not labelled.
    """

    k: int = Field(4, ge=1)
    rollouts: PositiveInt = 8
    most_steps: PositiveInt = 16


class Labelled(Row):
    """An answer (`ids`, its prompt left out) with the worth of its steps, whose last tokens are at `ends`."""

    task_id: str
    prompt: list[MessageRow]
    ids: list[int]
    ends: list[int]
    values: list[float]
    passed: bool


def step_ends(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Places of the last token of each step: a line's end, a sentence's end before white space, and the end of the answer."""
    pieces = [b"" if tokenizer.is_special(token) else tokenizer.token_bytes(token) for token in ids]
    ends: list[int] = []
    begun = False
    for place, piece in enumerate(pieces[:-1]):
        begun = begun or bool(piece.strip())
        following = pieces[place + 1][:1]
        sentence = piece.endswith(ENDINGS) and following.isspace() and following != b"\n"
        if begun and (b"\n" in piece or sentence):
            ends.append(place)
            begun = False
    return [*ends, len(ids) - 1] if ids else []


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Draw answers, finish them from every step, write `labels.jsonl`."""
    policy = ctx.inputs.one("model")
    model, tokenizer = reject.open_policy(policy, settings)
    prompts = [task for task in read_rows(ctx.inputs.one("tasks").path / "prompts.jsonl", Task) if task.verifier]
    start, end = settings.prompts.bounds(len(prompts))
    tasks = [task for task, _ in reject.with_room([(task, None) for task in prompts[start:end]], model, tokenizer, ctx)]
    engine = Engine(model, stop_ids=tokenizer.stop_ids, max_running=MAX_RUNNING)
    rows: list[Labelled] = []
    for number, first in enumerate(range(0, len(tasks), PROMPTS_PER_PART)):
        part = tasks[first : first + PROMPTS_PER_PART]
        make = partial(label, engine, tokenizer, part, settings, ctx.stream_seed("steps"))
        rows += reject.part_of(ctx, number, make, Labelled, reject.parts_name("labels", model))
        ctx.progress(first + len(part), len(tasks), answers=len(rows))
    write_rows(ctx.out / LABELS, rows)
    (ctx.out / TOKENS).write_text(json.dumps({"tokenizer": tokenizer.digest}) + "\n")
    return {"precision": reject.precision_of(model), **_summary(rows, len(tasks))}


def label(engine: Engine, tokenizer: Tokenizer, tasks: Sequence[Task], settings: Settings, seed: int) -> Iterator[Labelled]:
    """k answers to each task, each step with the share of its roll-outs that verify; equal beginnings are finished once."""
    prompts = [prompt_ids(tokenizer, task.prompt) for task in tasks]
    firsts = [
        Request(prompt, n=settings.k, seed=derive_seed(seed, task.id), **settings.drawing())
        for task, prompt in zip(tasks, prompts, strict=True)
    ]
    answers = [[completion.drawn for completion in found] for found in engine.generate(firsts)]
    begun = {
        (place, tuple(ids[: end + 1])): None
        for place, found in enumerate(answers)
        for ids in found
        for end in step_ends(tokenizer, ids)[:-1][: settings.most_steps]
    }
    worth = dict(zip(begun, _worth(engine, tokenizer, tasks, prompts, list(begun), settings, seed), strict=True))
    for place, (task, found) in enumerate(zip(tasks, answers, strict=True)):
        for ids in found:
            passed = right(tokenizer, task, ids)
            ends = step_ends(tokenizer, ids)
            kept = ends[:-1][: settings.most_steps]
            values = [worth[place, tuple(ids[: end + 1])] for end in kept]
            whole = len(kept) == len(ends) - 1
            yield Labelled(
                task_id=task.id, prompt=task.prompt, ids=ids, ends=kept + ends[-1:] * whole,
                values=values + [float(passed)] * whole, passed=passed,
            )  # fmt: skip


def _worth(
    engine: Engine, tokenizer: Tokenizer, tasks: Sequence[Task], prompts: Sequence[list[int]],
    begun: Sequence[tuple[int, tuple[int, ...]]], settings: Settings, seed: int,
) -> Iterator[float]:  # fmt: skip
    """Share of `rollouts` completions that verify, for each answer begun: (place of its task, its ids so far)."""
    requests, places = [], []
    for at, (place, ids) in enumerate(begun):
        room = min(settings.max_tokens - len(ids), engine.max_seq_len - len(prompts[place]) - len(ids))
        if room > 0:
            drawing = {**settings.drawing(), "max_tokens": room}
            own = derive_seed(seed, tasks[place].id, *ids)
            requests.append(Request([*prompts[place], *ids], n=settings.rollouts, seed=own, **drawing))
            places.append(at)
    found = dict(zip(places, engine.generate(requests), strict=True))
    for at, (place, ids) in enumerate(begun):  # without room for one more token nothing can be finished
        yield sum(right(tokenizer, tasks[place], [*ids, *c.drawn]) for c in found.get(at, ())) / settings.rollouts


def right(tokenizer: Tokenizer, task: Task, ids: Sequence[int]) -> bool:
    """Whether an answer is finished and verifies."""
    return bool(ids) and ids[-1] in tokenizer.stop_ids and verify(task, parse(tokenizer, ids))


def _summary(rows: Sequence[Labelled], prompts: int) -> dict[str, Any]:
    values = [value for row in rows for value in row.values]
    return {
        "prompts": prompts,
        "answers": len(rows),
        "steps": len(values),
        "passed": sum(row.passed for row in rows),
        "mean_value": round(sum(values) / len(values), 6) if values else None,
        "undecided": sum(0 < value < 1 for value in values),
    }
