"""Collects what post-training starts from: dialogs to imitate, prompts to sample on, tasks to judge by, preferences (4.2.1).

Sources are the mini-world and any JSONL of tasks, dialogs, trees or instructions (`puna.post.formats`). Rows with a checkable
answer are tasks and are split into gold, prompts, dev and test by the hash of their canonical prompt, so no prompt can be in two
splits; `split.json` counts the overlap again from what was written. Rows without one are dialogs: most to learn from, one in
twenty held out for the loss that judges models when nothing can be verified. Dialogs and preferences wait on disk
(`puna.post.spool`), so memory does not grow with them.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, field_validator

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.post.formats import UnreadableRow, read_row
from puna.post.prompts import SPLITS, opening, prompt_id, split_proof
from puna.post.row_lineage import RecordedRows
from puna.post.spool import Spool, digests_of
from puna.post.task_files import json_rows
from puna.tokenizer.dialog import Dialog, MessageRow, Preference, Provenance, Task, content_id, row_line, write_rows

KIND = "tasks"
REVISION = 4  # the lineage of every row

HELD_SHARE = 0.05  # of dialogs without a verifier
HELD_MAX = 500

Shape = Literal["auto", "task", "gsm8k", "humaneval", "mbpp", "dialog", "oasst", "instruction", "preference", "pair"]


class Sizes(BaseSettings):
    """Rows wanted per split; None takes the stage's own size."""

    gold: int | None = Field(default=None, ge=0)
    prompts: int | None = Field(default=None, ge=0)
    dev: int | None = Field(default=None, ge=0)
    test: int | None = Field(default=None, ge=0)


class WorldSource(BaseSettings):
    """`world`, or `world: {gold: N, prompts: N, dev: N, test: N}`."""

    world: Sizes = Sizes()


class FileSource(Sizes):
    """JSONL files of the user's own (also .gz, .zst, ...), or a folder or glob of them.

    Attributes:
        path: a file, a folder or a glob.
        licence: SPDX identifier as the source declares it; it travels with every row.
        concluded: the licence that was found to be right, where it is another, and the `evidence` for that in words.
        teacher, judge: the model that wrote, or judged, every row that names none itself.
        format: shape of the rows; "auto" recognises it row by row.
        name: what the source is called in reports; by default the last part of the path.
    """

    path: str
    licence: str = "unknown"
    concluded: str = ""
    evidence: str = ""
    teacher: str = ""
    judge: str = ""
    format: Shape = "auto"
    name: str = ""


def source_kind(value: Any) -> str:
    """The tag of a source, an object or a dict: "world" or "path"."""
    return "world" if hasattr(value, "world") or (isinstance(value, dict) and "world" in value) else "path"


Source = Annotated[Annotated[WorldSource, Tag("world")] | Annotated[FileSource, Tag("path")], Discriminator(source_kind)]


class Settings(BaseSettings):
    """Sources and sizes. A file with fewer tasks than the sizes ask for is shared out in the same proportions, with a note.

    `dialog_prompts`: prompts of dialogs and preferences to sample on as well; nothing checks their answers, so a reward model
    has to choose among them.
    `teachers`: terms of models' outputs by the model's name, for rows that name a teacher or a judge and not its licence.
    """

    sources: tuple[Source, ...] = (WorldSource(),)
    gold: int = Field(200, ge=0)
    prompts: int = Field(12000, ge=0)
    dev: int = Field(500, ge=0)
    test: int = Field(1500, ge=0)
    dialog_prompts: int = Field(0, ge=0)
    teachers: dict[str, str] = {}

    @field_validator("sources", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return long_forms(value)


def long_forms(value: Any) -> Any:
    """Sources as a user may write them, one or several, "world" or a path, as objects."""
    entries = [value] if isinstance(value, str | dict) else value
    return [_long_form(entry) for entry in entries] if isinstance(entries, list | tuple) else entries


def _long_form(entry: Any) -> Any:
    if entry == "world":
        return {"world": {}}
    if isinstance(entry, str):
        return {"path": entry}
    if isinstance(entry, dict) and entry.get("world", 0) is None:
        return {**entry, "world": {}}
    return entry


@dataclass
class Collected:
    """Everything read so far, by split; `seen` maps the prompt id of each task to its split.

    `dialogs` and `held` are numbers of rows of `dialog_rows`, `preferences` of `preference_rows`.
    """

    dialog_rows: Spool
    preference_rows: Spool
    tasks: dict[str, list[Task]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    dialogs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    held: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    preferences: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    bad: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    duplicates: int = 0


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Read every source, split, write the artifact."""
    collected = Collected(Spool(ctx.scratch / "dialogs.jsonl"), Spool(ctx.scratch / "preferences.jsonl"))
    for source in settings.sources:
        if isinstance(source, WorldSource):
            _read_world(source, settings, ctx, collected)
        else:
            _read_files(source, settings, ctx, collected)
    _drop_leaks(collected, ctx)
    if settings.dialog_prompts:
        _add_prompts(settings.dialog_prompts, collected)
    gold = [dialog for dialog in map(gold_dialog, collected.tasks["gold"]) if dialog]
    if not gold and not len(collected.dialogs) and not any(collected.tasks.values()):
        raise InputError(
            "no source gave a usable row" + (f": {collected.bad[0]['reason']}" if collected.bad else ""),
            where=", ".join(_name(source) for source in settings.sources),
            fix="set `format` to the shape of your rows",
        )
    if not collected.tasks["dev"]:
        none = "too few tasks for a dev split" if any(collected.tasks.values()) else "nothing in these sources can be verified"
        ctx.note(f"{none}: models will be judged by the loss on held-out dialogs")
    return _write(ctx, collected, gold, RecordedRows(ctx, settings.teachers))


def outside(settings: Settings) -> dict[str, str]:
    """Content digests of the user's files, by path: a changed file makes another artifact."""
    return file_digests(
        path for source in settings.sources if isinstance(source, FileSource) for path in source_files(source.path)
    )


def file_digests(paths: Iterable[Path]) -> dict[str, str]:
    """Digests of the content of files, by path."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            found[str(path)] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return found


def gold_dialog(task: Task) -> Dialog | None:
    """The task with its worked answer as a dialog; None without one."""
    answer = task.gold_messages()
    if not answer:
        return None
    messages = [*task.prompt, *answer]
    return Dialog(
        id=content_id(messages),
        messages=messages,
        lang=task.lang,
        capability=task.capability,
        provenance=task.provenance.model_copy(update={"parents": [task.id]}),
    )


def _read_world(source: WorldSource, settings: Settings, ctx: StageContext, collected: Collected) -> None:
    from puna.world.tasks import generate_tasks

    sizes = _sizes(source.world, settings)
    generated = generate_tasks(ctx.stream_seed("world"), **sizes)
    for split in SPLITS:
        for task in generated[split]:
            _place(task, split, collected)


def _read_files(source: FileSource, settings: Settings, ctx: StageContext, collected: Collected) -> None:
    name = _name(source)
    provenance = Provenance(
        source=name, licence=source.licence, licence_concluded=source.concluded or None, evidence=source.evidence or None,
        teacher=source.teacher or None, judge=source.judge or None,
    )  # fmt: skip
    tasks: dict[str, Task] = {}
    first_dialog, first_preference = len(collected.dialog_rows), len(collected.preference_rows)
    bad_before = len(collected.bad)
    for path in source_files(source.path):
        for number, row in json_rows(path, collected.bad):
            try:
                rows = read_row(row, source.format, provenance)
            except UnreadableRow as error:
                collected.bad.append({"file": path.name, "line": number, "reason": str(error)})
                continue
            collected.duplicates += sum(prompt_id(task.prompt) in tasks for task in rows.tasks)
            tasks |= {prompt_id(task.prompt): task for task in rows.tasks}
            for dialog in rows.dialogs:
                collected.dialog_rows.add(dialog, prompt_id(opening(dialog.messages)))
            for preference in rows.preferences:
                collected.preference_rows.add(preference, prompt_id(opening(preference.context)))
    _split_tasks(tasks, _sizes(source, settings), name, ctx, collected)
    _split_dialogs(collected.dialog_rows.once(first_dialog), collected)
    pairs = np.arange(first_preference, len(collected.preference_rows))
    collected.preferences = np.concatenate([collected.preferences, pairs])
    bad = len(collected.bad) - bad_before
    if bad:
        ctx.note(f"{name}: {bad} rows could not be read and are listed in bad_rows.jsonl ({collected.bad[bad_before]['reason']})")


def source_files(path: str) -> list[Path]:
    """The JSON and JSONL files that a source names: a file, those of a folder, or those of a glob; InputError for none."""
    if Path(path).is_dir():
        return [found for found in sorted(Path(path).rglob("*")) if ".json" in "".join(found.suffixes)]
    if Path(path).is_file():
        return [Path(path)]
    found = [Path(p) for p in sorted(glob.glob(path, recursive=True)) if Path(p).is_file()]  # noqa: PTH207 (absolute patterns)
    if not found:
        raise InputError("the file does not exist", where=path, fix="check the path under `sources` (relative to where you are)")
    return found


def _split_tasks(tasks: dict[str, Task], sizes: dict[str, int], name: str, ctx: StageContext, collected: Collected) -> None:
    """Cut the tasks, in the order of their prompt ids, into the splits; fewer than wanted shrinks all in proportion.

    A task that names no verifier is a prompt to sample on and nothing else.
    """
    for task in (task for task in tasks.values() if not task.verifier):
        _place(task, "prompts", collected)
    tasks = {key: task for key, task in tasks.items() if task.verifier}
    if not tasks:
        return
    wanted = sum(sizes.values())
    if len(tasks) < wanted:
        sizes = _shrunk(sizes, len(tasks))
        ctx.note(f"{name}: {len(tasks)} tasks where {wanted} were wanted, so " + ", ".join(f"{s} {sizes[s]}" for s in SPLITS))
    order, start = sorted(tasks), 0
    for split in SPLITS:
        for key in order[start : start + sizes[split]]:
            _place(tasks[key], split, collected)
        start += sizes[split]


def _shrunk(sizes: dict[str, int], rows: int) -> dict[str, int]:
    """Sizes in proportion that add up to `rows`: at least one for a part that is wanted, at the cost of the largest."""
    wanted, parts = sum(sizes.values()), sorted(sizes, key=lambda split: sizes[split])
    found, left = dict.fromkeys(sizes, 0), rows
    for split in parts:
        found[split] = min(left, max(1, sizes[split] * rows // wanted)) if sizes[split] else 0
        left -= found[split]
    found[parts[-1]] += left
    return found


def _split_dialogs(dialogs: np.ndarray, collected: Collected) -> None:
    """Hold some dialogs out, chosen by the hash of their prompts so that one prompt is never on both sides."""
    by_row = collected.dialog_rows.prompts(dialogs)
    prompts = np.unique(by_row)
    share = max(1, min(HELD_MAX, round(len(prompts) * HELD_SHARE))) if len(prompts) > 1 else 0
    held = np.isin(by_row, prompts[:share])
    collected.held = np.concatenate([collected.held, dialogs[held]])
    collected.dialogs = np.concatenate([collected.dialogs, dialogs[~held]])


def _place(task: Task, split: str, collected: Collected) -> None:
    """Put a task into a split unless its prompt is somewhere already."""
    key = prompt_id(task.prompt)
    if key in collected.seen:
        collected.duplicates += 1
        return
    collected.seen[key] = split
    collected.tasks[split].append(task.model_copy(update={"split": split}))


def _add_prompts(wanted: int, collected: Collected) -> None:
    """Prompts of dialogs and preferences as tasks without a verifier, in the order of their ids like every other prompt.

    Those that offer tools are left out: sampling gave the paper nothing there (section 4.3.5).
    """
    found: dict[str, Task] = {}

    def add(prompt: list[MessageRow], provenance: Provenance, **about: Any) -> None:
        if prompt and prompt[-1].role == "user":
            task = Task(id=content_id({"prompt": prompt}), prompt=prompt, verifier="", provenance=provenance, **about)
            found.setdefault(prompt_id(prompt), task)
        if len(found) > 2 * wanted:
            for key in sorted(found)[wanted:]:
                del found[key]

    for line in collected.dialog_rows.lines(collected.dialogs):
        dialog = Dialog.model_validate_json(line)
        if not dialog.tools:
            add(opening(dialog.messages), dialog.provenance, lang=dialog.lang, capability=dialog.capability)
    for line in collected.preference_rows.lines(collected.preferences):
        preference = Preference.model_validate_json(line)
        if not preference.tools:
            add(preference.context, preference.provenance)
    for key in sorted(found)[:wanted]:
        _place(found[key], "prompts", collected)
    collected.tasks["prompts"].sort(key=lambda task: prompt_id(task.prompt))


def _drop_leaks(collected: Collected, ctx: StageContext) -> None:
    """Dialogs and preferences on a prompt of dev or test, or on a held-out dialog's, are left out of training."""
    asked = digests_of(key for key, split in collected.seen.items() if split in ("dev", "test"))
    forbidden = np.concatenate([asked, collected.dialog_rows.prompts(collected.held)])
    dialogs = _without(collected.dialogs, collected.dialog_rows, forbidden)
    preferences = _without(collected.preferences, collected.preference_rows, forbidden)
    dropped = len(collected.dialogs) + len(collected.preferences) - len(dialogs) - len(preferences)
    if dropped:
        ctx.note(f"{dropped} dialogs or preferences are on held-out prompts and were left out of training")
    collected.dialogs, collected.preferences = dialogs, preferences


def _without(rows: np.ndarray, spool: Spool, prompts: np.ndarray) -> np.ndarray:
    """The rows on none of these prompts."""
    return rows[~np.isin(spool.prompts(rows), prompts)]


def _write(ctx: StageContext, collected: Collected, gold: list[Dialog], recorded: RecordedRows) -> dict[str, Any]:
    judged = [dialog for dialog in map(gold_dialog, collected.tasks["dev"]) if dialog]
    dialogs, held = (collected.dialog_rows.lines(rows) for rows in (collected.dialogs, collected.held))
    preferences = collected.preference_rows.lines(collected.preferences)
    _write_lines(ctx.out / "train.jsonl", recorded.passing("train", chain(_lines(gold), dialogs)))
    _write_lines(ctx.out / "held.jsonl", recorded.passing("held", chain(held, _lines(judged))))
    _write_lines(ctx.out / "preferences.jsonl", recorded.passing("preferences", preferences))
    bare = {split: [task.model_copy(update={"gold": None}) for task in tasks] for split, tasks in collected.tasks.items()}
    for split in ("prompts", "dev", "test"):
        write_rows(ctx.out / f"{split}.jsonl", bare[split])
        recorded.rows(split, bare[split])
    recorded.close()
    proof = split_proof(collected.tasks, ctx.out / "train.jsonl")
    (ctx.out / "split.json").write_text(json.dumps(proof, indent=1, sort_keys=True) + "\n")
    if collected.bad:
        (ctx.out / "bad_rows.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in collected.bad))
    return {
        "gold": len(gold),
        "dialogs": len(collected.dialogs),
        "held": len(collected.held) + len(judged),
        "preferences": len(collected.preferences),
        "bad_rows": len(collected.bad),
        "duplicates": collected.duplicates,
        **{split: len(collected.tasks[split]) for split in ("prompts", "dev", "test")},
        "families": _families(collected.tasks["test"]),
        "overlap": proof["overlap"],
    }


def _lines(rows: Iterable[Dialog]) -> Iterator[bytes]:
    return (row_line(row).encode() for row in rows)


def _write_lines(path: Path, lines: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(lines)


def _families(tasks: list[Task]) -> dict[str, int]:
    found: dict[str, int] = {}
    for task in tasks:
        found[task.family or task.capability] = found.get(task.family or task.capability, 0) + 1
    return dict(sorted(found.items()))


def _sizes(own: Sizes, settings: Settings) -> dict[str, int]:
    return {split: getattr(settings, split) if getattr(own, split) is None else getattr(own, split) for split in SPLITS}


def _name(source: WorldSource | FileSource) -> str:
    return "world" if isinstance(source, WorldSource) else source.name or Path(source.path).name
