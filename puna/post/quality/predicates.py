"""Scores and limits to predicates: of every row a value, the limit it was held to, whether it passes, and what it was about.

A predicate that says nothing of a row has no value there, and the expression that decides leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from puna.core.settings import Settings, Share
from puna.post.quality.difficulty import difficulty
from puna.post.quality.rules import RuleSettings, balanced
from puna.post.quality.topics import wanted_chances

if TYPE_CHECKING:
    import pyarrow as pa

Side = Literal["least", "most"]
Within = Literal["all", "capability", "lang"]


@dataclass(frozen=True)
class Predicate:
    """One question asked of every row.

    Attributes:
        values: float64 [N], NaN where it says nothing.
        limits: float64 [N], what the value was held to; the same for all rows, or by group.
        side: whether the limit is the least or the most that passes.
        passed: bool [N], False where it says nothing.
        details: a text for each row, "" for none; what the value is about.
    """

    values: np.ndarray
    limits: np.ndarray
    side: Side
    passed: np.ndarray
    details: Sequence[str] | None = None

    @property
    def known(self) -> np.ndarray:
        """Of which rows it says something. Returns bool [N]."""
        return ~np.isnan(self.values)

    @property
    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """(holds, known) for the expression that decides."""
        return self.passed, self.known


class Limits(Settings):
    """What passes.

    Attributes:
        rules: how an answer may sound.
        wanted: topics, coarse (`maths`) or fine (`maths/math`); empty for all but `other`.
        topic: least probability that a row is about these.
        held_share: most of a held-out item's 8-grams in a row.
        reward_share: share of rows with the highest rewards that passes (paper: the top quartile).
        reward_within: whether that is of all rows, or of each capability or language by itself.
        difficulty: least difficulty, 0 to 1.
    """

    rules: RuleSettings = RuleSettings()
    wanted: tuple[str, ...] = ()
    topic: Share = 0.5
    held_share: Share = 0.8
    reward_share: float = Field(default=0.25, gt=0, le=1)
    reward_within: Within = "all"
    difficulty: Share = 0.0


@dataclass(frozen=True)
class Judged:
    """Predicates by name, and the two numbers that rows are ordered by, float64 [N] each: quality 0 to 1, difficulty 0 to 1."""

    predicates: dict[str, Predicate]
    quality: np.ndarray
    difficulty: np.ndarray


def judged(table: pa.Table, classes: Sequence[str], limits: Limits) -> Judged:
    """Every predicate that needs one row, or the sorted values of all, at a time (`unique` needs more).

    Args:
        table: `scores.parquet` of `puna.post.quality.scores`.
        classes: topics, in the order of its `chances`.
    """
    rewards, points, most = (_floats(table, name) for name in ("reward", "points", "most_points"))
    verified = _floats(table, "verified")
    hard = difficulty(_floats(table, "intents"), _floats(table, "level"), _floats(table, "pass_rate"))
    found = {
        "clean": at_most(_floats(table, "held_share"), limits.held_share, table["held_item"].to_pylist()),
        "topic": _topic(table, classes, limits),
        "verified": at_least(verified, 1.0),
        **_manner(table, limits.rules),
        "reward": _reward(rewards, _groups(table, limits.reward_within), limits.reward_share),
        "judge": at_least(points, most),
        "difficulty": at_least(hard, limits.difficulty),
    }
    return Judged(found, _quality(rewards, points / most, verified), hard)


def at_least(values: np.ndarray, limit: float | np.ndarray, details: Sequence[str] | None = None) -> Predicate:
    """Passes from `limit` on."""
    limits = np.broadcast_to(np.asarray(limit, dtype=np.float64), values.shape)
    return Predicate(values, limits, "least", values >= limits, details)


def at_most(values: np.ndarray, limit: float | np.ndarray, details: Sequence[str] | None = None) -> Predicate:
    """Passes up to `limit`."""
    limits = np.broadcast_to(np.asarray(limit, dtype=np.float64), values.shape)
    return Predicate(values, limits, "most", values <= limits, details)


def _floats(table: pa.Table, name: str) -> np.ndarray:
    import pyarrow as pa

    return table[name].cast(pa.float64()).to_numpy() if table[name].type != pa.bool_() else _flags(table, name)


def _flags(table: pa.Table, name: str) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in table[name].to_pylist()])


def _topic(table: pa.Table, classes: Sequence[str], limits: Limits) -> Predicate:
    if not classes:
        return at_least(np.full(len(table), np.nan), limits.topic)
    chances = np.array(table["chances"].to_pylist(), dtype=np.float64).reshape(len(table), len(classes))
    likeliest = [classes[i] for i in chances.argmax(axis=1)]
    return at_least(wanted_chances(chances, classes, limits.wanted), limits.topic, likeliest)


def _manner(table: pa.Table, rules: RuleSettings) -> dict[str, Predicate]:
    found = {name: at_most(_floats(table, name), getattr(rules, name)) for name in ("emoji", "exclamations", "apologies")}
    own = found["apologies"]
    within = balanced(own.values.astype(int), table["lang"].to_pylist(), table["id"].to_pylist(), rules.apologetic)
    details = ["" if fits else f"more than {rules.apologetic:.2g} of the rows apologise" for fits in within.tolist()]
    limits = np.where(within, own.limits, 0.0)
    return {**found, "apologies": Predicate(own.values, limits, "most", own.passed & within, details)}


def _groups(table: pa.Table, within: Within) -> list[str]:
    return [""] * len(table) if within == "all" else table[within].to_pylist()


def _reward(rewards: np.ndarray, groups: Sequence[str], share: float) -> Predicate:
    """The top share of each group passes."""
    limits, names = np.full(len(rewards), np.nan), np.array(groups, dtype=object)
    for group in set(groups):
        mine = (names == group) & ~np.isnan(rewards)
        if mine.any():
            limits[mine] = np.quantile(rewards[mine], 1 - share)
    return at_least(rewards, limits)


def _quality(rewards: np.ndarray, points: np.ndarray, verified: np.ndarray) -> np.ndarray:
    """Mean of what is known: rank of the reward, share of the judge's points, verdict; 1 where nothing is."""
    ranks = np.full(len(rewards), np.nan)
    there = np.flatnonzero(~np.isnan(rewards))
    if len(there):
        values, place = np.unique(rewards[there], return_inverse=True)
        ranks[there] = (place + 1) / len(values)
    parts = np.stack([ranks, points, verified])
    known = ~np.isnan(parts)
    return np.where(known.any(axis=0), np.where(known, parts, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), 1.0)


def disagreement(judged: Judged) -> dict[str, int]:
    """How reward and judge agree on the rows that both say something of (paper: they disagree a lot, so either is enough)."""
    reward, points = judged.predicates["reward"], judged.predicates["judge"]
    both = reward.known & points.known
    return {
        "both_high": int((both & reward.passed & points.passed).sum()),
        "reward_only": int((both & reward.passed & ~points.passed).sum()),
        "judge_only": int((both & ~reward.passed & points.passed).sum()),
        "neither": int((both & ~reward.passed & ~points.passed).sum()),
    }


def columns(predicates: dict[str, Predicate]) -> dict[str, Any]:
    """Annotation columns: `NAME.value`, `NAME.limit`, `NAME.pass`, and `NAME.detail` where there is one."""
    import pyarrow as pa

    found: dict[str, Any] = {}
    for name, predicate in predicates.items():
        unknown = ~predicate.known
        found[f"{name}.value"] = pa.array(predicate.values, mask=unknown)
        found[f"{name}.limit"] = pa.array(np.ascontiguousarray(predicate.limits), mask=unknown)
        found[f"{name}.pass"] = pa.array(predicate.passed, mask=unknown)
        if predicate.details is not None:
            found[f"{name}.detail"] = pa.array(list(predicate.details), pa.string())
    return found
