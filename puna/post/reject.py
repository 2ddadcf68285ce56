"""Rejection sampling: draw k answers per prompt from the best policy so far, keep what is verified (section 4.2.2).

A sample is accepted only if the model ended it itself, the verifier passes it, and its text renders back to exactly the sampled
ids: training on other ids than were drawn would teach what nobody said. Among passing answers the reward model chooses, if
there is one; where a task has no verifier its best-scored answer is taken. Passing and failing answers of one prompt make
preference pairs. Each request's random numbers depend on the stage and the task alone, so parts that were finished before a
kill are read back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import Field, NonNegativeInt

from puna.core.intervals import wilson
from puna.core.rng import python_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.infer.engine import Completion, Engine, Request
from puna.post import checkpoints
from puna.post.gate import MAX_RUNNING
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Message, parse, render
from puna.tokenizer.dialog import (
    Candidate,
    Dialog,
    MessageRow,
    Preference,
    Provenance,
    Sample,
    Task,
    content_id,
    read_rows,
    write_rows,
)
from puna.verify.check import verify

KIND = "samples"
REVISION = 1

PROMPTS_PER_PART = 512  # prompts drawn between two looks at whether to stop


class PromptSlice(BaseSettings):
    """Which prompts of the tasks artifact: `count` from `start` (None: all that follow).

    With `of`, the number of prompts the recipe was written for, a smaller file shrinks `start` and `count` in proportion, so
    slices that were disjoint stay so.
    """

    start: int = Field(default=0, ge=0)
    count: int | None = Field(default=None, ge=0)
    of: int | None = Field(default=None, ge=1)

    def bounds(self, available: int) -> tuple[int, int]:
        """First and last-plus-one index among `available` prompts."""
        end = available if self.count is None else self.start + self.count
        if self.of is not None and available < self.of:
            return self.start * available // self.of, min(available, end * available // self.of)
        return min(self.start, available), min(end, available)


class Settings(BaseSettings):
    """How to draw and what to keep.

    Attributes:
        k: answers per prompt (paper: 10 to 30).
        cap: accepted answers per prompt, all different.
        pairs_per_prompt: preference pairs of one passing and one failing answer.
        raw: also write `raw.jsonl`, the first ended answer of each prompt unchecked, as a contrast for distillation.
        round: recorded in the provenance of every row.
    """

    prompts: PromptSlice = PromptSlice()
    k: int = Field(8, ge=1)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(64, ge=1)
    cap: int = Field(2, ge=0)
    pairs_per_prompt: int = Field(2, ge=0)
    raw: bool = False
    round: NonNegativeInt | None = None


class Scorer(Protocol):
    """What the choice among passing answers needs of a reward model."""

    def score(self, dialogs: list[list[MessageRow]]) -> list[float]:
        """A reward per dialog."""
        ...


@dataclass
class Drawn:
    """A prompt with its samples and their parsed messages, in the order drawn."""

    task: Task
    samples: list[Sample]
    messages: list[Message]
    faithful: list[bool]

    def distinct(self, passed: bool) -> list[int]:
        """Indices of ended, faithful answers that pass (or fail), the first of each text."""
        seen: dict[str, int] = {}
        for i, sample in enumerate(self.samples):
            if sample.finished and self.faithful[i] and (sample.scores.get("verifier", 0.0) > 0) is passed:
                seen.setdefault(" ".join(sample.text.casefold().split()), i)
        return list(seen.values())


@dataclass
class Kept:
    """What rejection sampling leaves."""

    accepted: list[Dialog] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    raw: list[Dialog] = field(default_factory=list)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Sample, verify, select, write."""
    policy, tasks = ctx.inputs.one("model"), ctx.inputs.one("tasks")
    prompts = list(read_rows(tasks.path / "prompts.jsonl", Task))
    start, end = settings.prompts.bounds(len(prompts))
    if settings.prompts.count is not None and end - start < settings.prompts.count:
        ctx.note(f"{end - start} prompts where {settings.prompts.count} were wanted: the tasks hold {len(prompts)}")
    model, tokenizer = checkpoints.load(policy)
    scorer = _scorer(ctx)
    wanted = _choosable(prompts[start:end], scorer, settings, ctx)
    chosen = [task for task in wanted if _prompt_tokens(tokenizer, task) < model.config.max_seq_len]
    if len(chosen) < len(wanted):
        ctx.note(f"{len(wanted) - len(chosen)} prompts leave the model no room for an answer: left out")
    engine = Engine(model, stop_ids=tokenizer.stop_ids, max_running=MAX_RUNNING)
    samples = list(_samples(engine, tokenizer, chosen, policy.digest, settings, ctx))
    drawn = [_drawn(tokenizer, task, samples[i * settings.k : (i + 1) * settings.k]) for i, task in enumerate(chosen)]
    kept = select(drawn, scorer, policy.digest, settings, ctx)
    write_rows(ctx.out / "samples.jsonl", samples)
    write_rows(ctx.out / "accepted.jsonl", kept.accepted)
    write_rows(ctx.out / "preferences.jsonl", kept.preferences)
    if settings.raw:
        write_rows(ctx.out / "raw.jsonl", kept.raw)
    origin = {"policy": policy.digest, "ancestors": sorted(checkpoints.ancestors(policy)), "round": settings.round}
    (ctx.out / checkpoints.POLICY).write_text(json.dumps(origin, indent=1) + "\n")
    return {
        **_rates(drawn, settings.k),
        "prompts": len(chosen),
        "first_prompt": start,
        "samples": len(samples),
        "accepted": len(kept.accepted),
        "pairs": len(kept.preferences),
        "round": settings.round,
        "finished": sum(sample.finished for sample in samples),
        "unfaithful": sum(s.finished and not f for d in drawn for s, f in zip(d.samples, d.faithful, strict=True)),
    }


def _choosable(tasks: list[Task], scorer: Scorer | None, settings: Settings, ctx: StageContext) -> list[Task]:
    """The tasks among whose answers something can choose: a verifier or a reward model; all of them if raw answers are wanted."""
    found = tasks if scorer or settings.raw else [task for task in tasks if task.verifier]
    if len(found) < len(tasks):
        ctx.note(f"{len(tasks) - len(found)} prompts have no verifier and there is no reward model to choose: left out")
    return found


def _prompt_tokens(tokenizer: Tokenizer, task: Task) -> int:
    return len(render(tokenizer, task.prompt, generation_prompt=True).ids)


def _samples(
    engine: Engine, tokenizer: Tokenizer, tasks: list[Task], policy: str, settings: Settings, ctx: StageContext
) -> Iterator[Sample]:
    """k samples per task, part by part; a part finished before a kill is read from scratch."""
    for number, first in enumerate(range(0, len(tasks), PROMPTS_PER_PART)):
        part = tasks[first : first + PROMPTS_PER_PART]
        path = ctx.scratch / f"samples-{number}.jsonl"
        if not path.exists():
            ctx.checkpoint_or_stop(lambda: None)
            partial = path.with_suffix(".partial")
            write_rows(partial, _draw(engine, tokenizer, part, policy, settings, ctx))
            partial.rename(path)
        yield from read_rows(path, Sample)
        ctx.progress(min(len(tasks), first + PROMPTS_PER_PART), len(tasks), samples=(first + len(part)) * settings.k)


def _draw(
    engine: Engine, tokenizer: Tokenizer, tasks: list[Task], policy: str, settings: Settings, ctx: StageContext
) -> Iterator[Sample]:
    seeds = [ctx.stream_seed("samples", task.id) for task in tasks]
    requests = [
        Request(render(tokenizer, task.prompt, generation_prompt=True).ids, n=settings.k, temperature=settings.temperature,
                top_p=settings.top_p, max_tokens=settings.max_tokens, seed=seed)
        for task, seed in zip(tasks, seeds, strict=True)
    ]  # fmt: skip
    for task, seed, completions in zip(tasks, seeds, engine.generate(requests), strict=True):
        for completion in completions:
            yield _sample(tokenizer, task, completion, seed, policy, settings)


def _sample(tokenizer: Tokenizer, task: Task, completion: Completion, seed: int, policy: str, settings: Settings) -> Sample:
    """The completion as a row; its ids keep the stop token, so that what ended it is on record."""
    ids = completion.ids + ([] if completion.stop_id is None else [completion.stop_id])
    scores = {"logprob": float(f"{completion.logprob:.6g}")}
    if task.verifier:
        scores["verifier"] = float(completion.finished and verify(task, parse(tokenizer, ids)))
    return Sample(
        task_id=task.id,
        policy=policy,
        temperature=settings.temperature,
        seed=seed,
        ids=ids,
        text=tokenizer.decode(completion.ids),
        finished=completion.finished,
        scores=scores,
    )


def _drawn(tokenizer: Tokenizer, task: Task, samples: list[Sample]) -> Drawn:
    messages = [parse(tokenizer, sample.ids) for sample in samples]
    return Drawn(task, samples, messages, [_faithful(tokenizer, m, s.ids) for m, s in zip(messages, samples, strict=True)])


def _faithful(tokenizer: Tokenizer, message: Message, ids: list[int]) -> bool:
    """Whether rendering the parsed message gives the sampled ids again (not so when a model spells a word in odd pieces)."""
    rendered = render(tokenizer, [message])
    return rendered.ids[rendered.spans[0][0] :] == ids


def _scorer(ctx: StageContext) -> Scorer | None:
    """The reward model among the inputs, unless it had too little to learn from."""
    reward = ctx.inputs.optional("reward")
    if reward is None:
        return None
    from puna.post.reward import load_reward

    scorer = load_reward(reward.path)
    if scorer is None:
        ctx.note(f"{reward.name} was not trained for want of pairs: passing answers are chosen at random")
    return scorer


def select(drawn: list[Drawn], scorer: Scorer | None, policy: str, settings: Settings, ctx: StageContext) -> Kept:
    """Accepted dialogs, preference pairs and, if wanted, raw dialogs."""
    kept = Kept()
    candidates = [one.distinct(bool(one.task.verifier)) for one in drawn]
    scores = _scores(drawn, candidates, scorer)
    for one, passing, scored in zip(drawn, candidates, scores, strict=True):
        rng = python_stream(ctx.stream_seed("select"), one.task.id)
        order = sorted(passing, key=lambda i: (-scored[i], i)) if scored else rng.sample(passing, len(passing))
        if one.task.verifier:
            kept.accepted += [_dialog(one, i, policy, settings, {"verifier": "pass"}) for i in order[: settings.cap]]
            failing = one.distinct(False) if order else []
            for i in rng.sample(failing, min(settings.pairs_per_prompt, len(failing))):
                kept.preferences.append(_pair(one, rng.choice(order), i, policy, settings))
        elif scored:
            kept.accepted += [_dialog(one, i, policy, settings, {"reward": "best of k"}) for i in order[: min(1, settings.cap)]]
        ended = [i for i, sample in enumerate(one.samples) if sample.finished and one.faithful[i]]
        kept.raw += [_dialog(one, i, policy, settings, {"verifier": "not checked"}) for i in ended[:1]]
    return kept


def _scores(drawn: list[Drawn], candidates: list[list[int]], scorer: Scorer | None) -> list[dict[int, float]]:
    """Reward of each candidate answer by its index, per prompt; empty without a reward model or where there is no choice."""
    chosen = [
        (place, i) for place, found in enumerate(candidates) for i in found if len(found) > 1 or not drawn[place].task.verifier
    ]
    scores: list[dict[int, float]] = [{} for _ in drawn]
    if scorer is not None and chosen:
        dialogs = [[*drawn[p].task.prompt, MessageRow.model_validate(drawn[p].messages[i])] for p, i in chosen]
        for (place, i), value in zip(chosen, scorer.score(dialogs), strict=True):
            scores[place][i] = value
    return scores


def _dialog(one: Drawn, i: int, policy: str, settings: Settings, checks: dict[str, str]) -> Dialog:
    messages = [*one.task.prompt, MessageRow.model_validate(one.messages[i])]
    return Dialog(
        id=content_id(messages),
        messages=messages,
        lang=one.task.lang,
        capability=one.task.capability,
        provenance=_provenance(one.task, policy, settings, checks),
    )


def _pair(one: Drawn, good: int, bad: int, policy: str, settings: Settings) -> Preference:
    candidates = [Candidate(messages=[MessageRow.model_validate(one.messages[i])], origin="policy") for i in (good, bad)]
    return Preference(
        id=content_id({"context": one.task.prompt, "candidates": candidates}),
        context=one.task.prompt,
        candidates=candidates,
        ranking=[0, 1],
        strength="significantly",
        kind="verifier",
        provenance=_provenance(one.task, policy, settings, {"verifier": "pass over fail"}),
    )


def _provenance(task: Task, policy: str, settings: Settings, checks: dict[str, str]) -> Provenance:
    source = task.provenance
    return Provenance(
        source=source.source,
        licence=source.licence,
        teacher=policy or None,
        round=settings.round,
        parents=[task.id],
        checks=checks,
    )


def _rates(drawn: list[Drawn], k: int) -> dict[str, Any]:
    """Unbiased pass@1, 2, 4, ... k over the prompts with a verifier, and the interval of pass@k."""
    right = [sum(s.scores["verifier"] > 0 for s in one.samples) for one in drawn if one.task.verifier]
    powers = sorted({1, k} | {2**i for i in range(1, k.bit_length()) if 2**i <= k})
    if not right:
        return {"verifiable": 0, "pass_at": {}}
    rates = {str(n): round(sum(pass_at(n, k, c) for c in right) / len(right), 6) for n in powers}
    low, high = wilson(sum(c > 0 for c in right), len(right))
    return {"verifiable": len(right), "pass_at": rates, "pass_at_k_interval": [round(low, 6), round(high, 6)]}


def pass_at(n: int, k: int, right: int) -> float:
    """Chance that n of k samples, drawn without replacement, hold a right one of `right` (Chen et al. 2021, eq. 1)."""
    return 1.0 - math.comb(k - right, n) / math.comb(k, n)
