"""The paper's check of FP8 (section 6.2): do a reward model's scores of its answers follow the same distribution as of BF16's?

Benchmarks do not show answers that FP8 corrupts; the scores of many answers do. Both models answer the same prompts, each with
random numbers of its own, so that the two samples are independent, and the two-sample Kolmogorov-Smirnov test compares them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.infer.engine import Engine, Request
from puna.infer.fp8 import batches
from puna.model.checkpoint import load_model
from puna.model.llama import Llama
from puna.model.reward import AnswerTokens, RewardHead
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Rendered, parse, render
from puna.tokenizer.dialog import Task, read_rows

HEAD_FILE, STATE_FILE = "reward_head.safetensors", "reward.json"  # of a `reward` artifact (post.reward)
TERMS = 100  # of Kolmogorov's series; the hundredth is below 1e-300 wherever the probability is not 1
LEVELS = [i / 20 for i in range(21)]  # of the quantiles in the summary


class Reward:
    """The score of a dialog: the head's number at its last token, as `post.reward` trains it."""

    def __init__(self, directory: Path):
        self.trunk, self.tokenizer = load_model(directory).eval(), Tokenizer.load(directory)
        head = load_file(directory / HEAD_FILE)
        self.head = RewardHead(self.trunk.config.dim, likelihood="likelihood" in head)
        self.head.load_state_dict(head)

    @torch.no_grad()
    def scores(self, dialogs: Sequence[Rendered]) -> list[float]:
        """One score per dialog (two tokens or more), in order, of its last message."""
        order = sorted(range(len(dialogs)), key=lambda i: (len(dialogs[i].ids), i))
        found: list[float] = []
        for ids_BT, real_BT in batches([dialogs[i].ids for i in order]):
            part = [dialogs[i] for i in order[len(found) : len(found) + len(ids_BT)]]
            ends_B = torch.arange(len(ids_BT)) * ids_BT.shape[1] + real_BT.sum(-1) - 1
            learnt = [(row, i, dialog.ids[i]) for row, dialog in enumerate(part) for i in _answer(dialog)]
            rows_S, places_S, ids_S = torch.tensor(learnt).reshape(-1, 3).unbind(1)
            tokens = AnswerTokens(rows_S * ids_BT.shape[1] + places_S - 1, ids_S, rows_S)
            found += self.head.scores(self.trunk.lm_head, self.trunk.hidden(ids_BT), ends_B, tokens).tolist()
        scores = dict(zip(order, found, strict=True))
        return [scores[i] for i in range(len(dialogs))]


def _answer(dialog: Rendered) -> list[int]:
    """Places of the tokens that the last message of a dialog teaches: its body and its terminator."""
    begun = dialog.spans[-2][1] + 1 if len(dialog.spans) > 1 else 0
    return [i for i in range(begun, len(dialog.ids)) if dialog.loss_mask[i]]


def load_reward(directory: Path) -> Reward | None:
    """The reward model of an artifact; None where it was not trained for want of pairs."""
    skipped = json.loads((directory / STATE_FILE).read_text())["skipped"]
    return None if skipped else Reward(directory)


def compare_rewards(
    reward: Reward, models: dict[str, Llama], tokenizer: Tokenizer, tasks: Path, *, answers: int, max_tokens: int, seed: int
) -> dict[str, Any]:
    """Scores of about `answers` answers by each of two models to the held-out prompts of a tasks artifact, compared.

    Args:
        models: the reference first, then the other, by name.
        tokenizer: of both; InputError unless it is the reward model's.
        max_tokens: of an answer, which is sampled at temperature 1.

    Returns per model n, mean, quantiles and how many answers the reward model cannot read; and `ks`, `p_value`.
    """
    if tokenizer.digest != reward.tokenizer.digest:
        raise InputError("the reward model has another tokenizer than the model it is to score", fix="give one of the same run")
    prompts = held_out_prompts(tasks, tokenizer, min(m.config.max_seq_len for m in models.values()), answers)
    each = max(1, answers // len(prompts))
    scored: dict[str, list[float]] = {}
    summary: dict[str, Any] = {"prompts": len(prompts)}
    for name, model in models.items():
        requests = [
            Request(ids, n=each, temperature=1.0, max_tokens=max_tokens, seed=derive_seed(seed, name, i))
            for i, (_, ids) in enumerate(prompts)
        ]
        dialogs = []
        for (task, _), drawn in zip(prompts, Engine(model, stop_ids=tokenizer.stop_ids).generate(requests), strict=True):
            for one in drawn:
                dialogs.append(render(tokenizer, [*task.prompt, parse(tokenizer, one.drawn)]))
        read = [dialog for dialog in dialogs if len(dialog.ids) <= reward.trunk.config.max_seq_len]
        scored[name] = reward.scores(read)
        summary[name] = described(scored[name]) | {"too_long": len(dialogs) - len(read)}
    statistic, p_value = kolmogorov_smirnov(*scored.values())
    return {**summary, "ks": statistic, "p_value": p_value}


def held_out_prompts(tasks: Path, tokenizer: Tokenizer, limit: int, most: int) -> list[tuple[Task, list[int]]]:
    """The first `most` prompts of `test.jsonl` that leave room for an answer, with their ids up to it."""
    found: list[tuple[Task, list[int]]] = []
    for task in read_rows(tasks / "test.jsonl", Task):
        ids = render(tokenizer, task.prompt, generation_prompt=True).ids
        if len(ids) < limit and len(found) < most:
            found.append((task, ids))
    if not found:
        raise InputError("no held-out task leaves room for an answer", where=str(tasks / "test.jsonl"))
    return found


def described(scores: Sequence[float]) -> dict[str, Any]:
    """n, mean and 21 quantiles (0, 5, ... 100 %) of a sample; nulls when it is empty."""
    if not scores:
        return {"n": 0, "mean": None, "quantiles": None}
    return {
        "n": len(scores), "mean": float(np.mean(scores)), "quantiles": [float(q) for q in np.quantile(scores, LEVELS)],
    }  # fmt: skip


def kolmogorov_smirnov(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Largest distance of two empirical distributions, and its two-sided asymptotic p-value (Kolmogorov 1933, Smirnov 1948).

    With d the distance and n = n1 n2 / (n1 + n2), p is twice the sum over k >= 1 of (-1)^(k-1) exp(-2 k^2 x^2) at
    x = d sqrt(n). Equal scores make it cautious. InputError when a sample is empty.
    """
    if not first or not second:
        raise InputError("there are no scores to compare", fix="give tasks whose answers the reward model can read")
    a, b = np.sort(np.asarray(first, float)), np.sort(np.asarray(second, float))
    points = np.concatenate([a, b])
    shares = [np.searchsorted(sample, points, side="right") / len(sample) for sample in (a, b)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    return distance, kolmogorov_tail(distance * math.sqrt(len(a) * len(b) / (len(a) + len(b))))


def kolmogorov_tail(x: float) -> float:
    """How likely Kolmogorov's limit exceeds x."""
    if x < 0.2:
        return 1.0  # to 1e-12, and the series converges slowly
    total = 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, TERMS + 1))
    return min(1.0, max(0.0, total))
