"""Claims over several base models: the same recipe from other random numbers, measured on the same items.

One base model is one draw. Its own paired tests say how sure a difference is for that model, and nothing about the next one. Here
items and seeds both count as drawn: the interval is that of a mean of a table of items by seeds (crossed random effects), with
the degrees of freedom of Satterthwaite (1946, "An approximate distribution of estimates of variance components"). With three
seeds it is wide, and rightly so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from puna.core.errors import InputError
from puna.core.intervals import student95
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.evals.one import ITEMS_FILE, read_items

KIND = "seeds"
REVISION = 2

GAINS_FILE = "best_of_n.json"  # of a reward model: what its choice gains over a random one, by prompt
Cells = dict[str, float]  # by item


class Claim(BaseSettings):
    """Model `better` does better than `control`, on the items of `family` if named; several controls count as their mean."""

    name: str
    better: str
    control: str | tuple[str, ...] = Field(min_length=1)
    family: str | None = None

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of the controls."""
        return (self.control,) if isinstance(self.control, str) else self.control


class Settings(BaseSettings):
    """`compare` is tested besides what the first scores among the inputs compare; all names are those of the first seed."""

    compare: tuple[Claim, ...] = ()


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `seeds.json`: one test per claim over all scores, and one per kind of reward model."""
    scores = ctx.inputs.all("scores")
    prefixes = seed_prefixes([artifact.name for artifact in scores], ctx.name)
    named = json.loads((scores[0].path / "scores.json").read_text())["comparisons"]
    claims = [Claim(**{key: c[key] for key in Claim.model_fields if key in c}) for c in named] + list(settings.compare)
    worth = {family: [_worth(artifact, family) for artifact in scores] for family in {claim.family for claim in claims}}
    tests = [
        {"name": claim.name, "better": claim.better, "control": " and ".join(claim.controls)}
        | crossed([_differences(claim, models, prefix) for models, prefix in zip(worth[claim.family], prefixes, strict=True)])
        for claim in claims
    ]
    tests += _best_of_n(ctx.inputs.all("reward"), prefixes, ctx)
    names = [artifact.name for artifact in scores]
    (ctx.out / "seeds.json").write_text(json.dumps({"scores": names, "comparisons": tests}, indent=1, ensure_ascii=False) + "\n")
    return {"seeds": len(scores), "comparisons": tests}


def seed_prefixes(names: Sequence[str], where: str) -> list[str]:
    """What stands before the first one's name in each of `names`: "" for itself, "b-" for its copy `b`."""
    if len(names) < 2:
        raise InputError(f"one seed shows nothing about seeds: {len(names)} scores were given", where=where,
                         fix="from: [scores, b-scores, c-scores], made with `copies`")  # fmt: skip
    for name in names:
        if not name.endswith(names[0]):
            raise InputError(f"'{name}' is no copy of '{names[0]}'", where=where, fix="name the original first, then its copies")
    return [name.removesuffix(names[0]) for name in names]


def crossed(seeds: Sequence[Cells]) -> dict[str, Any]:
    """Mean difference over items and seeds with its 95 % interval, as JSON; `n` items that all seeds have.

    `each` is the mean of every seed alone, `differ` how many items say anything at all. (-1, 1) where fewer than two are shared.
    """
    shared = [item for item in seeds[0] if all(item in seed for seed in seeds)]
    n, k = len(shared), len(seeds)
    if n < 2:
        return {"difference": 0.0, "low": -1.0, "high": 1.0, "n": n, "differ": 0, "each": [0.0] * k}
    cells_NK = np.array([[seed[item] for seed in seeds] for item in shared])
    mean, of_seed = float(cells_NK.mean()), cells_NK.mean(axis=0)
    half = _half_width(cells_NK)
    low, high = max(-1.0, mean - half), min(1.0, mean + half)
    each = [round(float(value), 6) for value in of_seed]
    differ = int((cells_NK != 0).any(axis=1).sum())
    return {"difference": round(mean, 6), "low": round(low, 6), "high": round(high, 6), "n": n, "differ": differ, "each": each}


def _half_width(cells_NK: np.ndarray) -> float:
    """Half of the 95 % interval of the mean of a table, rows and columns both drawn at random."""
    n, k = cells_NK.shape
    of_item, of_seed = cells_NK.mean(axis=1, keepdims=True), cells_NK.mean(axis=0, keepdims=True)
    rest = cells_NK - of_item - of_seed + cells_NK.mean()
    squares = [k * float(of_item.var(ddof=1)), n * float(of_seed.var(ddof=1)), float((rest**2).sum()) / ((n - 1) * (k - 1))]
    signs, degrees = (1, 1, -1), (n - 1, k - 1, (n - 1) * (k - 1))
    # The difference of mean squares can fall below what either alone shows; the interval then is that of the larger one.
    variance = max(sum(s * q for s, q in zip(signs, squares, strict=True)), *squares[:2])
    if variance <= 0:
        return 0.0
    spread = sum(q * q / d for q, d in zip(squares, degrees, strict=True))
    return student95(variance * variance / spread) * math.sqrt(variance / (n * k))


def _worth(scores: Artifact, family: str | None) -> dict[str, Cells]:
    """What answers are worth, by model and item, of a family or of all: a score where there is one, else whether they pass."""
    found: dict[str, Cells] = {}
    for item in read_items(scores.path / ITEMS_FILE):
        if family not in (None, item["family"]):
            continue
        score = item.get("score")
        found.setdefault(item["model"], {})[item["task_id"]] = float(item["passed"] if score is None else score)
    return found


def _differences(claim: Claim, models: dict[str, Cells], prefix: str) -> Cells:
    """Worth of the better model's answers minus that of the control's, or of the mean of the controls, by item."""
    missing = next((name for name in (claim.better, *claim.controls) if prefix + name not in models), None)
    if missing is not None:
        raise InputError(f"'{prefix + missing}' was not scored", where=claim.name, fix="add it to the `from` of its scores")
    others = [models[prefix + name] for name in claim.controls]
    items = models[prefix + claim.better].items()
    return {item: value - sum(other[item] for other in others) / len(others) for item, value in items}


def _best_of_n(rewards: Sequence[Artifact], prefixes: Sequence[str], ctx: StageContext) -> list[dict[str, Any]]:
    """For each reward model of the first seed: choosing by it against chance. Notes those that not every seed has measured."""
    known, tests = {artifact.name: artifact for artifact in rewards}, []
    copies = {prefix + name for name in known for prefix in prefixes[1:] if prefix + name in known}
    for name in (name for name in known if name not in copies):
        gains = [_gains(known[prefix + name]) if prefix + name in known else {} for prefix in prefixes]
        if not all(gains):
            ctx.note(f"{name} is no claim: {sum(not found for found in gains)} of {len(prefixes)} seeds have not measured it")
            continue
        test = {"name": f"best of n by {name} against a random one", "better": name, "control": "a random sample"}
        tests.append(test | crossed(gains))
    return tests


def _gains(reward: Artifact) -> Cells:
    path = reward.path / GAINS_FILE
    return json.loads(path.read_text()) if path.exists() else {}
