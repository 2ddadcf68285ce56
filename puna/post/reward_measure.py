"""What a reward model is worth, on prompts that were held out: order, calibration, bias to length, best of n.

Pair accuracy alone hides two common faults: a model that is sure and wrong (calibration: of the pairs it is 80 % sure of, 80 %
should be in order), and one that counts words (accuracy where the better answer is the longer one, and where the shorter).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from puna.core.intervals import bounded_mean
from puna.core.stage import Artifact
from puna.post.examples import Ranked
from puna.post.prompts import prompt_key
from puna.tokenizer.chat import parse
from puna.tokenizer.dialog import MessageRow, Sample, Task, read_rows

if TYPE_CHECKING:
    from puna.post.reward import RewardScorer

BINS = 5  # of the reliability table: certainty from a half to one
LIKE = 0.1  # answers whose lengths differ by no more than this share count as equally long


@dataclass
class SampledPrompt:
    """A held-out prompt with its n samples: what was written, whether it passed."""

    task: Task
    samples: list[Sample]

    def right(self) -> list[bool]:
        """Verifier's verdict per sample."""
        return [sample.scores["verifier"] > 0 for sample in self.samples]


def sampled_prompts(collected: Artifact, samples: Sequence[Artifact], held: Callable[[str], bool]) -> list[SampledPrompt]:
    """Verifiable prompts of `samples`, those whose prompt id is `held`, each with its samples."""
    tasks = {task.id: task for task in read_rows(collected.path / "prompts.jsonl", Task)}
    found: list[SampledPrompt] = []
    for artifact in samples:
        groups: dict[str, list[Sample]] = {}
        for sample in read_rows(artifact.path / "samples.jsonl", Sample):
            groups.setdefault(sample.task_id, []).append(sample)
        found += [
            SampledPrompt(tasks[key], group)
            for key, group in groups.items()
            if key in tasks and tasks[key].verifier and len(group) > 1 and held(prompt_key(tasks[key].prompt))
        ]
    return found


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the better one first: how their scores and their lengths (learnt tokens) differ."""

    key: str
    score: float
    tokens: int
    longest: int

    @property
    def right(self) -> float:
        """1 in order, 0 not, a half where the scores are equal."""
        return 0.5 if self.score == 0 else float(self.score > 0)


def measure(scorer: RewardScorer, held: list[Ranked]) -> dict[str, Any]:
    """What the summary says of held-out pairs."""
    return measures(scored_pairs(held, scorer.score_encoded([answer for row in held for answer in row.answers])))


def measures(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Order, calibration and bias to length on scored pairs."""
    return {"pair_accuracy": pair_accuracy(pairs), "calibration": calibration(pairs), "length_bias": length_bias(pairs)}


def scored_pairs(rows: Sequence[Ranked], scores: Sequence[float]) -> list[Pair]:
    """All pairs of ranked rows; `scores` of their answers, row by row, best answer first."""
    left, pairs = iter(scores), []
    for row in rows:
        ranked = [(next(left), sum(answer.loss_mask)) for answer in row.answers]
        for i, (score, tokens) in enumerate(ranked):
            pairs += [Pair(row.key, score - other, tokens - length, max(tokens, length)) for other, length in ranked[i + 1 :]]
    return pairs


def pair_accuracy(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Share of pairs in the right order, first averaged within each prompt so that prompts with many pairs do not dominate."""
    by_prompt: dict[str, list[float]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.key, []).append(float(pair.score > 0))
    return mean_interval([sum(found) / len(found) for found in by_prompt.values()])


def calibration(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Reliability: predicted certainty, sigmoid(|difference of scores|), against the share of pairs that are in that order.

    `error` is the mean distance of the two over the bins, each weighted by its pairs (expected calibration error, Guo et al.
    2017); None without pairs.
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for pair in pairs:
        certainty = 1 / (1 + math.exp(-min(abs(pair.score), 700.0)))
        bins[min(BINS - 1, int((certainty - 0.5) * 2 * BINS))].append((certainty, pair.right))
    table, distance = [], 0.0
    for number, found in enumerate(bins):
        if found:
            predicted = sum(certainty for certainty, _ in found) / len(found)
            actual = mean_interval([right for _, right in found])
            distance += len(found) * abs(predicted - actual["mean"])
            low, high = (0.5 + 0.5 * (number + end) / BINS for end in (0, 1))
            table.append({"from": round(low, 4), "to": round(high, 4), "predicted": round(predicted, 6), "actual": actual})
    return {"bins": table, "error": round(distance / len(pairs), 6) if pairs else None}


def length_bias(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Whether the model counts words: how often the longer answer is better, and how often it is preferred; accuracy by which
    of the two is longer; correlation of the two differences. Pairs of like length are a group of their own."""
    groups: dict[str, list[Pair]] = {"longer": [], "shorter": [], "like": []}
    for pair in pairs:
        like = abs(pair.tokens) <= LIKE * pair.longest
        groups["like" if like else "longer" if pair.tokens > 0 else "shorter"].append(pair)
    unlike = groups["longer"] + groups["shorter"]
    return {
        "longer_is_better": mean_interval([float(pair.tokens > 0) for pair in unlike]),
        "longer_is_preferred": mean_interval([pair.right if pair.tokens > 0 else 1 - pair.right for pair in unlike]),
        "accuracy_where_better_is": {name: mean_interval([pair.right for pair in found]) for name, found in groups.items()},
        "correlation": correlation([pair.score for pair in pairs], [pair.tokens for pair in pairs]),
    }


def best_of_n(scorer: RewardScorer, prompts: list[SampledPrompt]) -> tuple[dict[str, Any], dict[str, float]]:
    """What choosing the answer of the highest score gives, beside the other ways to choose; the gain over chance by prompt."""
    if not prompts:
        return {"best_of_n": None, "length_correlation": None}, {}
    dialogs = [[*p.task.prompt, MessageRow.model_validate(parse(scorer.tokenizer, s.ids))] for p in prompts for s in p.samples]
    flat = iter(scorer.score(dialogs))
    best, chance, majority, oracle, scores, lengths = [], [], [], [], [], []
    for prompt in prompts:
        right, found = prompt.right(), [next(flat) for _ in prompt.samples]
        best.append(float(right[max(range(len(found)), key=lambda i: (found[i], -i))]))
        chance.append(sum(right) / len(right))
        majority.append(float(right[_majority(prompt.samples)]))
        oracle.append(float(any(right)))
        scores += found
        lengths += [len(sample.ids) for sample in prompt.samples]
    n = Counter(len(prompt.samples) for prompt in prompts).most_common(1)[0][0]
    gains = [b - c for b, c in zip(best, chance, strict=True)]
    summary = {
        "best_of_n": {
            "n": n,
            "random": mean_interval(chance),
            "reward": mean_interval(best),
            "majority": mean_interval(majority),
            "oracle": mean_interval(oracle),
            "reward_over_random": mean_interval(gains, least=-1.0),
        },
        "length_correlation": correlation(scores, lengths),
    }
    return summary, {prompt.task.id: gain for prompt, gain in zip(prompts, gains, strict=True)}


def _majority(samples: list[Sample]) -> int:
    """Index of the first sample that gives the most frequent final answer."""
    from puna.verify.language import answer_tags

    finals = []
    for sample in samples:
        tags = answer_tags(sample.text)
        finals.append(" ".join((sample.text[tags[-1][2] :] if tags else sample.text).casefold().split()))
    return finals.index(Counter(finals).most_common(1)[0][0])


def mean_interval(values: Sequence[float], least: float = 0.0) -> dict[str, Any]:
    """Mean of values between `least` and 1 with its 95 % interval and n; nulls when there is nothing."""
    if not values:
        return {"mean": None, "low": None, "high": None, "n": 0}
    low, high = bounded_mean(values, least)
    return {"mean": round(sum(values) / len(values), 6), "low": round(low, 6), "high": round(high, 6), "n": len(values)}


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's, of the values whose first is finite; None where either does not vary."""
    kept = [(a, b) for a, b in zip(first, second, strict=True) if math.isfinite(a)]
    if len(kept) < 2:
        return None
    means = [sum(column) / len(kept) for column in zip(*kept, strict=True)]
    moved = [(a - means[0], b - means[1]) for a, b in kept]
    spread = math.sqrt(sum(a * a for a, _ in moved) * sum(b * b for _, b in moved))
    return round(sum(a * b for a, b in moved) / spread, 4) if spread > 0 else None
