"""Crawl archives: WARC and WET by FastWARC, plain or compressed with gzip, lz4 or zstd (ARC: `puna.data.arc_files`).

Responses and resources of HTML or plain text with status 200 are pages, and so are the `conversion` records of WET files;
other sound records are counted as skipped. Where an archive is broken the reader notes the offset, looks for the next record
and goes on, because one bad record in a crawl file of a gigabyte is normal (issues of the known pipelines: a corrupt gzip
tail killed the whole task).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import IO, Any

from puna.data.open_file import MARKS, Place, compression, open_raw
from puna.data.rows import BadRow, PageRow, Skipped

HTML_TYPES = ("text/html", "application/xhtml+xml")
MAX_BREAKS = 1000  # an archive broken more often than this is not an archive
BREAKS = ("broken record", "no record", "broken header")  # reasons that tell of a place and not of a record
SCAN = 1 << 20  # bytes looked at a time when searching for the next record

Row = PageRow | BadRow | Skipped
Search = Callable[[IO[bytes], int], int | None]
# reads records from an offset; returns the offset of the last sound place where it broke off, or None at the end
Stretch = Callable[[IO[bytes], int], Generator[Row, None, int | None]]


def read_warc(place: Place, name: str, max_bytes: int) -> Iterator[Row]:
    """Pages of a WARC or WET file; `max_bytes` bounds one page (a larger one is a bad row)."""
    try:
        mark = MARKS.get(compression(place), b"WARC/")
    except OSError as error:
        yield BadRow(name, "start", f"cannot be read: {error}")
        return
    read = partial(_warc_stretch, name=name, max_bytes=max_bytes)
    yield from stretches(place, name, lambda file, start: find(file, mark, start), read)


def stretches(place: Place, name: str, search: Search, read: Stretch) -> Iterator[Row]:
    """All rows of an archive: after every break `search` finds where a record may begin, and reading goes on there.

    A place found so may be no record (its mark occurs by chance inside a broken one), so that further breaks before the next
    sound record are not reported.
    """
    start = 0
    for attempt in range(MAX_BREAKS):
        with open_raw(place) as file:
            file.seek(start)
            reached = yield from _reported(read(file, start), silent=attempt > 0)
            following = None if reached is None else search(file, reached + 1)
        if following is None:
            return
        start = following
    yield BadRow(name, f"offset {start}", f"more than {MAX_BREAKS} broken places, the rest was not read")


def _reported(rows: Generator[Row, None, int | None], *, silent: bool) -> Generator[Row, None, int | None]:
    """The rows; where `silent`, without the breaks that come before the first record."""
    while True:
        try:
            row = next(rows)
        except StopIteration as end:
            return end.value
        silent = silent and isinstance(row, BadRow) and row.reason.startswith(BREAKS)
        if not silent:
            yield row


def _warc_stretch(file: IO[bytes], start: int, name: str, max_bytes: int) -> Generator[Row, None, int | None]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    position, cut, some = start, None, False
    try:
        records = ArchiveIterator(file, parse_http=True, record_types=WarcRecordType.any_type, auto_decode="all")
        for record in records:
            some = True
            position = record.stream_pos
            expected = record.content_length
            body = record.reader.read(max_bytes + 1)
            cut = _cut_short(record, expected, len(body), max_bytes)
            yield _warc_row(record, body, name, position, max_bytes) if not cut else BadRow(name, f"offset {position}", cut)
    except (OSError, ValueError, EOFError) as error:
        if not (cut and position > start):  # the cut itself was reported already
            behind = " behind this one" if some else ""
            yield BadRow(name, f"offset {position}", f"broken record{behind}: {error}")
        return position
    if not some:
        yield BadRow(name, f"offset {start}", "no record of a WARC file")
        return start
    return None


def _cut_short(record: Any, expected: int, got: int, max_bytes: int) -> str | None:
    """The reason why a record's body is not whole, judged where its length on the wire is known."""
    headers = record.http_headers
    coded = headers is not None and ("Transfer-Encoding" in headers or "Content-Encoding" in headers)
    if not coded and got < min(expected, max_bytes):
        return f"record cut short: {got} of {expected} bytes"
    return None


def _warc_row(record: Any, body: bytes, name: str, position: int, max_bytes: int) -> Row:
    from fastwarc.warc import WarcRecordType

    kind = record.record_type
    url = record.headers.get("WARC-Target-URI") or f"file:{name}#{position}"
    date = record.headers.get("WARC-Date") or ""
    if kind == WarcRecordType.conversion:
        return page_row(url, date, record.headers.get("Content-Type") or "", "utf-8", body, name, position, max_bytes)
    if kind == WarcRecordType.resource:
        declared = record.headers.get("Content-Type") or ""
        return page_row(url, date, declared, charset_of(declared), body, name, position, max_bytes)
    if kind != WarcRecordType.response:
        return Skipped("not a response record")
    if record.http_headers is None or record.http_headers.status_code != 200:
        return Skipped("HTTP status other than 200")
    content_type = record.http_content_type or "text/html"  # ClueWeb leaves the type out for HTML
    return page_row(url, date, content_type, record.http_charset or "", body, name, position, max_bytes)


def page_row(
    url: str, date: str, content_type: str, charset: str, body: bytes, name: str, position: int, max_bytes: int
) -> PageRow | BadRow | Skipped:
    """The row of a fetched body: a page, or why it is none.

    Args:
        content_type: of the transport, with or without parameters.
        position: offset of the record in the file `name`.
        max_bytes: a larger body is a bad row.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in HTML_TYPES and kind != "text/plain":
        return Skipped("neither HTML nor text")
    if len(body) > max_bytes:
        return BadRow(name, f"offset {position}", f"page larger than {max_bytes} bytes")
    if not body.strip():
        return Skipped("empty body")
    return PageRow(url.strip("<> "), body, "html" if kind in HTML_TYPES else "text", charset, date)


def charset_of(content_type: str) -> str:
    """The charset parameter of a content type; empty when there is none."""
    return content_type.lower().partition("charset=")[2].partition(";")[0].strip("\"' ")


def find(file: IO[bytes], mark: bytes, start: int) -> int | None:
    """Offset of the next `mark` at or after `start`."""
    file.seek(start)
    offset, tail = start, b""
    while block := file.read(SCAN):
        found = (tail + block).find(mark)
        if found >= 0:
            return offset - len(tail) + found
        offset += len(block)
        tail = block[-len(mark) :]
    return None
