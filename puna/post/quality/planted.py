"""A stage that makes a mix of dialogs with planted faults, and the measure of a selection against it.

The artifact is one of samples, so that `post.quality.select` and `post.sft` take it like any other; `truth.jsonl` says what was
planted, `topics.jsonl` has labelled dialogs for the topic classifier, `prompts.jsonl` the tasks that the rows answer.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.data.planted import rates
from puna.post.checkpoints import POLICY
from puna.post.quality.planted_rows import GOOD, Planted, labelled_topics, planted_mix
from puna.post.quality.rows import TOPICS
from puna.tokenizer.dialog import Task, read_rows, write_rows

KIND = "samples"
REVISION = 1

TRUTH = "truth.jsonl"
COPIES = ("exact_duplicate", "near_duplicate")
FOUND_BY = {
    "exact_duplicate": ("unique",), "near_duplicate": ("unique",), "off_topic": ("topic",),
    "over_apologetic": ("apologies", "emoji", "exclamations"), "wrong": ("verified", "reward", "judge"),
    "contaminated": ("clean",),
}  # fmt: skip


class Settings(BaseSettings):
    """`rows` of the mix, and labelled `topics` beside it. Held-out tasks are planted from the dev tasks, which no score reads."""

    rows: PositiveInt = 2000
    topics: PositiveInt = 1000


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write the mix, its truth, labelled topics, and tasks."""
    held = list(read_rows(ctx.inputs.one("tasks").path / "dev.jsonl", Task))
    found = planted_mix(ctx.stream_seed("mix"), settings.rows, held)
    write_planted(ctx.out, found, ctx.stream_seed("topics"), settings.topics)
    ctx.add_source("planted", "CC0-1.0", rows=len(found))
    return {"rows": len(found), "truth": dict(sorted(Counter(row.truth for row in found).items()))}


def write_planted(directory: Path, found: Sequence[Planted], seed: int, topics: int) -> None:
    """The files of the artifact."""
    write_rows(directory / "accepted.jsonl", [row.dialog for row in found])
    write_rows(directory / TOPICS, labelled_topics(seed, topics))
    write_rows(directory / "prompts.jsonl", list({row.task.id: row.task for row in found if row.task}.values()))
    for name in ("samples.jsonl", "preferences.jsonl"):
        write_rows(directory / name, [])
    (directory / POLICY).write_text(json.dumps({"policy": "", "ancestors": [], "round": None}) + "\n")
    truth = [{"id": row.dialog.id, "truth": row.truth, "of": row.of} for row in found]
    (directory / TRUTH).write_text("".join(json.dumps(row) + "\n" for row in truth))


def score_planted(path: Path, reasons: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Recall and precision of a selection for every class that was planted.

    A copy counts as found when not both it and its original were kept, and a good row as kept when it or a copy of it was; every
    other row is found when it was left out. Precision is of the rows whose first reason is one that the class is found by: the
    share that had been planted, which for copies includes their originals.

    Args:
        path: `truth.jsonl`.
        reasons: the first predicate that each row fails by its id, "" for a kept row.
    """
    truth = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    missing = [key for key in truth if key not in reasons]
    if missing:
        raise InputError("a planted row was not judged", where=f"{path}: {missing[0]}", fix="judge the rows of the same artifact")
    scores = {fault: _score(fault, truth, reasons) for fault in FOUND_BY if any(row["truth"] == fault for row in truth.values())}
    kept = [key for key in truth if not reasons[key]]
    good = sum(row["truth"] == GOOD for row in truth.values())
    right = [truth[key]["of"] or key for key in kept if truth[key]["truth"] in (GOOD, *COPIES)]
    scores["kept"] = rates(len(set(right)), good, len(right), len(kept))
    return scores


def _score(fault: str, truth: dict[str, dict[str, Any]], reasons: dict[str, str]) -> dict[str, Any]:
    planted = [key for key, row in truth.items() if row["truth"] == fault]
    hits = [key for key in planted if reasons[key] or (fault in COPIES and reasons[truth[key]["of"]])]
    members = set(planted)
    if fault in COPIES:
        members = {name for key, row in truth.items() if row["truth"] in COPIES for name in (key, row["of"])}
    found = [key for key in truth if set(re.findall(r"\w+", reasons[key])) & set(FOUND_BY[fault])]
    return rates(len(hits), len(planted), sum(key in members for key in found), len(found))
