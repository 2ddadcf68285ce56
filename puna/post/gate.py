"""How post-training stages judge a model: verified accuracy on the dev tasks, greedy, or else the loss on held-out dialogs.

Preference accuracy and training loss go up while answers get worse (seen in the embedded recipe at 88 to 97 % preference
accuracy), so no stage is allowed to decide on them. Each verdict is written as `dev.json` with its size, its interval and the
result of every item: later stages compare models on the same items instead of measuring again. The test split is never read
here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from puna.core.intervals import wilson
from puna.core.stage import Artifact
from puna.evals.stats import Paired, paired
from puna.evals.tasks import run_tasks
from puna.infer.engine import Engine
from puna.model.llama import Llama
from puna.post.examples import encode_dialogs, row_length
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Dialog, Task, read_rows
from puna.train.objectives import CrossEntropy, beside
from puna.train.packing import pack
from puna.train.world import World

VERDICT = "dev.json"
HELD_LIMIT = 64  # dialogs whose loss judges a model when nothing can be verified
MAX_RUNNING = 512  # samples decoded together: tiny models are bound by the cost of a step, not by arithmetic


@dataclass(frozen=True)
class Verdict:
    """How good a model is. `value` is better when larger: accuracy, or minus the loss per token on held-out dialogs.

    Attributes:
        measure: "accuracy", "held_loss", or "none" when there was nothing to judge by (value 0).
        n: items judged. `low`, `high`: 95 % interval of an accuracy.
        passed: result per item, in the order of the dev file.
        families: accuracy per family.
    """

    measure: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    passed: tuple[bool, ...] = ()
    families: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """What a report shows: everything but the items."""
        return {key: value for key, value in asdict(self).items() if key != "passed"}

    def text(self) -> str:
        """A short form for one line."""
        if self.measure == "accuracy":
            return f"{100 * self.value:.1f} % of {self.n}"
        return f"held-out loss {-self.value:.3f}" if self.measure == "held_loss" else "not judged"

    def against(self, other: Verdict) -> Paired | None:
        """Paired test of this model over `other`; None unless both answered the same items."""
        comparable = self.measure == other.measure == "accuracy" and len(self.passed) == len(other.passed)
        return paired(self.passed, other.passed) if comparable else None


@dataclass(frozen=True)
class Judge:
    """What models of one run are judged by; made once, used for many models."""

    tokenizer: Tokenizer
    tasks: tuple[Task, ...]
    held: tuple[Dialog, ...]
    max_tokens: int

    def __call__(self, model: Llama) -> Verdict:
        """The model's verdict, of which every process finds a part; its weights, mode and gradients stay as they are."""
        training = model.training
        model.eval()
        with torch.no_grad():
            verdict = self._accuracy(model) if self.tasks else self._held_loss(model)
        model.train(training)
        return verdict

    def _accuracy(self, model: Llama) -> Verdict:
        engine = Engine(model, stop_ids=self.tokenizer.stop_ids, max_running=MAX_RUNNING)

        def found(mine: Sequence[Task]) -> list[bool]:
            return [answer.passed for answer in run_tasks(engine, self.tokenizer, mine, max_tokens=self.max_tokens)]

        passed = tuple(World.current().shared(self.tasks, found))
        low, high = wilson(sum(passed), len(passed))
        return Verdict("accuracy", sum(passed) / len(passed), len(passed), low, high, passed, by_family(self.tasks, passed))

    def _held_loss(self, model: Llama) -> Verdict:
        examples, _ = encode_dialogs(self.tokenizer, self.held, model.config.max_seq_len)
        if not examples:
            return Verdict("none", 0.0, 0)
        objective, total, count, world = CrossEntropy(chunk=4096), 0.0, 0.0, World.current()
        for example in examples[world.process :: world.processes]:
            batch = pack([(example.ids, example.loss_mask)], 1, row_length(len(example.ids), model.config.max_seq_len))
            total += float(objective.sums(model, beside(model, batch))[0]["ce"])
            count += objective.counts(batch)["ce"]
        total, count = map(sum, zip(*world.gather([total, count]), strict=True))
        return Verdict("held_loss", -float(f"{total / count:.8g}"), len(examples))


def open_judge(tasks: Artifact, tokenizer: Tokenizer, *, limit: int, max_tokens: int) -> Judge:
    """A judge on the first `limit` dev tasks, or on held-out dialogs where no task can be verified."""
    dev = tuple(read_rows(tasks.path / "dev.jsonl", Task))[:limit] if (tasks.path / "dev.jsonl").exists() else ()
    held = tuple(read_rows(tasks.path / "held.jsonl", Dialog))[:HELD_LIMIT] if (tasks.path / "held.jsonl").exists() else ()
    return Judge(tokenizer, dev, held, max_tokens)


def by_family(tasks: Sequence[Task], passed: Sequence[bool]) -> dict[str, float]:
    """Accuracy per family, four digits."""
    groups: dict[str, list[bool]] = {}
    for task, right in zip(tasks, passed, strict=True):
        groups.setdefault(task.family or task.capability, []).append(right)
    return {name: round(sum(found) / len(found), 4) for name, found in sorted(groups.items())}


def write_verdict(verdict: Verdict, directory: Path) -> None:
    """Write `dev.json`; the items as a string of 0 and 1."""
    record = {**verdict.summary(), "passed": "".join("01"[right] for right in verdict.passed)}
    (directory / VERDICT).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def read_verdict(directory: Path) -> Verdict | None:
    """The verdict beside a model, None where there is none."""
    path = directory / VERDICT
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    return Verdict(**{**record, "passed": tuple(item == "1" for item in record["passed"])})


def comparison(better: Verdict, control: Verdict) -> dict[str, Any]:
    """Difference of two verdicts, with the paired test where there is one."""
    found = better.against(control)
    return {"difference": round(better.value - control.value, 6), **({"paired": asdict(found)} if found else {})}
