"""Speech with text, for all of speech's training and tests (section 8.1.2): generated, and the user's own.

The generated speech is of the mini-world's sentences in eight languages; what is said in dev or test, and who says it, is in no
training row. Sounds of files and of corpora are decoded once, and divided by content where they have no split of their own.
`train.jsonl` has dialogs; `dev.jsonl` and `test.jsonl` have tasks of the families `transcribe`, `translate` and `answer`. The
files lie in `media/`; each row's provenance names in `checks` what its sound says and by whom, and `split.json` counts from the
written rows that no such name is in two splits.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

from pydantic import field_validator

from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.post.collect import long_forms
from puna.post.row_lineage import RecordedRows
from puna.speech.spoken import SPLITS, Split, WorldSounds, rows_of, speaker_of, spoken
from puna.tokenizer.dialog import Dialog, Task, read_rows, row_line

KIND = "sounds"
REVISION = 1

NAMED = {"sentences": "shows", "voices": "voice"}  # what splits are held apart by, and its key among a row's checks


class WorldSource(BaseSettings):
    """`world`, or `world: {...}` with the fields of `WorldSounds`."""

    world: WorldSounds = WorldSounds()


class Settings(BaseSettings):
    """Sources."""

    sources: tuple[WorldSource, ...] = (WorldSource(),)

    @field_validator("sources", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return long_forms(value)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Speak, read, divide and write; the summary counts rows by split, family and language, and seconds of sound."""
    recorded = RecordedRows(ctx)
    counts = {split: Counter[str]() for split in SPLITS}
    for split in SPLITS:
        with (ctx.out / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for row in _spoken(settings, split, ctx):
                file.write(row_line(row))
                recorded.rows(split, [row])
                counts[split][f"{row.capability} {row.lang}"] += 1
    recorded.close()
    proof = _proof(ctx)
    (ctx.out / "split.json").write_text(json.dumps(proof, indent=1, sort_keys=True) + "\n")
    return {
        "rows": {split: sum(found.values()) for split, found in counts.items()},
        "kinds": {split: dict(sorted(found.items())) for split, found in counts.items()},
        "sentences": proof["sentences"],
        "voices": proof["voices"],
        "seconds": proof["seconds"],
        "backends": proof["backends"],
    }


def _spoken(settings: Settings, split: Split, ctx: StageContext) -> Iterator[Dialog | Task]:
    """The rows of the generated speech of a split, each sound written before its rows come."""
    for place, world in enumerate(source.world for source in settings.sources):
        backend, speak = speaker_of(world, True)
        seed, total, folder = ctx.stream_seed("world", place), len(world.languages) * getattr(world, split), f"media/world-{place}"

        def told(done: int, total: int = total) -> None:
            ctx.progress(done, total, split=split)
            ctx.checkpoint_or_stop(lambda: None)

        for one, seconds in spoken(world, split, seed, ctx.out / folder, speak, ctx.cores, told):
            yield from rows_of(one, seconds, f"{folder}/{one.url}", seed, backend)


def _proof(ctx: StageContext) -> dict[str, Any]:
    """Counted from the rows as written: sentences and voices of each split and those that two splits share, and seconds."""
    rows: dict[str, Iterable[Dialog | Task]] = {
        split: read_rows(ctx.out / f"{split}.jsonl", Dialog if split == "train" else Task) for split in SPLITS
    }
    names: dict[str, dict[str, set[str]]] = {what: {split: set() for split in SPLITS} for what in NAMED}
    seconds: dict[str, dict[str, float]] = {split: {} for split in SPLITS}
    backends: dict[str, set[str]] = defaultdict(set)
    for split, found in rows.items():
        for row in found:
            checks = row.provenance.checks
            for what, key in NAMED.items():
                if key in checks:
                    names[what][split].add(str(checks[key]))
            backends[str(checks.get("backend", "recorded"))].add(split)
            prompt = row.messages if isinstance(row, Dialog) else row.prompt
            heard = [medium.url for message in prompt for medium in message.media]
            if heard:
                seconds[split][heard[0]] = float(checks.get("seconds", 0.0))
    return {
        **{what: {split: len(known) for split, known in found.items()} for what, found in names.items()},
        "overlap": {
            what: {f"{a}/{b}": len(found[a] & found[b]) for a, b in combinations(SPLITS, 2)} for what, found in names.items()
        },
        "seconds": {split: round(sum(found.values()), 1) for split, found in seconds.items()},
        "backends": sorted(backends),
        "split_by": "what is said: a generated sentence by its English form, a sound of a file by its content",
    }
