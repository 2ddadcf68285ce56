"""Rejection sampling: draw k answers per prompt from the best policy so far, keep what is verified (section 4.2.2).

A sample is accepted only if the model ended it itself, the verifier passes it, and its text renders back to exactly the sampled
ids: training on other ids than were drawn would teach what nobody said. Among passing answers the reward model chooses, if
there is one; where a task has no verifier its best-scored answer is taken. Passing and failing answers of one prompt make
preference pairs (`puna.post.choose`). In later rounds the paper steers tone, style and form by system prompts, which may differ
by capability. Each request's random numbers depend on the stage and the task alone, so parts that were finished before a kill are
read back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt

from puna.core.errors import InputError
from puna.core.intervals import wilson
from puna.core.rng import python_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import Share, execution
from puna.core.stage import Artifact, StageContext
from puna.evals.stats import pass_at
from puna.infer.engine import Completion, Engine, Request
from puna.infer.load import check_device
from puna.infer.native import runs_native
from puna.model.checkpoint import load_model
from puna.model.llama import Llama
from puna.post import checkpoints
from puna.post.choose import Drawn, Kept, Scorer, drawn_from, select
from puna.post.gate import MAX_RUNNING
from puna.post.row_lineage import RecordedRows, terms_of_outputs
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Message, MessageLike, parse, render
from puna.tokenizer.dialog import Sample, Task, read_rows, write_rows
from puna.verify.check import verify, verify_many

KIND = "samples"
REVISION = 4  # the lineage of every row

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


class Drawing(BaseSettings):
    """Which prompts answers are drawn to, and how; `k` answers each.

    `precision` is that of the policy while it is sampled from: `auto` takes bfloat16 on a GPU and where the engine has compiled
    kernels for it, else float32.
    """

    prompts: PromptSlice = PromptSlice()
    k: int = Field(8, ge=1)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(64, ge=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: str = execution("cpu")

    def drawing(self) -> dict[str, Any]:
        """The part of it that a request to the engine takes."""
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}


class Steering(BaseSettings):
    """A system prompt for a `share` of the prompts, of one capability or (empty) of any."""

    system: str = Field(min_length=1)
    capability: str = ""
    share: Share = 1.0


class Settings(Drawing):
    """How to draw and what to keep.

    Attributes:
        capabilities, langs: of the tasks to sample on, empty for all; an expert samples on its own. `prompts` counts among these.
        k: answers per prompt (paper: 10 to 30).
        steer: system prompts, the first that fits a prompt; one with a system message of its own keeps it. `keep_system` leaves
            them in the rows that are learnt from, else the model learns to answer so without being told.
        match_language: accept only answers in the language of their prompt.
        cap: accepted answers per prompt, all of different reasoning.
        pairs_per_prompt: preference pairs of one passing and one failing answer.
        raw: also write `raw.jsonl`, the first ended answer of each prompt unchecked, as a contrast for distillation.
        round: recorded in the provenance of every row.
    """

    capabilities: tuple[str, ...] = ()
    langs: tuple[str, ...] = ()
    steer: tuple[Steering, ...] = ()
    keep_system: bool = False
    match_language: bool = False
    cap: int = Field(2, ge=0)
    pairs_per_prompt: int = Field(2, ge=0)
    raw: bool = False
    round: NonNegativeInt | None = None


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Sample, verify, select, write."""
    policy, tasks = ctx.inputs.one("model"), ctx.inputs.one("tasks")
    every = list(read_rows(tasks.path / "prompts.jsonl", Task))
    prompts = [task for task in every if is_wanted(task, settings)]
    if every and not prompts:
        held = ", ".join(sorted({task.capability for task in every})), ", ".join(sorted({task.lang for task in every}))
        fix = f"the tasks hold {held[0]} in {held[1]}"
        raise InputError("no prompt is of these capabilities and languages", where=ctx.name, fix=fix)
    start, end = settings.prompts.bounds(len(prompts))
    if settings.prompts.count is not None and end - start < settings.prompts.count:
        ctx.note(f"{end - start} prompts where {settings.prompts.count} were wanted: the tasks hold {len(prompts)}")
    model, tokenizer = open_policy(policy, settings)
    scorer = _scorer(ctx)
    wanted = _choosable(prompts[start:end], scorer, settings, ctx)
    systems = {task.id: steering(task, settings, ctx) for task in wanted}
    chosen = [task for task, _ in with_room([(task, systems[task.id]) for task in wanted], model, tokenizer, ctx)]
    engine = Engine(model, stop_ids=tokenizer.stop_ids, max_running=MAX_RUNNING)
    name, asked = parts_name("samples", model), [(task, systems[task.id]) for task in chosen]
    samples = list(_samples(engine, tokenizer, asked, policy.digest, settings, ctx, name))
    drawn = [
        drawn_from(tokenizer, task, samples[i * settings.k : (i + 1) * settings.k], systems[task.id])
        for i, task in enumerate(chosen)
    ]
    kept = select(drawn, scorer, policy.digest, settings, ctx, terms_of_outputs(policy))
    write(ctx, samples, kept, policy, settings)
    return {
        **rates(drawn, settings.k),
        "precision": precision_of(model),
        "prompts": len(chosen),
        "first_prompt": start,
        "samples": len(samples),
        "accepted": len(kept.accepted),
        "pairs": len(kept.preferences),
        "other_language": kept.other_language,
        "steered": sum(one.system is not None for one in drawn),
        "round": settings.round,
        "finished": sum(sample.finished for sample in samples),
        "unfaithful": sum(s.finished and not f for d in drawn for s, f in zip(d.samples, d.faithful, strict=True)),
    }


def open_policy(artifact: Artifact, settings: Drawing) -> tuple[Llama, Tokenizer]:
    """The policy as it is sampled from, on its device, and its tokenizer."""
    check_device(settings.device, "device")
    if settings.precision != "fp32":
        narrow = load_model(artifact.path, dtype=torch.bfloat16, device=settings.device).eval()
        if settings.precision == "bf16" or settings.device != "cpu" or runs_native(narrow):
            return narrow, Tokenizer.load(artifact.path)
    model, tokenizer = checkpoints.load(artifact)
    return model.to(settings.device), tokenizer


def precision_of(model: Llama) -> str:
    """The precision that a policy is sampled from in, for the record."""
    return "bf16" if model.model.embed_tokens.weight.dtype == torch.bfloat16 else "fp32"


def parts_name(name: str, model: Llama) -> str:
    """What the finished parts of a stage are called: those drawn in another precision are not gone on with."""
    return name if precision_of(model) == "fp32" else f"{name}-{precision_of(model)}"


def write(ctx: StageContext, samples: list[Sample], kept: Kept, policy: Artifact, settings: Settings) -> None:
    """The files of a `samples` artifact."""
    write_rows(ctx.out / "samples.jsonl", samples)
    write_rows(ctx.out / "accepted.jsonl", kept.accepted)
    write_rows(ctx.out / "preferences.jsonl", kept.preferences)
    if settings.raw:
        write_rows(ctx.out / "raw.jsonl", kept.raw)
    recorded = RecordedRows(ctx)
    for part in ("accepted", "preferences", "raw"):
        recorded.rows(part, getattr(kept, part))
    recorded.close(declare=False)
    origin = {"policy": policy.digest, "ancestors": sorted(checkpoints.ancestors(policy)), "round": settings.round}
    (ctx.out / checkpoints.POLICY).write_text(json.dumps(origin, indent=1) + "\n")


def is_wanted(task: Task, settings: Settings) -> bool:
    """Whether the stage samples on this task."""
    of_kind = not settings.capabilities or task.capability in settings.capabilities
    return of_kind and (not settings.langs or task.lang in settings.langs)


def steering(task: Task, settings: Settings, ctx: StageContext) -> str | None:
    """The system prompt that goes before this task's prompt, if any."""
    if task.prompt[0].role == "system":
        return None
    rng = python_stream(ctx.stream_seed("steer"), task.id)
    for entry in settings.steer:
        if rng.random() < entry.share and entry.capability in ("", task.capability):
            return entry.system
    return None


def _choosable(tasks: list[Task], scorer: Scorer | None, settings: Settings, ctx: StageContext) -> list[Task]:
    """The tasks among whose answers something can choose: a verifier or a reward model; all of them if raw answers are wanted."""
    found = tasks if scorer or settings.raw else [task for task in tasks if task.verifier]
    if len(found) < len(tasks):
        ctx.note(f"{len(tasks) - len(found)} prompts have no verifier and no reward model chooses here: left out")
    return found


def prompt_ids(tokenizer: Tokenizer, prompt: Iterable[MessageLike], system: str | None = None) -> list[int]:
    """Ids of a prompt, after a system message if there is one, with the open header of its answer."""
    before = [] if system is None else [Message("system", system)]
    return render(tokenizer, [*before, *prompt], generation_prompt=True).ids


Asked = tuple[Task, str | None]  # a task, and the system prompt put before it


def with_room(asked: Sequence[Asked], model: Llama, tokenizer: Tokenizer, ctx: StageContext) -> list[Asked]:
    """Those whose prompt leaves the model room for an answer; how many do not is noted."""
    limit = model.config.max_seq_len
    kept = [(task, system) for task, system in asked if len(prompt_ids(tokenizer, task.prompt, system)) < limit]
    if len(kept) < len(asked):
        ctx.note(f"{len(asked) - len(kept)} prompts leave the model no room for an answer: left out")
    return kept


def _samples(
    engine: Engine, tokenizer: Tokenizer, asked: list[Asked], policy: str, settings: Settings, ctx: StageContext, name: str
) -> Iterator[Sample]:
    """k samples per task, part by part; a part finished before a kill is read from scratch."""
    for number, first in enumerate(range(0, len(asked), PROMPTS_PER_PART)):
        part = asked[first : first + PROMPTS_PER_PART]
        yield from part_of(ctx, number, partial(_draw, engine, tokenizer, part, policy, settings, ctx), name=name)
        ctx.progress(min(len(asked), first + PROMPTS_PER_PART), len(asked), samples=(first + len(part)) * settings.k)


def part_of(
    ctx: StageContext, number: int, make: Callable[[], Iterable[Any]], cls: type[Any] = Sample, name: str = "samples"
) -> Iterator[Any]:
    """The rows of a part, made and kept in scratch as `name`-NUMBER.jsonl, or read from there; looks first whether to stop."""
    path = ctx.scratch / f"{name}-{number}.jsonl"
    if not path.exists():
        ctx.checkpoint_or_stop(lambda: None)
        unfinished = path.with_suffix(".partial")
        write_rows(unfinished, make())
        unfinished.rename(path)
    yield from read_rows(path, cls)


def _draw(
    engine: Engine, tokenizer: Tokenizer, asked: list[Asked], policy: str, settings: Settings, ctx: StageContext
) -> Iterator[Sample]:
    seeds = [ctx.stream_seed("samples", task.id) for task, _ in asked]
    requests = [
        Request(prompt_ids(tokenizer, task.prompt, system), n=settings.k, seed=seed, **settings.drawing())
        for (task, system), seed in zip(asked, seeds, strict=True)
    ]
    yield from samples_of(tokenizer, [task for task, _ in asked], seeds, engine.generate(requests), policy, settings)


def samples_of(
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    completions: Sequence[Sequence[Completion]],
    policy: str,
    settings: Settings,
) -> Iterator[Sample]:
    """The completions of each task as rows, verified; programs run side by side."""
    answers = list(zip(tasks, seeds, completions, strict=True))
    ended = [(task, parse(tokenizer, c.drawn)) for task, _, found in answers if task.verifier for c in found if c.finished]
    verdicts = iter(verify_many(ended))
    for task, seed, found in answers:
        for completion in found:
            passed = bool(task.verifier) and completion.finished and next(verdicts)
            yield sampled(tokenizer, task, completion, seed, policy, settings, passed=passed)


def sampled(
    tokenizer: Tokenizer,
    task: Task,
    completion: Completion,
    seed: int,
    policy: str,
    settings: Settings,
    begun: Sequence[int] = (),
    passed: bool | None = None,
) -> Sample:
    """The completion of an answer `begun` with some ids as a row; its ids keep the stop token, so what ended it is on record.

    `passed` is the verifier's verdict where that is known already.
    """
    written = [*begun, *completion.ids]
    ids = [*begun, *completion.drawn]
    scores = {"logprob": float(f"{completion.logprob:.6g}")}
    if task.verifier:
        scores["verifier"] = float(completion.finished and (verify(task, parse(tokenizer, ids)) if passed is None else passed))
    return Sample(
        task_id=task.id,
        policy=policy,
        temperature=settings.temperature,
        seed=seed,
        ids=ids,
        text=tokenizer.decode(written),
        finished=completion.finished,
        scores=scores,
    )


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


def rates(drawn: list[Drawn], k: int) -> dict[str, Any]:
    """Unbiased pass@1, 2, 4, ... k over the prompts with a verifier, and the interval of pass@k."""
    right = [sum(s.scores["verifier"] > 0 for s in one.samples) for one in drawn if one.task.verifier]
    powers = sorted({1, k} | {2**i for i in range(1, k.bit_length()) if 2**i <= k})
    if not right:
        return {"verifiable": 0, "pass_at": {}}
    rates = {str(n): round(sum(pass_at(n, k, c) for c in right) / len(right), 6) for n in powers}
    low, high = wilson(sum(c > 0 for c in right), len(right))
    return {"verifiable": len(right), "pass_at": rates, "pass_at_k_interval": [round(low, 6), round(high, 6)]}
