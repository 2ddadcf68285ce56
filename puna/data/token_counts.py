"""Count the pieces that a vocabulary is trained on, shard by shard (paper 3.2).

Each shard of documents becomes one small table per group and language, on any engine; the tables of a part are then added up, so
memory holds the distinct pieces of one part and never a text. `min_count` leaves out what stands too rarely to matter to a
vocabulary; how many pieces and occurrences went is recorded for every part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from puna.core.settings import Settings as StageSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.data.engine import EngineSettings
from puna.data.workforce import Workforce
from puna.tokenizer.counts import (
    PARTS_FILE,
    CountedPart,
    Part,
    PieceCounts,
    Sources,
    add_up,
    count_documents,
    described_parts,
    document_shards,
    read_part,
    write_descriptions,
    write_part,
)

KIND = "token_counts"
REVISION = 1
CORES = 2

SHOWN = ("documents", "chars", "bytes", "words", "pieces", "pruned")


class Settings(StageSettings):
    """What is counted.

    Attributes:
        min_count: pieces that stand fewer times in a part (a group and a language) are left out; 1 keeps all.
        workers: processes.
        engine: where shards are counted.
    """

    min_count: int = Field(default=1, ge=1)
    workers: PositiveInt = execution(2)
    engine: EngineSettings = execution(EngineSettings())


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `counts/<group>-<language>.parquet` (`bytes`, `count`) and `parts.json`, which describes each."""
    shards = [path for source in ctx.inputs.all("documents") for path in document_shards(source.path)]
    if not shards:
        ctx.inputs.one("documents")
    places = [ctx.scratch / f"{number:06d}" for number in range(len(shards))]

    force = Workforce(settings.engine, settings.workers, ctx, phases=2)
    force.map(_count_shard, list(zip(shards, places, strict=True)))
    found = sorted({part for place in places for part in described_parts(place)})
    rows = force.map(partial(_add_part, places=places, out=ctx.out, min_count=settings.min_count), found)
    write_descriptions(ctx.out, rows)
    sources: Sources = Counter()
    for row in rows:
        sources.update({(source["source"], source["licence"]): source["documents"] for source in row["sources"]})
    for (source, licence), number in sorted(sources.items()):
        ctx.add_source(source, licence, number)
    return {
        "documents": sum(row["documents"] for row in rows),
        "parts": {f"{row['group']}-{row['lang']}": {key: row[key] for key in SHOWN} for row in rows},
    }


def _count_shard(job: tuple[Path, Path]) -> None:
    """Leave the counts of one shard in its place, unless a run before this one did."""
    shard, place = job
    if not (place / PARTS_FILE).exists():
        write_descriptions(place, [write_part(place, part, counted) for part, counted in count_documents([shard]).items()])


def _add_part(part: Part, places: list[Path], out: Path, min_count: int) -> dict[str, Any]:
    """Add up one part over the shards that hold it, write it and return its description."""
    part = Part(*part)  # an array job hands over a plain tuple
    sources: Sources = Counter()

    def tables() -> Iterator[PieceCounts]:
        for place in places:
            row = described_parts(place).get(part)
            if row is not None:
                counted = read_part(place, row)
                sources.update(counted.sources)
                yield counted.pieces

    return write_part(out, part, CountedPart(add_up(tables()), sources).at_least(min_count))
