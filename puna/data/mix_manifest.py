"""`mix.json`, the manifest of token shards: what each phase reads of each source, how often, and digests to rebuild it by.

Version 2 keeps every key of version 1 (`mix`, `anneal_mix`, `groups`, `sources`, `tokenizer`, `vocab_size`) and adds `phases`
(see `puna.data.mix.phase_plan`) and `shards` (a digest of tokens and document ends by shard). Nothing in it depends on time or
machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, NonNegativeFloat

from puna.core.errors import InputError
from puna.core.settings import Settings as StageSettings
from puna.core.stage import StageContext
from puna.data.mix import MAX_EPOCHS, PHASES, VERSION, Holding, Phase, phase_plan, too_often, weights_by_source

PAPER_MIX = {"general": 0.50, "maths": 0.25, "code": 0.17, "multilingual": 0.08}  # paper section 3.1.2


class MixSettings(StageSettings):
    """The mix of every phase.

    Attributes:
        mix: weight of each group in pre-training, as shares of tokens; absent groups are left out and the rest scaled up.
        anneal_mix: the same for the annealing phase; by default maths and code up-sampled (paper section 3.1.3).
        long_mix: the same for the long-context phase; None goes on with `mix`.
        source_weights: by phase and source (or `group/source`), how much more often than by its size a source is read within its
            group: {anneal: {wiki: 3, forum: 0}}. Sources not named count 1.
        planned_tokens: tokens each phase will train on, from which the epochs of every source follow.
        max_epochs: a source that would be read more often is named in a note.
        held: share of documents held out of training, by hash of their id.
    """

    mix: dict[str, NonNegativeFloat] = PAPER_MIX
    anneal_mix: dict[str, NonNegativeFloat] = {"general": 0.30, "maths": 0.40, "code": 0.20, "multilingual": 0.10}
    long_mix: dict[str, NonNegativeFloat] | None = None
    source_weights: dict[Phase, dict[str, NonNegativeFloat]] = {}
    planned_tokens: dict[Phase, NonNegativeFloat] = {}
    max_epochs: float = Field(MAX_EPOCHS, gt=0)
    held: float = Field(0.02, ge=0, lt=1)


@dataclass
class GroupCount:
    """What one group of the mix holds; `by_source` counts (documents, tokens) for training."""

    train: int = 0
    held: int = 0
    documents: int = 0
    held_documents: int = 0
    characters: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    by_source: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, source: str, tokens: int, characters: int, held: bool) -> None:
        """Count one document."""
        self.sources[source] = self.sources.get(source, 0) + 1
        self.characters += characters
        if held:
            self.held += tokens
            self.held_documents += 1
            return
        self.train += tokens
        self.documents += 1
        documents, there = self.by_source.get(source, (0, 0))
        self.by_source[source] = documents + 1, there + tokens

    def summary(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {
            "train_tokens": self.train, "held_tokens": self.held,
            "train_documents": self.documents, "held_documents": self.held_documents,
            "characters_per_token": round(self.characters / max(self.train + self.held, 1), 4),
            "sources": dict(sorted(self.sources.items())),
        }  # fmt: skip


@dataclass
class Contents:
    """Everything that went into the shards: counts by group, licence with documents and tokens by source, digest by shard."""

    groups: dict[str, GroupCount]
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)

    def add(self, group: str, source: str, licence: str, tokens: int, characters: int, held: bool) -> None:
        """Count one document."""
        self.groups[group].add(source, tokens, characters, held)
        row = self.sources.setdefault(source, {"licence": licence, "documents": 0, "tokens": 0})
        row["documents"] += 1
        row["tokens"] += tokens


def write_manifest(settings: MixSettings, ctx: StageContext, contents: Contents, tokenizer: Any) -> dict[str, Any]:
    """Write `mix.json`, record the sources' licences, and return the summary of the stage.

    Raises InputError when everything is held out, none of a mix's groups is there, or a source weight is of no source.
    """
    counts = contents.groups
    table = [{"source": name, **contents.sources[name]} for name in sorted(contents.sources)]
    mixes = _mixes(settings, counts, ctx)
    groups = {group: counts[group].summary() for group in sorted(counts)}
    manifest = {
        "version": VERSION, **mixes, "groups": groups, "sources": table, "shards": contents.shards,
        "tokenizer": tokenizer.digest, "vocab_size": tokenizer.vocab_size,
    }  # fmt: skip
    (ctx.out / "mix.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for row in table:
        ctx.add_source(row["source"], row["licence"], rows=row["documents"])
    train, held = sum(count.train for count in counts.values()), sum(count.held for count in counts.values())
    return {
        "tokens": train,
        "held_tokens": held,
        "documents": sum(row["documents"] for row in table),
        "characters_per_token": round(sum(count.characters for count in counts.values()) / max(train + held, 1), 4),
        "groups": groups,
        "mix": mixes["mix"],
        "anneal_mix": mixes["anneal_mix"],
    }


def _mixes(settings: MixSettings, counts: Mapping[str, GroupCount], ctx: StageContext) -> dict[str, Any]:
    """Weights by group of the two mixes every reader knows, and the plan of each phase by source."""
    present = [group for group in sorted(counts) if counts[group].train]
    held = sum(count.held_documents for count in counts.values())
    if held and not present:
        what = f"all {held} documents are held out of training"
        raise InputError(what, where=f"held: {settings.held}", fix="a smaller `held`: 0.02 is usual")
    mix = normalised_mix(settings.mix, present, "mix", ctx)
    anneal = normalised_mix(settings.anneal_mix, present, "anneal_mix", ctx)
    long = mix if settings.long_mix is None else normalised_mix(settings.long_mix, present, "long_mix", ctx)
    holdings = [
        Holding(group, source, documents, tokens)
        for group in present
        for source, (documents, tokens) in sorted(counts[group].by_source.items())
    ]
    phases: dict[Phase, dict[str, Any]] = {}
    for phase, groups in zip(PHASES, (mix, long, anneal), strict=True):
        weights = weights_by_source(groups, settings.source_weights.get(phase, {}), holdings, f"source_weights.{phase}")
        phases[phase] = phase_plan(weights, holdings, settings.planned_tokens.get(phase))
    for warning in too_often(phases, settings.max_epochs):
        ctx.note(warning)
    return {"mix": mix, "anneal_mix": anneal, "phases": phases}


def normalised_mix(weights: dict[str, float], present: list[str], name: str, ctx: StageContext) -> dict[str, float]:
    """Weights of the groups that have tokens, scaled to sum 1; what is left out is noted.

    Raises:
        InputError: no group with a weight is there.
    """
    used = {group: weight for group, weight in sorted(weights.items()) if weight > 0 and group in present}
    if not used:
        raise InputError(
            f"no group of `{name}` has any document",
            where=f"{name}: {weights}; the corpus has: {', '.join(present)}",
            fix=f"{name}: {{{present[0] if present else 'general'}: 1}}",
        )
    absent = sorted(group for group, weight in weights.items() if weight > 0 and group not in present)
    if absent:
        ctx.note(f"{name}: no documents of {', '.join(absent)}; the other weights are scaled up")
    unused = sorted(group for group in present if not weights.get(group))
    if unused:
        ctx.note(f"{name}: {', '.join(unused)} has documents and no weight, so it is not trained on")
    total = sum(used.values())
    return {group: weight / total for group, weight in used.items()}
