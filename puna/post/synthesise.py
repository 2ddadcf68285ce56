"""Synthetic dialogs from a teacher, each kept only if its generator's checker passed it (paper 4.2.2, 4.3).

A recipe names generators (`puna.post.synth.catalogue`), a teacher, and a judge if it is another. Every item is a story that asks
the teacher, runs programs in the sandbox, and ends accepted or rejected with a reason. Items are worked through in parts; a part
that was finished before a kill is read back, and a rerun leaves the same bytes.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.data.sources import FileSource, file_digests
from puna.post import checkpoints
from puna.post.prompts import prompt_key
from puna.post.reject import part_of
from puna.post.row_lineage import RecordedRows
from puna.post.synth.catalogue import GENERATORS, Generators
from puna.post.synth.drive import NO_SANDBOX, LazySandbox, Running, Told, drive
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Item
from puna.post.synth.tally import Tally
from puna.post.synth.teacher import Asked, ModelTeacher, Teacher, Usage, open_teacher
from puna.post.synth.templates import Templates, load_templates
from puna.tokenizer.dialog import Dialog, Provenance, Task, content_id, read_rows, write_rows

KIND = "samples"
REVISION = 1


class Settings(BaseSettings):
    """What is made, and by whom.

    Attributes:
        generators: settings of those that are wanted, by name.
        teacher, judge: who answers, and who judges where no program can; None: the teacher.
        program_seconds: how long a program may run; a slower machine may need more to come to the same verdicts.
        part: items between two looks at whether to stop.
        workers: programs that run side by side. `allow_unsandboxed` runs them without walls where none can be had.
        no_sandbox: where none can be had, or a language is not installed, `refuse` the stage or `skip` what would run a program.
        round: recorded in the provenance of every row.
    """

    generators: Generators
    teacher: Asked = Asked()
    judge: Asked | None = None
    program_seconds: PositiveFloat = 5.0
    part: PositiveInt = 128
    workers: PositiveInt = execution(2)
    allow_unsandboxed: bool = execution(False)
    no_sandbox: Literal["refuse", "skip"] = "refuse"
    round: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> Settings:
        if not self.wanted():
            raise ValueError(f"no generator is named; known: {', '.join(GENERATORS)}")
        return self

    def wanted(self) -> dict[str, Any]:
        """Settings of the generators to run, by name, in the order of the catalogue."""
        found = {name: getattr(self.generators, name) for name in GENERATORS}
        return {name: settings for name, settings in found.items() if settings is not None}


Entry = tuple[str, Item]  # the generator's name and one of its items


def outside(settings: Settings) -> dict[str, str]:
    """Digests of the templates and of the user's files: a reworded question makes another artifact."""
    found = {f"prompts/{name}": _templates(name, own).digest for name, own in settings.wanted().items()}
    for name, own in settings.wanted().items():
        read = getattr(GENERATORS[name], "outside", None)
        for path in read(own) if read else ():
            found |= {f"{name}/{file}": digest for file, digest in file_digests(FileSource(path=str(path))).items()}
    return found


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Draw items, tell their stories, write what was accepted and why the rest was not."""
    wanted, sources = settings.wanted(), Sources(ctx)
    templates = {name: _templates(name, own) for name, own in wanted.items()}
    entries = [
        (name, item)
        for name, own in wanted.items()
        for item in _distinct(GENERATORS[name].items(own, sources, python_stream(ctx.stream_seed("items"), name)))
    ]
    _note_missing(entries, wanted, ctx)
    teacher = open_teacher(settings.teacher, ctx, "teacher")
    judge = teacher if settings.judge is None else open_teacher(settings.judge, ctx, "judge")
    may_lack = settings.no_sandbox == "skip"
    box = LazySandbox(settings.workers, settings.program_seconds, settings.allow_unsandboxed, may_lack=may_lack)
    tally = Tally(ctx.out, wanted, _held_out(ctx))
    with box, tally:
        tell = partial(
            _tell, settings=settings, templates=templates, teachers={"teacher": teacher, "judge": judge}, box=box, ctx=ctx
        )
        for number, first in enumerate(range(0, len(entries), settings.part)):
            part = entries[first : first + settings.part]
            advance = partial(_advance, ctx, tally, first, len(entries))
            for told in part_of(ctx, number, partial(tell, part, advance=advance), Told, "stories"):
                tally.add(told)
            advance(len(part))
    if skipped := sum(one.reasons[NO_SANDBOX] for one in tally.counts.values()):
        ctx.note(f"{skipped} items were left out that need a sandbox or a compiler, and none is here (puna doctor)")
    _note_end(tally, (teacher, judge), ctx)
    _describe(ctx, settings, teacher, judge)
    return {
        "accepted": tally.rows,
        "held_out": tally.held_out,
        "teacher": teacher.name,
        "judge": judge.name,
        "round": settings.round,
        "usage": {
            "teacher": _usage(tally, "teacher", settings.teacher),
            "judge": _usage(tally, "judge", settings.judge or settings.teacher),
        },
        "generators": {name: {**one.summary(), "prompts": templates[name].digest} for name, one in tally.counts.items()},
    }


def _templates(name: str, own: Any) -> Templates:
    return load_templates(getattr(GENERATORS[name], "TEMPLATES", name), own.prompts)


def _distinct(items: Iterator[Item]) -> Iterator[Item]:
    """Each key once: the streams of two stories must not be one."""
    seen: set[str] = set()
    for item in items:
        if item.key not in seen:
            seen.add(item.key)
            yield item


def _note_missing(entries: Sequence[Entry], wanted: dict[str, Any], ctx: StageContext) -> None:
    found = Counter(name for name, _ in entries)
    for name, own in wanted.items():
        if found[name] < own.count:
            ctx.note(f"{name}: {found[name]} items where {own.count} were wanted: the inputs hold no more that fit")
    if not entries:
        raise InputError("the inputs hold nothing that a generator can begin with", where=ctx.name,
                         fix="see what each generator draws from in docs/synth.md")  # fmt: skip


def _advance(ctx: StageContext, tally: Tally, before: int, total: int, ended: int) -> None:
    ctx.progress(before + ended, total, accepted=tally.passed)


def _note_end(tally: Tally, asked: Sequence[Teacher], ctx: StageContext) -> None:
    """What is better known before anything learns from these rows: that there are none, or that nobody may pass them on."""
    reasons = sum((one.reasons for one in tally.counts.values()), Counter[str]())
    if not tally.rows:
        told = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3)) or "every prompt is held out"
        ctx.note(f"nothing was accepted: {told}; rejected.jsonl has the last answer of each")
    for name in sorted({one.name for one in asked if one.licence == "unknown"}):
        ctx.note(f"the terms of what {name} writes are unknown, so no model that learns from it can be released: set `licence`")


def _tell(
    part: Sequence[Entry], *, settings: Settings, templates: dict[str, Templates], teachers: dict[str, Teacher], box: LazySandbox,
    ctx: StageContext, advance: Callable[[int], None],
) -> list[Told]:  # fmt: skip
    """The stories of a part, with the dialogs of the accepted ones."""
    wanted, began = settings.wanted(), time.perf_counter()
    stories = [(name, item, GENERATORS[name].story(item, wanted[name], templates[name])) for name, item in part]
    running = drive(stories, teachers, box, ctx.stream_seed("asks"), advance)
    for one in running:
        if isinstance(one.end, Accepted):
            rows = _dialogs(one, one.end, settings, teachers, templates[one.generator])
            one.told.dialogs = [row.model_dump(mode="json") for row in rows]
    ctx.timing(stories=len(part), seconds=round(time.perf_counter() - began, 3))
    return [one.told for one in running]


def _dialogs(one: Running, end: Accepted, settings: Settings, teachers: dict[str, Teacher], templates: Templates) -> list[Dialog]:
    teacher, judge, judged = teachers["teacher"], teachers["judge"], "judge" in one.told.read
    provenance = Provenance(
        source=one.item.source,
        licence=one.item.licence,
        teacher=teacher.name,
        teacher_licence=teacher.licence or None,
        judge=judge.name if judged else None,
        judge_licence=(judge.licence or None) if judged else None,
        round=settings.round,
        parents=list(one.item.parents),
        checks={"generator": one.generator, "prompts": templates.digest, **end.checks},
    )
    capability = end.capability or GENERATORS[one.generator].CAPABILITY
    return [
        Dialog(id=content_id(messages), messages=messages, tools=end.tools, lang=end.lang or one.item.lang, capability=capability,
               provenance=provenance)
        for messages in end.dialogs
    ]  # fmt: skip


def _describe(ctx: StageContext, settings: Settings, teacher: Teacher, judge: Teacher) -> None:
    """The other files of a `samples` artifact, and the lineage of its rows."""
    for name in ("samples.jsonl", "preferences.jsonl"):
        write_rows(ctx.out / name, [])
    ancestors = sorted(set().union(*(one.ancestors for one in (teacher, judge) if isinstance(one, ModelTeacher))))
    origin = {"policy": teacher.name, "ancestors": ancestors, "round": settings.round}
    (ctx.out / checkpoints.POLICY).write_text(json.dumps(origin, indent=1) + "\n")
    recorded = RecordedRows(ctx)
    recorded.file("accepted", ctx.out / "accepted.jsonl")
    recorded.close()


def _held_out(ctx: StageContext) -> set[str]:
    """Names of the prompts by which models are judged: what asks the same is not learnt from, whoever thought of it."""
    paths = [artifact.path / f"{split}.jsonl" for artifact in ctx.inputs.all("tasks") for split in ("dev", "test")]
    return {prompt_key(task.prompt) for path in paths if path.exists() for task in read_rows(path, Task)}


def _usage(tally: Tally, role: str, asked: Asked) -> dict[str, Any]:
    usage = Usage(0, *tally.tokens(role))
    return {"tokens_read": usage.read, "tokens_written": usage.written, "cost": round(usage.price(asked), 6)}
