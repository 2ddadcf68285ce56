"""Chooses what post-training learns from: rules, topic, quality, difficulty, likeness, contamination (paper 4.2.3).

    NAME.scores   what is measured of every row, by models and by counting: no threshold (`puna.post.quality.scores`)
    NAME          this file: predicates, one expression that decides, and the rows it keeps

Rows are never deleted: `rows.jsonl` has all of them unchanged and in order, `annotations.parquet` beside it every predicate
with value, limit and verdict, and the decision with its reason. `accepted.jsonl` are the kept ones, which is what `post.sft`
and every other stage that takes samples reads. As in the paper a row is of high quality if the reward model or the judge says
so; where a prompt has a verifier, that comes first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import field_validator

from puna.core.modules import did_you_mean
from puna.core.rng import numpy_stream
from puna.core.settings import Share
from puna.core.stage import StageContext
from puna.core.store import write_json
from puna.data.columns import read_table, write_table
from puna.post.checkpoints import POLICY, policy_ancestors
from puna.post.quality import scores
from puna.post.quality.evidence import evidence, funnel, reasons
from puna.post.quality.expression import Truth, failures, names_in
from puna.post.quality.planted import TRUTH, score_planted
from puna.post.quality.predicates import Judged, Limits, Predicate, at_most, columns, disagreement, judged
from puna.post.quality.rules import calmed, rewritten
from puna.post.quality.scores import EMBEDDINGS, ROWS, SCORES
from puna.post.quality.semantic import Duplicates, SemanticSettings, deduplicate
from puna.post.row_lineage import RecordedRows
from puna.tokenizer.dialog import Dialog, content_id, read_rows, row_line, write_rows

KIND = "samples"
REVISION = 3

KEEP = (  # names every predicate there is
    "clean and topic and verified and emoji and exclamations and apologies and (verified or reward or judge) and difficulty"
    " and unique"
)
UNIQUE, BUDGET = "unique", "budget"
MANNER = ("emoji", "exclamations", "apologies")
ANNOTATIONS, SELECTION = "annotations.parquet", "selection.json"
HARDEST = 3  # difficulty counts from 1 to this, as the paper's levels do


class Settings(scores.Settings, Limits):
    """What is measured (`puna.post.quality.scores`), what passes (`Limits`), and:

    Attributes:
        keep: expression over predicates; one that says nothing of a row is left out (`puna.post.quality.expression`).
        semantic: what counts as alike; only rows that pass everything else are compared, so that none gives way to a dropped one.
        share: of all rows at most this share is kept, the best by quality times difficulty, or at random as a control.
        order: which rows that share is filled with.
        rewrite: rewrite answers whose manner alone would drop them, where something is left of them.
    """

    keep: str = KEEP
    semantic: SemanticSettings = SemanticSettings()
    share: Share = 1.0
    order: Literal["worth", "random"] = "worth"
    rewrite: bool = False

    @field_validator("keep")
    @classmethod
    def _readable(cls, value: str) -> str:
        for name in names_in(value):
            if name not in names_in(KEEP):
                raise ValueError(f"no predicate is called '{name}'; {did_you_mean(name, names_in(KEEP))}")
        return value


def expand(name: str, settings: Settings, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The measuring and the decision."""
    every, measured = settings.model_dump(mode="json"), f"{name}.scores"
    own = {key: every[key] for key in scores.Settings.model_fields}
    given = [str(source) for source in sources]
    return {
        measured: {"uses": "post.quality.scores", "from": given, **own},
        name: {"uses": "post.quality.select", "from": [*given, measured], **every},
    }


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Decide on every row; write all rows, their annotations, the kept rows and the evidence."""
    source = ctx.inputs.one("quality_scores")
    table = read_table(source.path / SCORES)
    found = judged(table, scores.about(source)["topics"], settings)
    vectors = np.load(source.path / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
    calm = _calmed(settings, found, source.path / ROWS)
    truths = {name: _forgiven(predicate, calm, name) for name, predicate in found.predicates.items()}
    count, unsaid = len(table), (np.zeros(len(table), bool), np.zeros(len(table), bool))
    before = failures(settings.keep, truths | {UNIQUE: unsaid}, count)
    candidates = np.flatnonzero(~_any(before, count))
    worth = found.quality * (1 + (HARDEST - 1) * found.difficulty)
    alike = deduplicate(vectors, worth, settings.semantic, ctx.stream_seed("semantic"), candidates)
    predicates = found.predicates | {UNIQUE: _unique(alike, candidates, table["id"].to_pylist(), settings)}
    failed = failures(settings.keep, truths | {UNIQUE: predicates[UNIQUE].truth}, count)
    if settings.share < 1:
        predicates[BUDGET] = _budget(~_any(failed, count), worth, settings, ctx)
        failed[BUDGET] = predicates[BUDGET].known & ~predicates[BUDGET].passed
    silent = [name for name in names_in(settings.keep) if not predicates[name].known.any()]
    if silent and count:
        ctx.note(f"{', '.join(silent)}: nothing is known of any row, so `keep` decides without")
    keep, why = ~_any(failed, count), reasons(failed, count)
    _write_rows(ctx, source.path / ROWS, keep, calm)
    _annotate(ctx, table, predicates, found, worth, keep, why, calm)
    about = {
        "keep": settings.keep,
        "funnel": funnel(failed, count),
        "predicates": evidence(predicates, keep, source.path / ROWS),
        "disagreement": disagreement(found),
        "semantic": alike.missed | {"clusters": alike.clusters, "compared": len(candidates)},
        "planted": _planted(ctx, table["id"].to_pylist(), why),
    }
    write_json(ctx.out / SELECTION, about)
    return {
        "rows": count,
        "kept": int(keep.sum()),
        "rewritten": int((keep & calm).sum()),
        "left_out": {name: why.count(name) for name in failed},
        "semantic": about["semantic"],
        **({"planted": about["planted"]} if about["planted"] else {}),
    }


def _any(failed: dict[str, np.ndarray], count: int) -> np.ndarray:
    return np.any(list(failed.values()), axis=0) if failed else np.zeros(count, dtype=bool)


def _calmed(settings: Settings, found: Judged, path: Path) -> np.ndarray:
    """Which rows are over a rule of manner and keep to all of them when they are rewritten. Returns bool [N]."""
    over = np.any([found.predicates[name].known & ~found.predicates[name].passed for name in MANNER], axis=0)
    if settings.rewrite:
        for number, dialog in enumerate(read_rows(path, Dialog) if over.any() else ()):
            if over[number]:
                over[number] = calmed(dialog, settings.rules)
        return over
    return np.zeros_like(over)


def _forgiven(predicate: Predicate, calm: np.ndarray, name: str) -> Truth:
    """What the expression sees: a row that is rewritten passes the rules of manner."""
    return (predicate.passed | calm, predicate.known) if name in MANNER else predicate.truth


def _unique(alike: Duplicates, candidates: np.ndarray, ids: list[str], settings: Settings) -> Predicate:
    """Largest similarity to a better row; says nothing of rows that were not compared."""
    values, details = np.full(len(ids), np.nan), [""] * len(ids)
    values[candidates] = alike.similarity
    for row, of in zip(candidates.tolist(), alike.of.tolist(), strict=True):
        details[row] = ids[candidates[of]] if of >= 0 else ""
    limit = np.nextafter(settings.semantic.similarity, 0)  # the limit itself is too much
    return at_most(values, limit, details)


def _budget(keep: np.ndarray, worth: np.ndarray, settings: Settings, ctx: StageContext) -> Predicate:
    """Place of each row that is left, 1 for the first, held to the number of rows that fit."""
    there = np.flatnonzero(keep)
    draw = numpy_stream(ctx.stream_seed("budget"), "order").permutation(len(there))
    order = np.lexsort((draw, -worth[there])) if settings.order == "worth" else draw
    places = np.full(len(keep), np.nan)
    places[there[order]] = np.arange(1, len(there) + 1)
    return at_most(places, float(int(settings.share * len(keep))))


def _write_rows(ctx: StageContext, path: Path, keep: np.ndarray, calm: np.ndarray) -> None:
    """Write `rows.jsonl` and `accepted.jsonl`, and what an artifact of samples has besides."""
    with (
        (ctx.out / ROWS).open("w", encoding="utf-8", newline="\n") as every,
        (ctx.out / "accepted.jsonl").open("w", encoding="utf-8", newline="\n") as kept,
    ):
        for number, dialog in enumerate(read_rows(path, Dialog)):
            every.write(row_line(dialog))
            if keep[number]:
                kept.write(row_line(_calm(dialog) if calm[number] else dialog))
    for name in ("samples.jsonl", "preferences.jsonl"):
        write_rows(ctx.out / name, [])
    recorded = RecordedRows(ctx)
    recorded.file("accepted", ctx.out / "accepted.jsonl")
    recorded.close(declare=False)
    known = [artifact for artifact in ctx.inputs.all("samples") if (artifact.path / POLICY).is_file()]
    writers = sorted(set().union(*(policy_ancestors(artifact) for artifact in known)))
    (ctx.out / POLICY).write_text(json.dumps({"policy": "", "ancestors": writers, "round": None}) + "\n")


def _calm(dialog: Dialog) -> Dialog:
    """The row as it is learnt from, a child of the row that was read."""
    messages = rewritten(dialog)
    assert messages is not None
    checks = dialog.provenance.checks | {"manner": "rewritten"}
    provenance = dialog.provenance.model_copy(update={"checks": checks, "parents": [*dialog.provenance.parents, dialog.id]})
    return dialog.model_copy(update={"id": content_id(messages), "messages": messages, "provenance": provenance})


def _annotate(
    ctx: StageContext, table: Any, predicates: dict[str, Predicate], found: Judged, worth: np.ndarray, keep: np.ndarray,
    why: list[str], calm: np.ndarray,
) -> None:  # fmt: skip
    import pyarrow as pa

    own = {
        "id": table["id"], "keep": pa.array(keep), "reason": pa.array(why, pa.string()), "rewritten": pa.array(keep & calm),
        "quality": pa.array(found.quality), "difficulty_level": pa.array(1 + (HARDEST - 1) * found.difficulty),
        "worth": pa.array(worth),
    }  # fmt: skip
    write_table(ctx.out / ANNOTATIONS, pa.table(own | columns(predicates)))


def _planted(ctx: StageContext, ids: list[str], why: list[str]) -> dict[str, Any]:
    """Recall and precision where an input says what was planted."""
    path = next((a.path / TRUTH for a in ctx.inputs.artifacts if (a.path / TRUTH).is_file()), None)
    if path is None:
        return {}
    found = score_planted(path, dict(zip(ids, why, strict=True)))
    for fault, score in found.items():
        precision = f"precision {score['precision']:.3f} of {score['found']}"
        ctx.note(f"planted {fault}: recall {score['recall']:.3f} of {score['planted']}, {precision}")
    return found
