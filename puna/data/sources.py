"""Sources: what a user may name under `sources`, and how each becomes a stream of pages and bad rows.

A source is a word (`pydoc`, `world`), a path or URL, or a map with options. Paths may be files, folders or globs; the format goes
by the suffix. Nothing here judges a page.
"""

from __future__ import annotations

import codecs
import glob
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any, Literal

import xxhash
from pydantic import Discriminator, PositiveInt, Tag

from puna.core.errors import InputError
from puna.core.settings import Settings
from puna.data.arc_files import read_arc
from puna.data.crawl_files import read_warc
from puna.data.local_files import CODE_SUFFIXES, read_code, read_html, read_jsonl, read_parquet, read_text, read_xml, unzip
from puna.data.open_file import STREAM_ERRORS, Place, file_system, inner_suffix, is_url, open_bytes
from puna.data.pydoc_pages import PydocSettings
from puna.data.rows import BadRow, PageRow, Skipped

FORMATS = {
    ".warc": "warc",
    ".wet": "warc",
    ".wat": "warc",
    ".arc": "arc",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".xml": "xml",
    ".zip": "zip",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".rst": "text",
    ".de": "text",
    ".en": "text",
    "": "text",
}

SNIFFED = 8192  # bytes that tell whether a file is text

Row = PageRow | BadRow | Skipped
Format = Literal["auto", "warc", "arc", "html", "jsonl", "parquet", "xml", "zip", "text", "code"]


class WorldSettings(Settings):
    """The generated mini-world: number of pages and, for tests, another seed than the run's."""

    pages: PositiveInt = 3000
    seed: int | None = None


class PydocSource(Settings):
    """`pydoc`, or `pydoc: {modules: [...], page_bytes: N}`."""

    pydoc: PydocSettings = PydocSettings()


class WorldSource(Settings):
    """`world`, or `world: {pages: N}`."""

    world: WorldSettings = WorldSettings()


class FileSource(Settings):
    """Files of the user's own.

    Attributes:
        path: a file, a folder (read to any depth) or a glob; a local path, or a URL that fsspec opens (`s3://`, `https://`, ...).
        licence: SPDX identifier of the content; it travels with every row.
        group: part of the data mix the rows belong to; "auto" lets curation decide by document.
        format: of the files; "auto" goes by the suffix.
        name: what the source is called in reports; by default the last part of the path, of a glob the folder it begins in.
    """

    path: str
    licence: str = "unknown"
    group: Literal["auto", "general", "maths", "code", "multilingual"] = "auto"
    format: Format = "auto"
    name: str = ""


def _source_kind(value: Any) -> str:
    if isinstance(value, dict):
        return next((kind for kind in ("pydoc", "world") if kind in value), "path")
    if isinstance(value, PydocSource):
        return "pydoc"
    return "world" if isinstance(value, WorldSource) else "path"


Source = Annotated[
    Annotated[PydocSource, Tag("pydoc")] | Annotated[WorldSource, Tag("world")] | Annotated[FileSource, Tag("path")],
    Discriminator(_source_kind),
]


def long_form(entry: Any) -> Any:
    """The map that a source's short form (a word or a path) stands for; anything else is left to validation."""
    if entry in ("pydoc", "world"):
        return {entry: {}}
    if isinstance(entry, str):
        return {"path": entry}
    if isinstance(entry, dict):
        return {key: {} if value is None and key in ("pydoc", "world") else value for key, value in entry.items()}
    return entry


def source_name(source: FileSource) -> str:
    """What a file source is called: its `name`, or the last part of its path (never the folders above it).

    A glob is called after the folder it begins in, or after its last part where that has no name.
    """
    path = source.path.rstrip("/")
    fixed = PurePosixPath(fixed_part(path)).name if glob.has_magic(path) else ""
    return source.name or fixed or PurePosixPath(path).name or "files"


def fixed_part(pattern: str) -> str:
    """The folders of a glob before the first that has a sign of a pattern; "." where there is none."""
    parts = PurePosixPath(pattern).parts
    return str(PurePosixPath(*itertools.takewhile(lambda part: not glob.has_magic(part), parts)))


def names_one_file(source: FileSource) -> bool:
    """Whether the path of a source is a file and no folder or glob."""
    return not is_url(source.path) and Path(source.path).expanduser().is_file()


def read_files(source: FileSource, document_chars: int, page_bytes: int) -> Iterator[Row]:
    """Every row of the files that a source names, in the order of their names.

    Raises:
        InputError: nothing is there.
    """
    for place, name in _files(source.path):
        try:
            yield from _read_file(place, name, source.format, document_chars, page_bytes)
        except STREAM_ERRORS as error:
            yield BadRow(name, "start", f"cannot be read: {error}")


def _files(pattern: str) -> list[tuple[Place, str]]:
    """The files behind a path, folder or glob, each with its name in reports.

    Names are relative to the folder, or to the one that a glob begins in, so that no two files of a source share one.
    """
    named = _remote_files(pattern) if is_url(pattern) else _local_files(pattern)
    if not named:
        raise InputError("no file is there", where=pattern, fix="check the path under `sources` (relative to where you run puna)")
    return named


def _local_files(pattern: str) -> list[tuple[Place, str]]:
    root = Path(pattern).expanduser()
    if root.is_file():
        return [(root, root.name)]
    if root.is_dir():
        return [(path, path.relative_to(root).as_posix()) for path in _below(root)]
    start = Path(fixed_part(str(root)))
    files: list[Path] = []
    for found in sorted(Path(name) for name in glob.glob(str(root), recursive=True)):  # noqa: PTH207 (absolute patterns)
        if found.is_file():
            files.append(found)
        elif "**" not in str(root):  # which names what is below the folders too
            files += _below(found)
    return [(path, path.relative_to(start).as_posix()) for path in files]


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))


def _remote_files(url: str) -> list[tuple[Place, str]]:
    """Files behind a URL; the names are relative to the folder, or to the part of the pattern before its first sign."""
    system, path = file_system(url)
    try:
        if glob.has_magic(path) and not url.startswith(("http://", "https://")):
            found, root = [name for name in system.glob(path) if system.isfile(name)], fixed_part(path)
        elif url.startswith(("http://", "https://")) or system.isfile(path):
            found, root = [path], ""
        else:
            found, root = system.find(path), path
    except OSError as error:
        raise InputError(f"this address cannot be read: {error}", where=url, fix="check the address") from error
    named = [(name, name.removeprefix(root).lstrip("/") if root else PurePosixPath(name).name) for name in sorted(found)]
    return [(system.unstrip_protocol(name), short) for name, short in named if not _hidden(PurePosixPath(short))]


def file_digests(source: FileSource) -> dict[str, str]:
    """What tells whether a source changed, by the files' names in reports; InputError when there is none.

    xxh3-128 of the content of local files; of remote ones the key their file system gives (size and time or tag), so that nothing
    is fetched twice.
    """
    return {name: _digest(place) for place, name in _files(source.path)}


def _digest(place: Place) -> str:
    hashed = xxhash.xxh3_128()
    if is_url(place):
        system, path = file_system(str(place))
        hashed.update(str(system.ukey(path)).encode())
        return hashed.hexdigest()
    with Path(place).open("rb") as file:
        while block := file.read(1 << 22):
            hashed.update(block)
    return hashed.hexdigest()


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_binary(place: Place) -> bool:
    """Whether a file of unknown suffix holds no UTF-8 text, judged by its beginning."""
    with open_bytes(place) as file:
        opening = file.read(SNIFFED)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(opening)
    except UnicodeDecodeError:
        return True
    return b"\0" in opening


def _read_file(path: Place, name: str, format_: Format, document_chars: int, page_bytes: int) -> Iterator[Row]:
    suffix = inner_suffix(path)
    kind = format_ if format_ != "auto" else FORMATS.get(suffix, "code" if suffix in CODE_SUFFIXES else "unknown")
    match kind:
        case "warc":
            yield from read_warc(path, name, page_bytes)
        case "arc":
            yield from read_arc(path, name, page_bytes)
        case "html":
            yield from read_html(path, name, page_bytes)
        case "jsonl":
            yield from read_jsonl(path, name, page_bytes)
        case "parquet":
            yield from read_parquet(path, name, page_bytes)
        case "xml":
            yield from read_xml(path, name, document_chars)
        case "text":
            yield from read_text(path, name, document_chars)
        case "code":
            yield from read_code(path, name, page_bytes)
        case "zip":
            with tempfile.TemporaryDirectory() as directory:
                for member in unzip(path, name, Path(directory)):
                    if isinstance(member, BadRow):
                        yield member
                    elif FORMATS.get(inner_suffix(member[0])) == "zip":
                        yield BadRow(member[1], "start", "an archive inside an archive is not opened")
                    else:
                        yield from _read_file(*member, "auto", document_chars, page_bytes)
        case _ if _is_binary(path):
            yield Skipped("not text")
        case _:
            yield from read_text(path, name, document_chars)
