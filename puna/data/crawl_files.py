"""Crawl archives: WARC and WET by FastWARC, ARC by a small reader of our own, plain or compressed with gzip, lz4 or zstd.

Responses and resources of HTML or plain text with status 200 are pages, and so are the `conversion` records of WET files;
other sound records are counted as skipped. Where an archive is broken the reader notes the offset, looks for the next record
and goes on, because one bad record in a crawl file of a gigabyte is normal (issues of the known pipelines: a corrupt gzip
tail killed the whole task).
"""

from __future__ import annotations

import gzip
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

from puna.data.open_file import STREAM_ERRORS, open_bytes
from puna.data.rows import BadRow, PageRow, Skipped

HTML_TYPES = ("text/html", "application/xhtml+xml")
MARKS = {".gz": b"\x1f\x8b\x08", ".zst": b"\x28\xb5\x2f\xfd", ".lz4": b"\x04\x22\x4d\x18"}  # first bytes of a compressed member
MAX_BREAKS = 1000  # an archive broken more often than this is not an archive
SCAN = 1 << 20  # bytes looked at a time when searching for the next record


def read_warc(path: Path, name: str, max_bytes: int) -> Iterator[PageRow | BadRow | Skipped]:
    """Pages of a WARC or WET file; `max_bytes` bounds one page (a larger one is a bad row)."""
    mark = MARKS.get(path.suffix, b"WARC/")
    start = 0
    for _ in range(MAX_BREAKS):
        with path.open("rb") as file:
            file.seek(start)
            reached = yield from _warc_run(file, start, name, max_bytes)
            if reached is None:
                return
            following = _find(file, mark, reached + 1)
        if following is None:
            return
        start = following
    yield BadRow(name, f"offset {start}", f"more than {MAX_BREAKS} broken places, the rest was not read")


def _warc_run(file: IO[bytes], start: int, name: str, max_bytes: int) -> Generator[PageRow | BadRow | Skipped, None, int | None]:
    """Read records from `start` until the end (returns None) or a break (returns the offset of the last sound place)."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    position, cut = start, None
    try:
        records = ArchiveIterator(file, parse_http=True, record_types=WarcRecordType.any_type, auto_decode="all")
        for record in records:
            position = start + record.stream_pos
            expected = record.content_length
            body = record.reader.read(max_bytes + 1)
            cut = _cut_short(record, expected, len(body), max_bytes)
            yield _warc_row(record, body, name, position, max_bytes) if not cut else BadRow(name, f"offset {position}", cut)
    except (OSError, ValueError, EOFError) as error:
        if not (cut and position > start):  # the cut itself was reported already
            yield BadRow(name, f"offset {position}", f"broken record: {error}")
        return position
    return None


def _cut_short(record: Any, expected: int, got: int, max_bytes: int) -> str | None:
    """The reason why a record's body is not whole, judged where its length on the wire is known."""
    headers = record.http_headers
    coded = headers is not None and ("Transfer-Encoding" in headers or "Content-Encoding" in headers)
    if not coded and got < min(expected, max_bytes):
        return f"record cut short: {got} of {expected} bytes"
    return None


def _warc_row(record: Any, body: bytes, name: str, position: int, max_bytes: int) -> PageRow | BadRow | Skipped:
    from fastwarc.warc import WarcRecordType

    kind = record.record_type
    url = record.headers.get("WARC-Target-URI") or f"file:{name}#{position}"
    date = record.headers.get("WARC-Date") or ""
    if kind == WarcRecordType.conversion:
        return _page(url, date, record.headers.get("Content-Type") or "", "utf-8", body, name, position, max_bytes)
    if kind == WarcRecordType.resource:
        declared = record.headers.get("Content-Type") or ""
        return _page(url, date, declared, _charset(declared), body, name, position, max_bytes)
    if kind != WarcRecordType.response:
        return Skipped("not a response record")
    if record.http_headers is None or record.http_headers.status_code != 200:
        return Skipped("HTTP status other than 200")
    content_type = record.http_content_type or "text/html"  # ClueWeb leaves the type out for HTML
    return _page(url, date, content_type, record.http_charset or "", body, name, position, max_bytes)


def _page(
    url: str, date: str, content_type: str, charset: str, body: bytes, name: str, position: int, max_bytes: int
) -> PageRow | BadRow | Skipped:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in HTML_TYPES and kind != "text/plain":
        return Skipped("neither HTML nor text")
    if len(body) > max_bytes:
        return BadRow(name, f"offset {position}", f"page larger than {max_bytes} bytes")
    if not body.strip():
        return Skipped("empty body")
    return PageRow(url.strip("<> "), body, "html" if kind in HTML_TYPES else "text", charset, date)


def _charset(content_type: str) -> str:
    return content_type.partition("charset=")[2].strip("\"' ;")


def _find(file: IO[bytes], mark: bytes, start: int) -> int | None:
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


def read_arc(path: Path, name: str, max_bytes: int) -> Iterator[PageRow | BadRow | Skipped]:
    """Pages of an ARC file (version 1 or 2 of the Internet Archive's format, one header line per record)."""
    position = 0
    with open_bytes(path) as file:
        try:
            while line := file.readline(1 << 16):
                if not line.strip():
                    position += len(line)
                    continue
                fields = line.decode("utf-8", "replace").split(" ")
                if len(fields) < 5 or not fields[-1].strip().isdigit():
                    yield BadRow(name, f"offset {position}", "broken ARC header line")
                    return
                length = int(fields[-1])
                body = file.read(length)
                yield from _arc_row(fields, body, length, name, position, max_bytes)
                position += len(line) + len(body)
        except STREAM_ERRORS as error:
            yield BadRow(name, f"offset {position}", f"broken record: {error}")


def _arc_row(
    fields: list[str], body: bytes, length: int, name: str, position: int, max_bytes: int
) -> Iterator[PageRow | BadRow | Skipped]:
    # the address may hold spaces, so the fixed fields are counted from the right: 5 in version 1, 10 in version 2
    fixed = 9 if len(fields) >= 10 else 4
    url, date = " ".join(fields[:-fixed]), _arc_date(fields[-fixed + 1])
    if len(body) < length:
        yield BadRow(name, f"offset {position}", f"record cut short: {len(body)} of {length} bytes")
        return
    if url.startswith("filedesc:"):
        return
    blank = b"\r\n\r\n" if b"\r\n\r\n" in body[: 1 << 14] else b"\n\n"
    head, _, payload = body.partition(blank)
    if not head.startswith(b"HTTP/"):
        yield Skipped("not an HTTP response")
        return
    headers = _http_headers(head)
    status = headers[""].split(" ")
    if len(status) < 2 or status[1] != "200":
        yield Skipped("HTTP status other than 200")
        return
    kind = headers.get("content-type", "text/html")
    try:
        payload = _decode_body(payload, headers)
    except (*STREAM_ERRORS, ValueError) as error:
        yield BadRow(name, f"offset {position}", f"broken body: {error}")
        return
    yield _page(url, date, kind, _charset(kind), payload, name, position, max_bytes)


def _arc_date(stamp: str) -> str:
    """20140216012908 -> 2014-02-16T01:29:08Z; anything else gives an empty date."""
    if len(stamp) != 14 or not stamp.isdigit():
        return ""
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[8:10]}:{stamp[10:12]}:{stamp[12:]}Z"


def _http_headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\n")
    pairs = (line.partition(":") for line in lines[1:])
    return {"": lines[0].strip()} | {key.strip().lower(): value.strip() for key, _, value in pairs}


def _decode_body(payload: bytes, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        payload = _dechunk(payload)
    if headers.get("content-encoding", "").lower() in ("gzip", "x-gzip"):
        payload = gzip.decompress(payload)
    return payload


def _dechunk(payload: bytes) -> bytes:
    parts: list[bytes] = []
    position = 0
    while True:
        end = payload.index(b"\n", position)
        size = int(payload[position:end].split(b";")[0].strip() or b"0", 16)
        if size == 0:
            return b"".join(parts)
        parts.append(payload[end + 1 : end + 1 + size])
        position = payload.index(b"\n", end + 1 + size) + 1
