"""Turns raw pages into documents worth training on; the fate of each page is written down (paper section 3.1.1).

Three passes. `annotate` works shard by shard: text, language, spam signals, hashes. One pass over the hashes of everything
decides what only the whole can decide: newest version of an address, language, spam, exact and near duplicates, frequent
lines. `decide` works shard by shard again: removes lines, redacts personal data, measures quality, applies the limits. Each
pass leaves one file per shard, written by rename, so a killed run goes on where it was, and one process gives the same bytes
as many.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from pydantic import ValidationInfo, field_validator

from puna.core.errors import InputError
from puna.core.settings import Settings as StageSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.data.annotate import annotate_shard, load_facts
from puna.data.columns import shard_paths
from puna.data.decide import decide_shard
from puna.data.dedup import BUCKET_DOCUMENTS, frequent_lines, older_versions
from puna.data.engine import map_shards
from puna.data.funnel import write_funnel
from puna.data.language import LLAMA_LANGUAGES, UNKNOWN
from puna.data.minhash import MinHashSettings, clusters
from puna.data.planted import score_planted
from puna.data.signals import CODE, MATHS, PROSE, Limits
from puna.data.spam import SpamLimits

KIND = "documents"
REVISION = 1
CORES = 2

FREQUENT = "frequent-lines-{bucket:03d}.npy"


class LineSettings(StageSettings):
    """Removal of frequent lines.

    Attributes:
        limit: a line in more documents of a bucket than this is removed (paper: 6); 0 switches it off.
        min_letters: shorter lines never count (a closing brace is no boilerplate).
        keep_digits: groups whose lines are compared with their digits and signs, because these are the content.
    """

    limit: int = 6
    min_letters: int = 12
    keep_digits: tuple[str, ...] = ("maths", "code")


class Settings(StageSettings):
    """What is kept.

    Attributes:
        languages: ISO 639 codes; pages in another language are dropped.
        language_p: below this probability a language is too uncertain to drop a page for.
        limits: quality limits by group of the mix.
        workers: processes.
    """

    languages: tuple[str, ...] = LLAMA_LANGUAGES
    language_p: float = 0.65
    lines: LineSettings = LineSettings()
    minhash: MinHashSettings = MinHashSettings()
    spam: SpamLimits = SpamLimits()
    general: Limits = PROSE
    maths: Limits = MATHS
    code: Limits = CODE
    multilingual: Limits = PROSE
    redact: bool = True
    workers: int = execution(2)

    @field_validator("general", "maths", "code", "multilingual", mode="before")
    @classmethod
    def _over_the_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        # a recipe that names one limit of a group keeps the group's other limits
        default = cls.model_fields[str(info.field_name)].default
        return default.model_dump() | value if isinstance(value, dict) else value

    def limits(self, group: str) -> Limits:
        """Quality limits of a group."""
        return {"maths": self.maths, "code": self.code, "multilingual": self.multilingual}.get(group, self.general)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `documents/`, `annotations/`, `dropped/`, `funnel.json` and, where faults were planted, `planted.json`.

    Raises:
        InputError: nothing is left; the message says which rule dropped how much.
    """
    pages = ctx.inputs.one("pages")
    shards = shard_paths(pages.path / "shards")
    facts_dir = ctx.scratch / "facts"
    facts_dir.mkdir(parents=True, exist_ok=True)
    total = 2 * len(shards)

    def done(before: int, count: int) -> None:
        ctx.progress(before + count, total)
        ctx.checkpoint_or_stop(lambda: None)

    map_shards(partial(annotate_shard, out=facts_dir, settings=settings), shards, workers=settings.workers, done=partial(done, 0))
    facts = load_facts(facts_dir, shards)
    reasons = _decide_globally(facts, settings)
    buckets = _write_frequent_lines(facts, reasons, settings, ctx)
    jobs = [
        (shard, reasons[start:end].tolist(), ctx.scratch / FREQUENT.format(bucket=bucket))
        for shard, (start, end), bucket in zip(shards, facts.spans, buckets, strict=True)
    ]
    for name in ("documents", "annotations", "dropped"):
        (ctx.out / name).mkdir(exist_ok=True)
    counts = map_shards(
        partial(decide_shard, facts_dir=facts_dir, out=ctx.out, settings=settings),
        jobs,
        workers=settings.workers,
        done=partial(done, len(shards)),
    )
    summary = write_funnel(ctx.out, facts, counts)
    _record_sources(ctx, facts, summary)
    if not summary["documents"]:
        dropped = ", ".join(f"{reason} {number}" for reason, number in summary["dropped"].items())
        raise InputError(
            "curation left no document", where=f"dropped: {dropped}", fix="loosen the limits of `data.curate`, or give more pages"
        )
    if (pages.path / "truth.parquet").exists():
        summary["planted"] = score_planted(pages.path / "truth.parquet", ctx.out)
        for fault, score in summary["planted"].items():
            ctx.note(
                f"planted {fault}: recall {score['recall']:.3f} of {score['planted']}, "
                f"precision {score['precision']:.3f} of {score['found']}"
            )
    return summary


def _decide_globally(facts: Any, settings: Settings) -> np.ndarray:
    """The reason that drops each document so far ("" for none), in the order in which the rules apply."""
    reasons = np.full(len(facts.rows), "", dtype=object)
    reasons[[not row["text_key"] for row in facts.rows]] = "empty"
    dates = [row["date"] for row in facts.rows]
    reasons[older_versions([row["url_key"] for row in facts.rows], dates, reasons == "")] = "url_duplicate"
    allowed = {*settings.languages, UNKNOWN}
    for index, row in enumerate(facts.rows):
        if not reasons[index] and row["spam"]:
            reasons[index] = f"spam:{row['spam']}"
        elif not reasons[index] and row["lang"] not in allowed and row["lang_p"] >= settings.language_p:
            reasons[index] = "language"
    reasons[older_versions([row["text_key"] for row in facts.rows], dates, reasons == "")] = "exact_duplicate"
    left = np.flatnonzero(reasons == "")
    heads = clusters(facts.signatures[left], lambda index: facts.shingles(int(left[index])), settings.minhash)
    older = older_versions(heads.tolist(), [dates[index] for index in left.tolist()], np.ones(len(left), dtype=bool))
    reasons[left[older]] = "near_duplicate"
    return reasons


def _write_frequent_lines(facts: Any, reasons: np.ndarray, settings: Settings, ctx: StageContext) -> list[int]:
    """Save the frequent lines of every bucket of documents; returns the bucket of each shard."""
    buckets, held, bucket = [], 0, 0
    for start, end in facts.spans:
        if held and held + end - start > BUCKET_DOCUMENTS:
            bucket, held = bucket + 1, 0
        held += end - start
        buckets.append(bucket)
    for number in range(bucket + 1):
        shards = [index for index, of in enumerate(buckets) if of == number]
        keys = [facts.line_keys(shard, reasons == "") for shard in shards]
        frequent = (
            frequent_lines(np.concatenate(keys), settings.lines.limit) if settings.lines.limit else np.zeros(0, dtype=np.uint64)
        )
        np.save(ctx.scratch / FREQUENT.format(bucket=number), frequent)
    return buckets


def _record_sources(ctx: StageContext, facts: Any, summary: dict[str, Any]) -> None:
    licences = {row["source"]: row["licence"] for row in facts.rows}
    for source, count in summary["sources"].items():
        if count["kept"]:
            ctx.add_source(source, licences[source], rows=count["kept"])
