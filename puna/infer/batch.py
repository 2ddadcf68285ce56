"""`puna generate`: K samples for every prompt of a file, scored if asked, on one engine or on many (paper 4.2.2).

Windows of rows are the unit: one is answered by an idle engine, its lines are written to a part file by rename, and parts are
appended to the output in the order of the input. So the output is the same to the byte whether one process answers or many, and
whether it was killed on the way; what is finished is kept. The one thing beside the job that can show in the last digits is how
many threads PyTorch's steps use (`threads`); the native steps of `puna.infer.kernels` round alike with any number.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.infer.batch_rows import MOST_SAMPLES, Plan, PromptRow, Reader, Window, plan_windows
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Message, parse, render

if TYPE_CHECKING:
    from puna.infer.engine import Completion, Engine, Request
    from puna.infer.native import Kernels
    from puna.infer.reward_scores import Reward

SAMPLES_PER_WINDOW = 512  # two full batches of an engine: the last answers of a window leave it idle for a small share
LOGPROB_DIGITS = 4
MODEL_SUFFIXES = (".safetensors", ".json", ".model")  # of the files a model is read from
Answered = tuple[int, PromptRow, list[int]]  # line number, row, prompt ids


@dataclass(frozen=True)
class Job:
    """What to do with every row; a row's own fields come before `n`, `temperature`, `top_p`, `max_tokens` and `seed`.

    Attributes:
        seed: a row without one has its own, from this and its line number.
        score: "" for none, "verify" for the verdict (0 or 1) of the row's verifier, "reward:DIR" for a reward model's score.
        best: keep only the sample with the highest score, the first of equals.
        window: rows answered together; 0 for about 512 samples.
        kernels, device: of the engine (`puna.infer.load.load_engine`).
    """

    model: Path
    prompts: Path
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0
    score: str = ""
    best: bool = False
    window: int = 0
    kernels: Kernels = "auto"
    device: str = "cpu"

    @property
    def rows_per_window(self) -> int:
        return self.window or max(1, SAMPLES_PER_WINDOW // self.n)

    @property
    def reward(self) -> Path | None:
        """The directory of the reward model."""
        return Path(self.score.removeprefix("reward:")) if self.score.startswith("reward:") else None

    def check(self) -> None:
        """InputError for settings that make no sense together."""
        if self.reward is None and self.score not in ("", "verify"):
            fix = "--score verify, or --score reward:DIR with a reward model's directory"
            raise InputError(f"there is no score called '{self.score}'", where="--score", fix=fix)
        if not 1 <= self.n <= MOST_SAMPLES:
            raise InputError(f"{self.n} samples of each row are not offered", where="--n", fix=f"1 to {MOST_SAMPLES}")
        if self.best and not self.score:
            raise InputError("the best of the samples needs a score", where="--best", fix="add --score verify or reward:DIR")


def generate(
    job: Job, out: Path, *, replicas: int = 1, ray: bool = False, threads: int | None = None, skip_bad: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Answer every row of `job.prompts` into `out`, a line per row in the order of the input; how many rows, how many kept.

    With scores also how many samples have one, and their mean.

    Args:
        replicas: engines at work at once, a process each; with `ray` they are tasks of a Ray cluster.
        threads: of each engine; None shares the cores out, and is one for a task of Ray.
        skip_bad: leave bad rows out and list them in OUT.bad.jsonl; otherwise the first is an InputError before anything runs.
        progress: called with (rows written, rows in all).

    A line is {"id", "samples": [{"text", "tool_calls"?, "finish_reason", "tokens", "logprob", "score"?}]}: `id` is the row's or
    its line number, `tokens` and `logprob` (a sum, before temperature) count the stop token. Raises InputError for an `out` that
    is the work of another job.
    """
    from puna.core.lease import Lease
    from puna.infer.load import check_device, check_kernels

    job.check()
    check_device(job.device)
    check_kernels(job.kernels)
    plan = plan_windows(_reader(job), job.rows_per_window, _beside(out, "bad.jsonl") if skip_bad else None)
    with Lease(_beside(out, "lock")).held("the output", fix="wait for it, or write to another file"):
        return _run(job, out, plan, replicas, ray, threads, progress)


def _run(
    job: Job, out: Path, plan: Plan, replicas: int, ray: bool, threads: int | None, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    from puna.core.hardware import usable_cores
    from puna.data.engine import EngineSettings, map_shards

    _claim(out, _identity(job, plan))
    writer = _Writer(out, plan, progress)
    left = plan.windows[writer.windows :]
    kept, workers = writer.rows, max(1, min(replicas, len(left)))
    if workers > 1 and threads is None:
        threads = 1 if ray else max(1, usable_cores() // workers)
    where = EngineSettings(name="serial" if workers == 1 else "ray" if ray else "processes")
    work = partial(_answer_window, job=job, parts=writer.parts, threads=threads)
    map_shards(work, left, engine=where, workers=workers, done=lambda _: writer.append())
    shutil.rmtree(writer.parts)
    return {"rows": plan.rows, "kept": kept, **(_totals(out) if job.score else {})}


def _totals(out: Path) -> dict[str, Any]:
    """Over all samples that were written: how many have a score, and its mean (of verdicts, the share that passed)."""
    scored, total = 0, 0.0
    with out.open(encoding="utf-8") as file:
        for line in file:
            scores = [sample["score"] for sample in json.loads(line)["samples"] if sample["score"] is not None]
            scored, total = scored + len(scores), total + sum(scores)
    return {"scored": scored, "mean_score": total / scored if scored else None}


class _Writer:
    """Appends part files to the output, in order; what is there at the start is kept up to its last whole window."""

    def __init__(self, out: Path, plan: Plan, progress: Callable[[int, int], None]):
        self.out, self.plan, self.progress = out, plan, progress
        self.parts = _beside(out, "parts")
        self.parts.mkdir(exist_ok=True)
        self.windows, size = _whole_windows(out, plan)
        with out.open("ab") as file:
            file.truncate(size)
        self.append()

    @property
    def rows(self) -> int:
        """Rows written."""
        return sum(window.rows for window in self.plan.windows[: self.windows])

    def append(self) -> None:
        """Append the parts that are due; a later one waits."""
        while self.windows < len(self.plan.windows) and (part := _part(self.parts, self.windows)).exists():
            lines = part.read_bytes()
            if lines.count(b"\n") != self.plan.windows[self.windows].rows:
                part.unlink()  # the machine stopped before the disk had it
                return
            with self.out.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            self.windows += 1
            part.unlink()
        self.progress(self.rows, self.plan.rows)


def _answer_window(window: Window, *, job: Job, parts: Path, threads: int | None) -> None:
    """Write the lines of one window, if they are not there."""
    part = _part(parts, window.index)
    if part.exists():
        return
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    rows = list(islice(_reader(job).rows(window.start, window.line, lambda line, reason: None), window.rows))
    partial_path = part.with_suffix(".partial")
    with partial_path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in _lines(job, rows))
        file.flush()
        os.fsync(file.fileno())
    partial_path.replace(part)


def _lines(job: Job, rows: list[Answered]) -> list[dict[str, Any]]:
    """What is written of each row."""
    engine, tokenizer = _engine(job.model, job.kernels, job.device), _reader(job).tokenizer
    engine.forget()  # what a window says must not depend on the windows before it
    answers = engine.generate([_request(job, tokenizer, *row) for row in rows])
    lines = []
    for (number, row, _), completions in zip(rows, answers, strict=True):
        messages = [_message(tokenizer, row, completion) for completion in completions]
        samples = [_sample(message, completion) for message, completion in zip(messages, completions, strict=True)]
        if job.score:
            for sample, score in zip(samples, _scores(job, tokenizer, number, row, messages, completions), strict=True):
                sample["score"] = score
        if job.best:
            samples = [max(samples, key=lambda sample: -math.inf if sample["score"] is None else sample["score"])]
        lines.append({"id": number if row.id is None else row.id, "samples": samples})
    return lines


def _request(job: Job, tokenizer: Tokenizer, number: int, row: PromptRow, ids: list[int]) -> Request:
    from puna.infer.engine import Request
    from puna.infer.shaping import Shaping

    return Request(
        ids,
        n=row.n or job.n,
        temperature=job.temperature if row.temperature is None else row.temperature,
        top_p=row.top_p or job.top_p,
        max_tokens=row.max_tokens or job.max_tokens,
        seed=derive_seed(job.seed, "generate", number) if row.seed is None else row.seed,
        shaping=Shaping(grammar=row.grammar(tokenizer)),
    )


def _message(tokenizer: Tokenizer, row: PromptRow, completion: Completion) -> Message:
    """What was said; of a text that was continued, all of it as content."""
    if row.dialog is None:
        return Message("assistant", tokenizer.decode(completion.ids, skip_special=True))
    return parse(tokenizer, completion.drawn)


def _sample(message: Message, completion: Completion) -> dict[str, Any]:
    called = {} if message.tool_calls is None else {"tool_calls": message.tool_calls}
    return {
        "text": message.content, **called, "finish_reason": "stop" if completion.finished else "length",
        "tokens": len(completion.ids) + completion.finished, "logprob": round(completion.logprob, LOGPROB_DIGITS),
    }  # fmt: skip


def _scores(
    job: Job, tokenizer: Tokenizer, number: int, row: PromptRow, messages: list[Message], completions: list[Completion]
) -> list[float | None]:
    """A score per sample: the verdict, 0 for an answer that was cut, or the reward; None for what is too long for its model."""
    if job.reward is None:
        from puna.verify.check import verify_many

        task = row.task(number)
        verdicts = verify_many([(task, message) for message in messages])
        return [float(c.finished and held) for held, c in zip(verdicts, completions, strict=True)]
    reward = _reward(job.reward)
    assert row.dialog is not None
    dialogs = [render(tokenizer, [*row.dialog, message]) for message in messages]
    fits = [len(dialog.ids) <= reward.trunk.config.max_seq_len for dialog in dialogs]
    scores = iter(reward.scores([dialog for dialog, fit in zip(dialogs, fits, strict=True) if fit]))
    return [next(scores) if fit else None for fit in fits]


@lru_cache(1)
def _engine(model: Path, kernels: Kernels, device: str) -> Engine:
    from puna.infer.load import load_engine

    return load_engine(model, kernels=kernels, device=device)[0]


@lru_cache(1)
def _reward(directory: Path) -> Reward:
    from puna.infer.reward_scores import load_reward

    reward = load_reward(directory)
    if reward is None:
        raise InputError("this reward model was not trained, for want of pairs", where=str(directory), fix="name another")
    return reward


@lru_cache(1)
def _reader(job: Job) -> Reader:
    """The reader of the job's rows; InputError for a directory without a model, or a reward model that reads other tokens."""
    from puna.model.checkpoint import read_config
    from puna.model.config import ModelConfig

    tokenizer = Tokenizer.load(job.model)
    if job.reward is not None and Tokenizer.load(job.reward).digest != tokenizer.digest:
        raise InputError(
            "the reward model has another tokenizer than the model", where=str(job.reward), fix="give one of the same run"
        )
    return Reader(job.prompts, tokenizer, ModelConfig.from_hf(read_config(job.model)).max_seq_len, job.score.split(":")[0])


def _identity(job: Job, plan: Plan) -> str:
    """SHA-256 over all that the output depends on: the job, the prompts' bytes, and the files of the models by size and time."""
    settings = {name: value for name, value in asdict(job).items() if name not in ("model", "prompts", "window")}
    files = [path for directory in (job.model, job.reward) if directory for path in sorted(directory.iterdir())]
    read = [path for path in files if path.suffix in MODEL_SUFFIXES]
    stated = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in read]
    text = json.dumps([settings, plan.digest, job.rows_per_window, stated], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _claim(out: Path, identity: str) -> None:
    """Say beside the output which job it is of; InputError if it is of another."""
    path = _beside(out, "job.json")
    known = path.is_file() and json.loads(path.read_text()).get("job") == identity
    if not known and (path.exists() or out.exists()):
        fix = f"name another file, or delete {out.name}, {path.name} and {_beside(out, 'parts').name}"
        raise InputError(
            "this file is not the output of this job: its model, prompts or settings were others", where=str(out), fix=fix
        )
    if not known:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_suffix(".tmp")
        partial_path.write_text(json.dumps({"job": identity}) + "\n")
        partial_path.replace(path)


def _whole_windows(out: Path, plan: Plan) -> tuple[int, int]:
    """How many windows the output holds whole, and their bytes; a line that was cut ends the count."""
    if not out.exists():
        return 0, 0
    ends = list(accumulate(window.rows for window in plan.windows))
    lines = size = whole = kept = 0
    with out.open("rb") as file:
        for line in file:
            lines, size = lines + 1, size + len(line)
            if line.endswith(b"\n") and whole < len(ends) and lines == ends[whole]:
                whole, kept = whole + 1, size
    return whole, kept


def _part(parts: Path, index: int) -> Path:
    return parts / f"{index:08d}.jsonl"


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}.{ending}")
