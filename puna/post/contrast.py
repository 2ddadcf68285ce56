"""Preference pairs of two models: a teacher's right answer over a student's wrong one to the same prompt (4.2.1, 4.3.1).

The student is shown its own mistakes beside what the larger model said, which it can learn from by DPO where its own right
answers are too rare to make pairs of. The verifier ranks, so neither text is taken on trust.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from pydantic import PositiveInt

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.post import checkpoints
from puna.post.choose import Drawn, drawn_from
from puna.post.row_lineage import RecordedRows
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import (
    Candidate,
    Dialog,
    MessageRow,
    Preference,
    Provenance,
    Sample,
    Task,
    content_id,
    read_rows,
    write_rows,
)

KIND = "samples"
REVISION = 2


class Settings(BaseSettings):
    """`pairs_per_prompt`: how many of the student's wrong answers are paired, each with the teacher's first accepted one."""

    pairs_per_prompt: PositiveInt = 1


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """The first samples input is the teacher's, the second the student's, and the model input the student."""
    student, tasks, samples = ctx.inputs.one("model"), ctx.inputs.one("tasks"), ctx.inputs.all("samples")
    if len(samples) != 2:
        raise InputError(f"pairs of two models are made of two samples inputs, and there are {len(samples)}", where=ctx.name,
                         fix="from: [student, tasks, the teacher's samples, the student's]")  # fmt: skip
    tokenizer = Tokenizer.load(student.path)
    right, teacher = _accepted(samples[0]), json.loads((samples[0].path / checkpoints.POLICY).read_text())["policy"]
    pairs, tried, wrong = [], 0, 0
    for drawn in _drawn(tokenizer, tasks, samples[1]):
        tried += 1
        failing = drawn.distinct(False)
        wrong += bool(failing)
        if failing and drawn.task.id in right:
            rng = python_stream(ctx.stream_seed("contrast"), drawn.task.id)
            chosen = rng.sample(failing, min(settings.pairs_per_prompt, len(failing)))
            pairs += [_pair(drawn, i, right[drawn.task.id], teacher) for i in chosen]
    write_rows(ctx.out / "preferences.jsonl", pairs)
    for name in ("samples.jsonl", "accepted.jsonl"):
        write_rows(ctx.out / name, [])
    recorded = RecordedRows(ctx)
    recorded.rows("preferences", pairs)
    recorded.close(declare=False)
    origin = set().union(*(checkpoints.policy_ancestors(one) for one in samples))
    (ctx.out / checkpoints.POLICY).write_text(json.dumps({"policy": teacher, "ancestors": sorted(origin)}, indent=1) + "\n")
    return {"prompts": tried, "student_wrong": wrong, "teacher_right": len(right), "pairs": len(pairs)}


def _accepted(samples: Artifact) -> dict[str, Dialog]:
    """The first accepted dialog of each prompt that a verifier passed, by the prompt's task."""
    found: dict[str, Dialog] = {}
    for dialog in read_rows(samples.path / "accepted.jsonl", Dialog):
        if dialog.provenance.checks.get("verifier") == "pass":
            found.setdefault(dialog.provenance.parents[0], dialog)
    return found


def _drawn(tokenizer: Tokenizer, tasks: Artifact, samples: Artifact) -> Iterator[Drawn]:
    """The student's answers to each prompt with a verifier; they lie together in the file."""
    known = {task.id: task for task in read_rows(tasks.path / "prompts.jsonl", Task) if task.verifier}
    rows = read_rows(samples.path / "samples.jsonl", Sample)
    for task_id, answers in itertools.groupby(rows, key=lambda row: row.task_id):
        if task_id in known:
            yield drawn_from(tokenizer, known[task_id], list(answers))


def _pair(drawn: Drawn, wrong: int, right: Dialog, teacher: str) -> Preference:
    """The prompt with the teacher's answer over the student's."""
    candidates = [
        Candidate(messages=[right.messages[-1]], origin="teacher"),
        Candidate(messages=[MessageRow.model_validate(drawn.messages[wrong])], origin="policy"),
    ]
    source = drawn.task.provenance
    return Preference(
        id=content_id({"context": drawn.task.prompt, "candidates": candidates}),
        context=drawn.task.prompt,
        candidates=candidates,
        ranking=[0, 1],
        strength="significantly",
        kind="verifier",
        provenance=Provenance(
            source=source.source,
            licence=source.licence,
            licence_concluded=source.licence_concluded,
            evidence=source.evidence,
            teacher=teacher,
            teacher_licence=right.provenance.teacher_licence,
            parents=[drawn.task.id],
            checks={"verifier": "teacher's pass over student's fail"},
        ),
    )
