"""Speech with text, for all of speech's training and tests (section 8.1.2): generated, and the user's own.

The generated speech is of the mini-world's sentences in eight languages; what is said in dev or test, and who says it, is in no
training row. Sounds of files and of corpora are decoded once, and divided by content where they have no split of their own.
`train.jsonl` has dialogs; `dev.jsonl` and `test.jsonl` have tasks of the families `transcribe`, `translate` and `answer`. The
files lie in `media/`; each row's provenance names in `checks` what its sound says and by whom, and `split.json` counts from the
written rows that no such name is in two splits.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Discriminator, Tag, field_validator

from puna.core.errors import InputError
from puna.core.settings import Portion
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.post.collect import file_digests, long_forms, source_files, source_kind
from puna.post.row_lineage import RecordedRows
from puna.post.spool import Spool
from puna.speech.sound_files import CorpusSounds, FileSounds, SoundRows, SoundShelf, named, tables_of
from puna.speech.spoken import SPLITS, Split, WorldSounds, rows_of, speaker_of, spoken
from puna.tokenizer.dialog import Dialog, Preference, Task, read_rows, row_line
from puna.vision.fetch import MediaRules
from puna.vision.picture_files import Choice, Chosen, asked, choose, learnt
from puna.vision.pictures import keep_media, tell_bad_rows
from puna.world.voices import PROGRAM, version

KIND = "sounds"
REVISION = 1

KEYS = {"sentences": "shows", "voices": "voice"}  # what splits are held apart by, and its key among a row's checks


class WorldSource(BaseSettings):
    """`world`, or `world: {...}` with the fields of `WorldSounds`."""

    world: WorldSounds = WorldSounds()


def _kind(value: Any) -> str:
    """The tag of a source, an object or a dict."""
    corpus = hasattr(value, "corpus") or (isinstance(value, dict) and "corpus" in value)
    return "corpus" if corpus else source_kind(value)


Source = Annotated[
    Annotated[WorldSource, Tag("world")] | Annotated[CorpusSounds, Tag("corpus")] | Annotated[FileSounds, Tag("path")],
    Discriminator(_kind),
]  # fmt: skip


class Settings(BaseSettings):
    """Sources, and the shares of sounds held out where a source has no split of its own.

    `teachers`: terms of models' outputs by the model's name, for rows that name a teacher and not its licence.
    """

    sources: tuple[Source, ...] = (WorldSource(),)
    dev: Portion = 0.02
    test: Portion = 0.05
    teachers: dict[str, str] = {}

    @field_validator("sources", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return long_forms(value)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Speak, read, divide and write; the summary counts rows by split, family and language, and seconds of sound."""
    recorded, counts = RecordedRows(ctx, settings.teachers), {split: Counter[str]() for split in SPLITS}
    rows = _read(settings, ctx)
    chosen = choose(rows, Choice(filter=None, near=None, dev=settings.dev, test=settings.test), ctx.stream_seed("files"))
    for split in SPLITS:
        with (ctx.out / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for row in chain(_spoken(settings, split, ctx), _chosen(rows, chosen, split)):
                file.write(row_line(row))
                recorded.rows(split, [row])
                counts[split][f"{row.capability} {row.lang}"] += 1
    recorded.close()
    keep_media(rows, chosen, ctx)
    if not any(counts.values()):
        reason = rows.bad[0]["reason"] if rows.bad else ", ".join(chosen.reasons) or "no utterance was asked for"
        raise InputError(f"no source gave a usable row: {reason}", fix="see docs/speech.md for the forms that are read")
    proof = _proof(ctx)
    (ctx.out / "split.json").write_text(json.dumps(proof, indent=1, sort_keys=True) + "\n")
    tell_bad_rows(rows, ctx)
    return {
        "rows": {split: sum(found.values()) for split, found in counts.items()},
        "kinds": {split: dict(sorted(found.items())) for split, found in counts.items()},
        **{name: proof[name] for name in (*KEYS, "seconds", "backends")},
        "bad_rows": len(rows.bad),
        "left_out": dict(sorted(chosen.reasons.items())),
    }


def outside(settings: Settings) -> dict[str, str]:
    """Content digests of the user's files of rows and of a corpus's tables, by path, and the program that speaks, if one does.

    Sounds are not among them: give changed ones other names.
    """
    files = [path for source in settings.sources if isinstance(source, FileSounds) for path in source_files(source.path)]
    tables = [path for source in settings.sources if isinstance(source, CorpusSounds) for path in tables_of(Path(source.path))]
    worlds = [source.world for source in settings.sources if isinstance(source, WorldSource)]
    program = {PROGRAM: version()} if any(speaker_of(world.voices)[0] == "espeak" for world in worlds) else {}
    return {**file_digests([*files, *tables]), **program}


def _spoken(settings: Settings, split: Split, ctx: StageContext) -> Iterator[Dialog | Task]:
    """The rows of the generated speech of a split, each sound written before its rows come."""
    worlds = [source.world for source in settings.sources if isinstance(source, WorldSource)]
    for place, world in enumerate(worlds):
        backend, speak = speaker_of(world.voices)
        if backend == "formant" and world.voices == "auto" and split == "train":
            ctx.note("espeak-ng is not installed: the built-in formant synthesiser speaks in its place, which is coarser")
        seed, total, folder = (
            ctx.stream_seed("world", place),
            len(world.languages) * getattr(world, split),
            f"media/world-{place}",
        )

        def told(done: int, total: int = total) -> None:
            ctx.progress(done, total, split=split)
            ctx.checkpoint_or_stop(lambda: None)

        for one, seconds in spoken(world, split, seed, ctx.out / folder, speak, ctx.cores, told):
            yield from rows_of(one, seconds, f"{folder}/{one.url}", seed, backend)


def _read(settings: Settings, ctx: StageContext) -> SoundRows:
    """Every row of the user's files and corpora, its sounds on a shelf in the scratch folder."""
    rows = SoundRows(
        Spool(ctx.scratch / "rows.jsonl"), SoundShelf(ctx.scratch / "media", ctx.scratch / "media.jsonl", MediaRules())
    )

    def pause() -> None:
        ctx.checkpoint_or_stop(lambda: None)

    for source in settings.sources:
        if isinstance(source, WorldSource):
            continue
        domains = source.domains if isinstance(source, FileSounds) else ()
        rows.shelf.rules = MediaRules(max_bytes=int(source.max_mb * 1e6), domains=domains)
        rows.shelf.max_seconds = source.max_seconds
        if isinstance(source, CorpusSounds):
            rows.corpus(source, pause)
            continue
        for path in source_files(source.path):
            rows.read(source, path, pause)
    return rows


def _chosen(rows: SoundRows, chosen: Chosen, split: Split) -> Iterator[Dialog | Task]:
    """The rows of files in a split; those that cannot be asked are left out and counted."""
    numbers, media = chosen.rows(split), rows.first_media()
    for number, line in zip(numbers.tolist(), rows.spool.lines(numbers), strict=True):
        row = learnt(line, chosen.shows[number]) if split == "train" else asked(line, chosen.shows[number], split)
        if row is None:
            chosen.leave(np.array([number]), "nothing to ask: it does not end in an answer")
        else:
            assert not isinstance(row, Preference)  # they are no rows of a split
            yield named(row, rows.shelf.seconds[media[number]] if media[number] >= 0 else 0.0)


def _proof(ctx: StageContext) -> dict[str, Any]:
    """Counted from the rows as written: sentences and voices of each split and those that two splits share, and seconds."""
    rows: dict[str, Iterable[Dialog | Task]] = {
        split: read_rows(ctx.out / f"{split}.jsonl", Dialog if split == "train" else Task) for split in SPLITS
    }
    names: dict[str, dict[str, set[str]]] = {what: {split: set() for split in SPLITS} for what in KEYS}
    seconds: dict[str, dict[str, float]] = {split: {} for split in SPLITS}
    backends = set[str]()
    for split, found in rows.items():
        for row in found:
            checks = row.provenance.checks
            for what, key in KEYS.items():
                if key in checks:
                    names[what][split].add(str(checks[key]))
            backends.add(str(checks.get("backend", "recorded")))
            prompt = row.messages if isinstance(row, Dialog) else row.prompt
            seconds[split].update({m.url: float(checks.get("seconds", 0.0)) for message in prompt for m in message.media})
    return {
        **{what: {split: len(known) for split, known in found.items()} for what, found in names.items()},
        "overlap": {
            what: {f"{a}/{b}": len(found[a] & found[b]) for a, b in combinations(SPLITS, 2)} for what, found in names.items()
        },
        "seconds": {split: round(sum(found.values()), 1) for split, found in seconds.items()},
        "backends": sorted(backends),
        "split_by": "what is said: a generated sentence by its English form, a sound of a file by its content",
    }
