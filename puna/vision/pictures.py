"""Pictures and videos with text, for all of vision's training and tests (paper 7.1): generated ones, and the user's own.

The generated ones have a known truth and are held out by it: what a picture of dev or test shows is shown by none of training.
Rows of files are filtered, freed of near-duplicates, divided by picture, and resampled (`puna.vision.picture_files`).
`train.jsonl` has dialogs, one question about one picture each or longer ones; `dev.jsonl` and `test.jsonl` have tasks, with the
kind of question as their `family`. The files lie in `media/`; each row's provenance names in `checks.shows` what its picture
shows, and `split.json` counts from the written rows that no such name is in two splits.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, combinations
from shutil import rmtree
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, NonNegativeInt, Tag, field_validator

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.post.collect import file_digests, long_forms, source_files, source_kind
from puna.post.row_lineage import RecordedRows
from puna.post.spool import Spool, digests_of
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, MessageRow, Preference, Task, content_id, read_rows, row_line, write_rows
from puna.vision.fetch import MediaRules
from puna.vision.picture_files import FOLDER, SPLITS, Choice, Chosen, FilePictures, FileRows, Score, asked, choose, learnt, marked
from puna.vision.shelf import Shelf
from puna.world.drawing import Look
from puna.world.pictures import Picture, picture
from puna.world.tasks import PROVENANCE

KIND = "pictures"
REVISION = 1

PER_FOLDER = 1000  # files
LEAST_ANSWERS = 2  # of each kind of question in test: with one answer to all, shuffled pictures would cost nothing

Kind = Literal["scene", "chart", "table", "document", "clip"]


class WorldPictures(Look):
    """Generated pictures: how many of which kinds in which split, and how they look.

    Attributes:
        questions: about each picture, besides its caption; fewer where it gives no more.
        captions: whether each picture's caption is among the rows.
    """

    train: dict[Kind, NonNegativeInt] = {"scene": 4000}
    dev: dict[Kind, NonNegativeInt] = {"scene": 60}
    test: dict[Kind, NonNegativeInt] = {"scene": 200}
    questions: int = Field(default=2, ge=0, le=8)
    captions: bool = True


class WorldSource(BaseSettings):
    """`world`, or `world: {...}` with the fields of `WorldPictures`."""

    world: WorldPictures = WorldPictures()


Source = Annotated[Annotated[WorldSource, Tag("world")] | Annotated[FilePictures, Tag("path")], Discriminator(source_kind)]


class Settings(Choice):
    """Sources, and how rows of files are chosen.

    `teachers`: terms of models' outputs by the model's name, for rows that name a teacher and not its licence.
    """

    sources: tuple[Source, ...] = (WorldSource(),)
    teachers: dict[str, str] = {}

    @field_validator("sources", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return long_forms(value)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Draw, read, choose and write; the summary counts rows by split and kind, and what was left out, by reason."""
    recorded, kinds = RecordedRows(ctx, settings.teachers), {split: Counter[str]() for split in SPLITS}
    rows = _read_files(settings, ctx)
    chosen = choose(rows, settings, ctx.stream_seed("files"), _scorer(ctx))
    for split in SPLITS:
        with (ctx.out / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for row in chain(_drawn(settings, split, ctx), _chosen(rows, chosen, split)):
                file.write(row_line(row))
                recorded.rows(split, [row])
                kinds[split][row.capability] += 1
    _write_preferences(rows, chosen, ctx, recorded)
    recorded.close()
    keep_media(rows, chosen, ctx)
    if not any(kinds.values()) and not len(chosen.preferences()):
        reason = rows.bad[0]["reason"] if rows.bad else ", ".join(chosen.reasons)
        raise InputError(f"no source gave a usable row: {reason}", fix="see docs/vision.md for the forms that are read")
    proof = _proof(ctx)
    (ctx.out / "split.json").write_text(json.dumps(proof, indent=1, sort_keys=True) + "\n")
    tell_bad_rows(rows, ctx)
    return {
        "rows": {split: sum(found.values()) for split, found in kinds.items()},
        "preferences": len(chosen.preferences()),
        "pictures": proof["pictures"],
        "kinds": {split: dict(sorted(found.items())) for split, found in kinds.items()},
        "bad_rows": len(rows.bad),
        "left_out": dict(sorted(chosen.reasons.items())),
    }


def outside(settings: Settings) -> dict[str, str]:
    """Content digests of the user's files of rows, by path. Pictures are not among them: give changed ones other names."""
    files = (source for source in settings.sources if isinstance(source, FilePictures))
    return file_digests(path for source in files for path in source_files(source.path))


def _drawn(settings: Settings, split: str, ctx: StageContext) -> Iterator[Dialog | Task]:
    """The rows of the generated pictures of a split, each picture saved before its rows come."""
    worlds = [source.world for source in settings.sources if isinstance(source, WorldSource)]
    for place, world in enumerate(worlds):
        wanted: dict[Kind, int] = getattr(world, split)
        seed, total = ctx.stream_seed("world", place), sum(wanted.values())
        numbered = ((kind, number) for kind, count in wanted.items() for number in range(count))
        for done, (kind, number) in enumerate(numbered, start=1):
            shown = picture(kind, seed, split, number, world)
            url = f"media/world-{place}/{kind}-{split}/{number // PER_FOLDER:04d}/{number:07d}.png"
            path = ctx.out / url
            path.parent.mkdir(parents=True, exist_ok=True)
            shown.save(path)
            yield from _asked(shown, url, split, world, seed, number)
            if done % PER_FOLDER == 0 or done == total:
                ctx.progress(done, total, split=split)


def _asked(shown: Picture, url: str, split: str, world: WorldPictures, seed: int, number: int) -> Iterator[Dialog | Task]:
    """Rows about one picture: its caption, and some of the questions it answers.

    Their ids name the seed as well: other stages have pictures of other seeds at the same addresses.
    """
    caption, *others = shown.asked
    chosen = python_stream(seed, "questions", shown.kind, split, number).sample(others, min(world.questions, len(others)))
    medium = Medium(0, "video" if len(shown.images) > 1 else "image", url)
    provenance = marked(PROVENANCE, hashlib.blake2b(shown.key.encode(), digest_size=16).hexdigest())
    for one in (caption, *chosen) if world.captions else chosen:
        prompt, answer = (
            MessageRow(role="user", content=one.question, media=(medium,)),
            MessageRow(role="assistant", content=one.answer),
        )
        if split == "train":
            messages = [prompt, answer]
            yield Dialog(
                id=content_id({"messages": messages, "seed": seed}), messages=messages, capability=one.kind, provenance=provenance
            )
        else:
            yield Task(
                id=content_id({"prompt": [prompt], "seed": seed}), prompt=[prompt], verifier="exact", reference=[one.answer],
                family=one.kind, capability=one.kind, gold=one.answer, split=split, provenance=provenance,
            )  # fmt: skip


def _read_files(settings: Settings, ctx: StageContext) -> FileRows:
    """Every row of the user's files, its media on a shelf in the scratch folder."""
    rows = FileRows(Spool(ctx.scratch / "rows.jsonl"), Shelf(ctx.scratch / "media", ctx.scratch / "media.jsonl", MediaRules()))
    for source in settings.sources:
        if isinstance(source, FilePictures):
            rows.shelf.rules = MediaRules(max_bytes=int(source.max_mb * 1e6), domains=source.domains)
            for path in source_files(source.path):
                rows.read(source, path, lambda: ctx.checkpoint_or_stop(lambda: None))
    return rows


def _scorer(ctx: StageContext) -> Score | None:
    """Cosines of pictures and captions by the contrastive encoder among the inputs, if there is one."""
    encoder = ctx.inputs.optional("image_encoder")
    if encoder is None:
        return None
    from puna.vision.contrast import load_scorer

    return load_scorer(encoder.path)


def _chosen(rows: FileRows, chosen: Chosen, split: str) -> Iterator[Dialog | Task]:
    """The rows of files in a split; those that cannot be asked are left out and counted."""
    numbers = chosen.rows(split)
    for number, line in zip(numbers.tolist(), rows.spool.lines(numbers), strict=True):
        shows = chosen.shows[number]
        row = learnt(line, shows) if split == "train" else asked(line, shows, split)
        if row is None:
            chosen.leave(np.array([number]), "nothing to ask: it does not end in an answer")
        else:
            assert not isinstance(row, Preference)  # they are no rows of a split
            yield row


def _write_preferences(rows: FileRows, chosen: Chosen, ctx: StageContext, recorded: RecordedRows) -> None:
    """`preferences.jsonl`, if there are any."""
    numbers = chosen.preferences()
    if len(numbers):
        lines = zip(numbers.tolist(), rows.spool.lines(numbers), strict=True)
        write_rows(ctx.out / "preferences.jsonl", (row for number, line in lines if (row := learnt(line, chosen.shows[number]))))
        recorded.file("preferences", ctx.out / "preferences.jsonl")


def keep_media(rows: FileRows, chosen: Chosen, ctx: StageContext) -> None:
    """Move the shelf into the artifact, without what only rows that were left out show."""
    if not len(rows.shelf):
        return
    kept = rows.media_of(chosen.split >= 0)
    for number, name in enumerate(rows.shelf.names):
        path = rows.shelf.folder / name
        if number not in kept and path.is_file():
            path.unlink()
        elif number not in kept:
            rmtree(path)
    (ctx.out / FOLDER).parent.mkdir(exist_ok=True)
    rows.shelf.folder.rename(ctx.out / FOLDER)


def _proof(ctx: StageContext) -> dict[str, Any]:
    """Counted from the rows as written: pictures of each split and those that two splits share, and answers by kind in test."""
    learnt_from = read_rows(ctx.out / "train.jsonl", Dialog)
    dev, test = (list(read_rows(ctx.out / f"{split}.jsonl", Task)) for split in ("dev", "test"))
    rows: dict[str, Iterable[Dialog | Task]] = {"train": learnt_from, "dev": dev, "test": test}
    shown = {split: np.unique(digests_of(row.provenance.checks["shows"] for row in found)) for split, found in rows.items()}
    answers: dict[str, set[str]] = defaultdict(set)
    for task in test:
        answers[task.family].add(str(task.gold))
    single = sorted(kind for kind, found in answers.items() if len(found) < LEAST_ANSWERS)
    if single:
        ctx.note(
            f"test: all questions of the kind {', '.join(single)} have one answer, so shuffled pictures are no control for them"
        )
    return {
        "pictures": {split: len(found) for split, found in shown.items()},
        "overlap": {f"{a}/{b}": len(np.intersect1d(shown[a], shown[b])) for a, b in combinations(SPLITS, 2)},
        "digests": {split: hashlib.blake2b(found.tobytes(), digest_size=16).hexdigest() for split, found in shown.items()},
        "test_answers": {kind: len(found) for kind, found in sorted(answers.items())},
        "split_by": "what a picture shows: a generated one by its truth, one of a file by its content and near-duplicates",
    }


def tell_bad_rows(rows: FileRows, ctx: StageContext) -> None:
    """Write what could not be used, and say so."""
    if rows.bad:
        (ctx.out / "bad_rows.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows.bad))
        ctx.note(f"{len(rows.bad)} rows could not be used and are listed in bad_rows.jsonl ({rows.bad[0]['reason']})")
