"""Collects pages from every source into shards of raw pages, before any judgement (paper section 3.1.1).

Two sources are embedded and need no network: the documentation Python renders of itself (`pydoc`) and the generated mini-
world (`world`), whose planted faults have a known truth. Any path, folder, glob or URL of WARC, WET, ARC, HTML, JSONL, Parquet,
XML, text, code or zip files is a source as well. Rows that cannot be read are listed in `bad_rows.jsonl`; a page whose address is
on a block list keeps its row, with the reason and without its content.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import xxhash
from pydantic import PositiveInt, field_validator

from puna.core.errors import InputError
from puna.core.settings import Settings as StageSettings
from puna.core.stage import StageContext
from puna.data.blocklist import DEFAULT, BlockList, read_block_lists
from puna.data.columns import PAGE_COLUMNS, write_shard_table
from puna.data.pydoc_pages import LICENCE as PYDOC_LICENCE
from puna.data.pydoc_pages import read_pydoc
from puna.data.rows import BadRow, PageRow, Skipped
from puna.data.sources import (
    FileSource,
    PydocSource,
    Row,
    Source,
    WorldSource,
    file_digests,
    long_form,
    names_one_file,
    read_files,
    source_name,
)

KIND = "pages"
REVISION = 2

WORLD_LICENCE = "CC0-1.0"
SHARD_BYTES = 32 << 20  # a shard is closed at this much content, whatever its number of pages
TRUTH_COLUMNS = {"id": "string", "fault": "string", "detail": "string", "lang": "string"}
PROGRESS_EVERY = 256  # pages


class BlockSettings(StageSettings):
    """Addresses that are not read.

    Attributes:
        lists: block-list files (see `puna.data.blocklist`).
        default: use the built-in list too.
    """

    lists: tuple[str, ...] = ()
    default: bool = True


class Settings(StageSettings):
    """Where pages come from and how large a shard is.

    Attributes:
        sources: "pydoc", "world", a path, or a map with options (see `puna.data.sources`).
        pages_per_shard: pages in one Parquet shard.
        document_chars: plain texts and XML are split near this many characters.
        page_bytes: a larger page is a bad row; bounds what extraction has to parse.
        block: block lists; they judge the address before anything looks at the content.
    """

    sources: tuple[Source, ...] = (PydocSource(), WorldSource())
    pages_per_shard: PositiveInt = 512
    document_chars: PositiveInt = 8_000
    page_bytes: PositiveInt = 8 << 20
    block: BlockSettings = BlockSettings()

    @field_validator("sources", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        entries = [value] if isinstance(value, str | dict) else value
        return [long_form(entry) for entry in entries] if isinstance(entries, list | tuple) else entries


def outside(settings: Settings) -> dict[str, Any]:
    """What the pages depend on besides the settings: content of the named files, and the Python that documents itself."""
    found: dict[str, Any] = {}
    for index, source in enumerate(settings.sources):
        if isinstance(source, PydocSource):
            found[f"{index}:pydoc"] = sys.version
        elif not isinstance(source, WorldSource):
            found[f"{index}:{source_name(source)}"] = file_digests(source)
    lists = ([str(DEFAULT)] if settings.block.default else []) + list(settings.block.lists)
    for index, path in enumerate(lists):
        found[f"block:{index}:{Path(path).name}"] = file_digests(FileSource(path=path))
    return found


@dataclass
class SourceCount:
    """What came out of one source."""

    licence: str
    pages: int = 0
    content_bytes: int = 0
    bad: int = 0
    first_bad: str = ""
    skipped: Counter[str] = field(default_factory=Counter)
    blocked: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "licence": self.licence,
            "pages": self.pages,
            "content_bytes": self.content_bytes,
            "bad_rows": self.bad,
            "skipped": dict(sorted(self.skipped.items())),
            "blocked": dict(sorted(self.blocked.items())),
        }


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Read every source into `shards/*.parquet`, `bad_rows.jsonl` and, where faults were planted, `truth.parquet`.

    Raises:
        InputError: a source is missing or gave not one page.
    """
    if not settings.sources:
        raise InputError("there is no source to read", where="sources", fix="sources: [pydoc, world]")
    block = read_block_lists(settings.block.lists, default=settings.block.default)
    shards = ShardWriter(ctx.out / "shards", settings.pages_per_shard)
    counts: dict[str, SourceCount] = {}
    truth: list[dict[str, Any]] = []
    with (ctx.out / "bad_rows.jsonl").open("w", encoding="utf-8") as bad_rows:
        for source in settings.sources:
            name = _unique(_source_name(source), counts)
            counts[name] = _collect(name, source, settings, ctx, shards, block, bad_rows, truth)
    shards.close()
    if truth:
        write_shard_table(ctx.out / "truth.parquet", truth, TRUTH_COLUMNS)
    for name, count in counts.items():
        ctx.add_source(name, count.licence, rows=count.pages)
    bad = sum(count.bad for count in counts.values())
    if bad:
        ctx.note(f"{bad} rows could not be read; they are listed in bad_rows.jsonl")
    blocked = sum(sum(count.blocked.values()) for count in counts.values())
    if blocked:
        ctx.note(f"{blocked} pages are on a block list; their rows are kept without content, with the reason")
    return {
        "pages": sum(count.pages for count in counts.values()),
        "blocked": blocked,
        "shards": shards.number,
        "bad_rows": bad,
        "sources": {name: count.summary() for name, count in counts.items()},
    }


class ShardWriter:
    """Gathers pages and writes a shard whenever enough are together.

    Args:
        directory: where `00000.parquet`, `00001.parquet`, ... go.
        pages_per_shard: pages in a full shard.
    """

    def __init__(self, directory: Path, pages_per_shard: int):
        self.directory, self.pages_per_shard = directory, pages_per_shard
        self.rows: list[dict[str, Any]] = []
        self.held_bytes = 0
        self.number = 0
        directory.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any]) -> None:
        """Add one page (a row of `PAGE_COLUMNS`)."""
        self.rows.append(row)
        self.held_bytes += len(row["content"])
        if len(self.rows) >= self.pages_per_shard or self.held_bytes >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Write what is held."""
        if self.rows:
            write_shard_table(self.directory / f"{self.number:05d}.parquet", self.rows, PAGE_COLUMNS)
            self.number += 1
        self.rows, self.held_bytes = [], 0


def _source_name(source: Source) -> str:
    if isinstance(source, PydocSource):
        return "pydoc"
    return "world" if isinstance(source, WorldSource) else source_name(source)


def _unique(name: str, taken: dict[str, SourceCount]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}-{number}", number + 1
    return candidate


def _collect(
    name: str,
    source: Source,
    settings: Settings,
    ctx: StageContext,
    shards: ShardWriter,
    block: BlockList,
    bad_rows: IO[str],
    truth: list[dict[str, Any]],
) -> SourceCount:
    """Read one source into the shards; `truth` takes what the world says of its pages."""
    count = SourceCount(_licence(source))
    one_file = isinstance(source, FileSource) and names_one_file(source)
    default_group = getattr(source, "group", "auto").replace("auto", "")
    for row, page_id in _rows(source, settings, ctx, truth):
        if isinstance(row, BadRow):
            count.bad += 1
            count.first_bad = count.first_bad or f"{row.file} {row.position}: {row.reason}"
            bad_rows.write(json.dumps({"source": name, "file": row.file, "position": row.position, "reason": row.reason}) + "\n")
            continue
        if isinstance(row, Skipped):
            count.skipped[row.reason] += 1
            continue
        url = _url(row.url, name, one_file)
        blocked = block.reason(url)
        if blocked:
            count.blocked[blocked.partition(": ")[0]] += 1
        shards.add(
            {
                "id": page_id or xxhash.xxh3_128_hexdigest(f"{name}|{row.url}|{count.pages}".encode("utf-8", "replace")),
                "url": url,
                "date": row.date,
                "source": name,
                "licence": count.licence,
                "group": default_group or row.group,
                "format": row.format,
                "charset": row.charset,
                "content": b"" if blocked else row.content,
                "blocked": blocked,
            }
        )
        count.pages += 1
        count.content_bytes += 0 if blocked else len(row.content)
        if count.pages % PROGRESS_EVERY == 0:
            ctx.progress(count.pages, source.world.pages if isinstance(source, WorldSource) else count.pages, source=name)
            ctx.checkpoint_or_stop(lambda: None)
    if not count.pages:
        skipped = ", ".join(f"{number} skipped: {reason}" for reason, number in sorted(count.skipped.items()))
        raise InputError(
            f"source '{name}' gave not one page",
            where=count.first_bad or skipped or name,
            fix="check the file, or set `format:` of the source",
        )
    return count


def _url(url: str, source: str, one_file: bool) -> str:
    """Addresses of local rows begin with their source, so that equal file names of two folders stay apart.

    A source of one file is called after it, and its rows begin with that name already.
    """
    local = url.removeprefix("file:")
    named = one_file and (local == source or local.startswith((f"{source}#", f"{source}/")))
    return url if local == url or named else f"file:{source}/{local}"


def _licence(source: Source) -> str:
    if isinstance(source, PydocSource):
        return PYDOC_LICENCE
    return WORLD_LICENCE if isinstance(source, WorldSource) else source.licence


def _rows(source: Source, settings: Settings, ctx: StageContext, truth: list[dict[str, Any]]) -> Iterator[tuple[Row, str]]:
    """Rows of a source, each with its own id where the source has one."""
    if isinstance(source, WorldSource):
        yield from _world_rows(source, ctx, truth)
    elif isinstance(source, PydocSource):
        yield from ((row, "") for row in read_pydoc(source.pydoc))
    else:
        yield from ((row, "") for row in read_files(source, settings.document_chars, settings.page_bytes))


def _world_rows(source: WorldSource, ctx: StageContext, truth: list[dict[str, Any]]) -> Iterator[tuple[Row, str]]:
    from puna.world.pages import generate

    # the run's own seed, not this stage's stream: test items elsewhere are disjoint from the pages of the same world
    seed = ctx.seed if source.world.seed is None else source.world.seed
    for page in generate(source.world.pages, seed):
        truth.append(
            {
                "id": page.id,
                "fault": page.fault or "",
                "detail": json.dumps(page.detail, sort_keys=True, ensure_ascii=False),
                "lang": page.lang,
            }
        )
        yield PageRow(page.url, page.html.encode("utf-8", "replace"), "html", "utf-8", page.date, page.group), page.id
