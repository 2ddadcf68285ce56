"""How hard a dialog is: its intentions, a judge's level, and how often a policy fails (paper 4.2.3, Instag).

The paper lets a 70B model tag the intentions of a prompt (more of them: harder) and rate dialogs on three levels. Where no such
model is at hand, intentions are counted by signs in the text: a request a sentence, a system prompt, tools, further turns,
steps that the answer calculates. And where a policy has been sampled, one minus its pass rate says it best.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from puna.core.stage import Artifact
from puna.post.quality.judge import LEVELS
from puna.tokenizer.dialog import Dialog, Sample, read_rows

MANY = 8  # intentions from which a dialog counts as hardest

_REQUEST = re.compile(r"[^.!?।！？\n]*\w[^.!?।！？\n]*(?:[.!?।！？]+|\n|$)")
_EQUATION = re.compile(r"\d\s*=\s*-?\d")


def counted_intents(dialog: Dialog) -> int:
    """Intentions by signs: sentences of the user and the system, tools, equations in the answers; at least 1."""
    asked = sum(len(_REQUEST.findall(m.content)) for m in dialog.messages if m.role in ("system", "user"))
    steps = sum(len(_EQUATION.findall(m.content)) for m in dialog.messages if m.role == "assistant")
    calls = sum(m.tool_calls is not None for m in dialog.messages)
    return max(1, asked + steps + calls + bool(dialog.tools))


def pass_rates(samples: Iterable[Artifact]) -> dict[str, float]:
    """Share of a prompt's sampled answers that its verifier passed, by task id."""
    passed: dict[str, list[float]] = {}
    for artifact in samples:
        path = artifact.path / "samples.jsonl"
        for sample in read_rows(path, Sample) if path.is_file() else ():
            if "verifier" in sample.scores:
                passed.setdefault(sample.task_id, []).append(sample.scores["verifier"])
    return {key: sum(values) / len(values) for key, values in passed.items()}


def difficulty(intents: np.ndarray, level: np.ndarray, pass_rate: np.ndarray) -> np.ndarray:
    """One number from 0 (easy) to 1: the mean of what is known.

    Args:
        intents: int [N], counted or named by a judge.
        level: int [N], 1 to LEVELS, 0 where not judged.
        pass_rate: float [N], NaN where nothing was sampled.

    Returns float64 [N].
    """
    parts = np.stack([
        np.clip((intents - 1) / (MANY - 1), 0, 1),
        np.where(level > 0, (level - 1) / (LEVELS - 1), np.nan),
        1 - pass_rate.astype(np.float64),
    ])  # fmt: skip
    return np.nanmean(parts, axis=0)
