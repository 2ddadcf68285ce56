"""The data mix (paper 3.1.2, 3.1.3): which share of training each group and source gets in each phase, and how often it is read.

A weight by group alone hides what happens to its sources: a small good source up-sampled in annealing may be read twenty times
before anybody looks. So a mix names groups (`general`) and, where a source has a weight of its own, sources (`general/wiki`) and
the rest of their group (`general/*`); the manifest counts for every phase how many tokens each source has, how many are planned
and how many epochs that makes. Rows are dealt in blocks of 1,000 in which the mix is exact, here and in `puna.train.stream`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from puna.core.errors import InputError
from puna.core.modules import did_you_mean

Phase = Literal["pretrain", "long_context", "anneal"]
PHASES: tuple[Phase, ...] = ("pretrain", "long_context", "anneal")
VERSION = 2  # of mix.json; version 1 had no `version`, `phases` and `shards`
BLOCK = 1000  # rows over which the mix is exact
MAX_EPOCHS = 4.0  # up to about here repeated data is worth nearly what fresh data is (Muennighoff et al. 2023, arXiv 2305.16264)
REST = "*"  # the sources of a group that the mix does not name


@dataclass(frozen=True)
class Holding:
    """Training documents and tokens of one source within one group."""

    group: str
    source: str
    documents: int
    tokens: int


def split_key(key: str) -> tuple[str, str | None]:
    """A key of a mix as (group, source); the source is None for a whole group and `*` for the rest of one."""
    group, slash, source = key.partition("/")
    return group, source if slash else None


def key_of(group: str, source: str, keys: Iterable[str]) -> str | None:
    """The key of a mix under which documents of `source` in `group` are read, or None if it reads none of them."""
    found = set(keys)
    return next((key for key in (f"{group}/{source}", f"{group}/{REST}", group) if key in found), None)


def weights_by_source(
    mix: Mapping[str, float], factors: Mapping[str, float], holdings: Iterable[Holding], where: str
) -> dict[str, float]:
    """Weights of a mix whose sources have factors of their own.

    Args:
        mix: weight per group.
        factors: by source, or by `group/source`, which wins: how much more often than by its size it is read within its group.
            1 is its natural share, 2 doubles it, 0 leaves it out. A group without any is kept whole.
    Returns: weight by key; the weights of one group's keys sum to the group's. A source left out keeps its key with weight 0.
    Raises:
        InputError: a factor is negative or of no source there is, or a group is left without a source.
    """
    held = list(holdings)
    _check_factors(factors, held, where)
    found: dict[str, float] = {}
    for group, weight in sorted(mix.items()):
        inside = [h for h in held if h.group == group]
        named = {h.source: factors.get(f"{group}/{h.source}", factors.get(h.source)) for h in inside}
        if all(factor is None for factor in named.values()):
            found[group] = weight
            continue
        sizes: dict[str, float] = {}
        for h in inside:
            factor = named[h.source]
            key = f"{group}/{REST if factor is None else h.source}"
            sizes[key] = sizes.get(key, 0.0) + h.tokens * (1.0 if factor is None else factor)
        total = sum(sizes.values())
        if total == 0:
            raise InputError(
                f"every source of the group '{group}' has weight 0", where=where, fix=f"give {group} no weight in the mix"
            )
        found |= {key: weight * size / total for key, size in sorted(sizes.items())}
    return found


def row_quotas(weights: Mapping[str, float]) -> dict[str, int]:
    """Rows of each key with a positive weight in a block of 1,000: largest remainders, and one row at the least.

    Raises InputError when nothing has weight, or more keys have than a block has rows.
    """
    wanted = {name: weight for name, weight in weights.items() if weight > 0}
    if not wanted:
        raise InputError("the mix gives no group a positive weight", fix="set mix: {group: weight}")
    if len(wanted) > BLOCK:
        raise InputError(
            f"a mix of {len(wanted)} parts is finer than one row in {BLOCK}", fix="give fewer sources a weight of their own"
        )
    total = sum(wanted.values())
    exact = {name: BLOCK * weight / total for name, weight in wanted.items()}
    quotas = {name: int(value) for name, value in exact.items()}
    rest = sorted(exact, key=lambda name: (quotas[name] - exact[name], name))[: BLOCK - sum(quotas.values())]
    quotas = {name: quota + (name in rest) for name, quota in quotas.items()}
    for name in sorted(name for name, quota in quotas.items() if quota == 0):
        quotas[max(quotas, key=lambda other: (quotas[other], other))] -= 1
        quotas[name] = 1
    return quotas


def phase_plan(weights: Mapping[str, float], holdings: Iterable[Holding], planned: float | None) -> dict[str, Any]:
    """What a phase of `planned` tokens (None: not known) reads of each source, as JSON values.

    Returns {weights, shares, planned_tokens, available_tokens, documents, sources: [{group, source, key, documents, tokens,
    share, planned_tokens, epochs}]}. Shares are those the row quotas really give; sources under one key are read equally often.
    """
    held = list(holdings)
    shares = {key: quota / BLOCK for key, quota in row_quotas(weights).items()}
    keys = [key_of(h.group, h.source, weights) for h in held]
    sizes = {key: sum(h.tokens for h, k in zip(held, keys, strict=True) if k == key) for key in shares}
    rows = []
    for h, key in zip(held, keys, strict=True):
        if key is None or not shares.get(key):
            rows.append(_source_row(h, None, 0.0, planned))
        else:
            rows.append(_source_row(h, key, shares[key] * h.tokens / max(sizes[key], 1), planned))
    read = [h for h, row in zip(held, rows, strict=True) if row["key"] is not None]
    return {
        "weights": {key: float(weight) for key, weight in sorted(weights.items())},
        "shares": dict(sorted(shares.items())),
        "planned_tokens": planned,
        "available_tokens": sum(h.tokens for h in read),
        "documents": sum(h.documents for h in read),
        "sources": rows,
    }


def too_often(phases: Mapping[Phase, Mapping[str, Any]], limit: float) -> list[str]:
    """One sentence for every source that one phase, or only all phases together, read more than `limit` times."""
    found: list[str] = []
    total: dict[str, float] = {}
    named: set[str] = set()
    for phase, plan in phases.items():
        for row in plan["sources"]:
            place, epochs = f"{row['source']} ({row['group']})", row["epochs"] or 0.0
            total[place] = total.get(place, 0.0) + epochs
            if epochs > limit:
                named.add(place)
                found.append(f"{phase}: {place} would be read {epochs:.1f} times (limit {limit:g}): "
                             f"{row['planned_tokens']:,} tokens planned, {row['tokens']:,} there")  # fmt: skip
    together = {place: epochs for place, epochs in total.items() if epochs > limit and place not in named}
    return found + [f"all phases: {place} would be read {n:.1f} times (limit {limit:g})" for place, n in together.items()]


def _source_row(h: Holding, key: str | None, share: float, planned: float | None) -> dict[str, Any]:
    tokens = None if planned is None else round(planned * share)
    epochs = None if planned is None else round(planned * share / max(h.tokens, 1), 4)
    return {
        "group": h.group, "source": h.source, "key": key, "documents": h.documents, "tokens": h.tokens,
        "share": round(share, 6), "planned_tokens": tokens, "epochs": epochs,
    }  # fmt: skip


def _check_factors(factors: Mapping[str, float], held: list[Holding], where: str) -> None:
    known = sorted({h.source for h in held} | {f"{h.group}/{h.source}" for h in held})
    for name, factor in factors.items():
        if factor < 0:
            raise InputError(f"the weight of the source '{name}' is negative", where=where, fix=f"{name}: 0 leaves it out")
        if name not in known:
            raise InputError(f"there is no training document of the source '{name}'", where=where, fix=did_you_mean(name, known))
