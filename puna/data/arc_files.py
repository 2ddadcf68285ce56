"""ARC files of the Internet Archive (versions 1 and 2), plain or compressed with gzip, lz4 or zstd.

A record is a line (address, IP, date, type, length) and the response as it came over the wire. FastWARC reads no ARC, so
this reader is our own; it finds the next record after a broken one by the next compressed member, or by the next line that
looks like the head of a record.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import IO, Any

from puna.data.crawl_files import Row, charset_of, find, page_row, stretches
from puna.data.open_file import MARKS, STREAM_ERRORS, Place, compression
from puna.data.rows import BadRow, Skipped

READERS = {".gz": "GzipReader", ".zst": "ZstdReader", ".lz4": "Lz4Reader"}  # of FastWARC
LINE_BYTES = 1 << 16  # a longer first line is no head of a record
HEAD_BYTES = 1 << 14  # HTTP headers end within these
READ_BYTES = 1 << 16
# the head of a record: 5 fields in version 1, 10 in version 2
HEAD = re.compile(
    rb"[a-z][a-z+.-]{1,20}:[^\r\n]{1,4000} [0-9a-fA-F.:]{3,45} \d{12,14} \S{1,200} (?:[^\r\n]{1,400} )?(\d{1,12})\r?\n"
)


def read_arc(place: Place, name: str, max_bytes: int) -> Iterator[Row]:
    """Pages of an ARC file; `max_bytes` bounds one page (a larger one is a bad row)."""
    try:
        kind = compression(place)
    except OSError as error:
        yield BadRow(name, "start", f"cannot be read: {error}")
        return
    if kind in READERS:
        mark, packed = MARKS[kind], partial(_packed, kind=kind, name=name, max_bytes=max_bytes)
        yield from stretches(place, name, lambda file, start: find(file, mark, start), packed)
    else:
        yield from stretches(place, name, _find_head, lambda file, start: _records(file, file.tell, name, max_bytes))


def _find_head(file: IO[bytes], start: int) -> int | None:
    """Offset of the next line that looks like the head of a record."""
    file.seek(start)
    position = start + len(file.readline())  # the rest of the line that was tried
    while line := file.readline(LINE_BYTES):
        if HEAD.fullmatch(line):
            return position
        position += len(line)
    return None


def _packed(file: IO[bytes], start: int, *, kind: str, name: str, max_bytes: int) -> Generator[Row, None, int | None]:
    from fastwarc import stream_io

    def again() -> Any:
        file.seek(start)
        return getattr(stream_io, READERS[kind])(file)

    members = _Members(again)
    reached = yield from _records(members, lambda: members.frame(start), name, max_bytes)
    if members.error is None:
        return reached
    yield BadRow(name, f"offset {members.frame(start)}", f"broken record: {members.error}")
    return members.frame(start)


class _Members:
    """Lines and blocks of decompressed members; what precedes a broken one is served before the break shows."""

    def __init__(self, again: Callable[[], Any]):
        self._again, self._reader = again, again()
        self._held = bytearray()
        self._pulled, self._step = 0, READ_BYTES
        self.error: Exception | None = None

    def frame(self, default: int) -> int:
        """Offset in the file of the member that is being read."""
        return self._reader.frame_start_position() or default

    def _pull(self) -> bool:
        if self.error is not None:
            return False
        try:
            data = self._reader.read(self._step)
        except (*STREAM_ERRORS, ValueError) as error:
            if self._step == 1:
                self.error = error
                return False
            return self._closer()
        self._held += data
        self._pulled += len(data)
        return bool(data)

    def _closer(self) -> bool:
        """Go back to where the failing read began and read byte by byte, because a read that fails gives nothing at all."""
        self._reader, self._step = self._again(), 1
        left = self._pulled
        while left and (data := self._reader.read(min(left, READ_BYTES))):
            left -= len(data)
        return self._pull()

    def readline(self, limit: int) -> bytes:
        scanned = 0
        while (end := self._held.find(b"\n", scanned)) < 0 and len(self._held) < limit:
            scanned = len(self._held)
            if not self._pull():
                break
        return self._take(end + 1 if end >= 0 else limit)

    def read(self, size: int) -> bytes:
        while len(self._held) < size and self._pull():
            pass
        return self._take(size)

    def _take(self, size: int) -> bytes:
        data = bytes(self._held[:size])
        del self._held[:size]
        return data


def _records(stream: Any, place: Any, name: str, max_bytes: int) -> Generator[Row, None, int | None]:
    """Records until the end (None) or to one that is broken (its offset)."""
    while True:
        position = place()
        line = stream.readline(LINE_BYTES)
        if not line:
            return None
        if not line.strip():
            continue
        head = HEAD.fullmatch(line if line.endswith(b"\n") else line + b"\n")
        if not head:
            if getattr(stream, "error", None) is None:
                yield BadRow(name, f"offset {position}", "broken header of an ARC record")
            return position
        length = int(head[1])
        body = stream.read(min(length, max_bytes + HEAD_BYTES))
        if getattr(stream, "error", None) is not None and len(body) < length:
            return position
        yield from _arc_row(line.decode("utf-8", "replace").split(" "), body, length, name, position, max_bytes)
        for left in range(length - len(body), 0, -READ_BYTES):
            if not stream.read(min(left, READ_BYTES)):
                return position


def _arc_row(fields: list[str], body: bytes, length: int, name: str, position: int, max_bytes: int) -> Iterator[Row]:
    # the address may hold spaces, so the fixed fields are counted from the right: 5 in version 1, 10 in version 2
    fixed = 9 if len(fields) >= 10 else 4
    url, date = " ".join(fields[:-fixed]), _date(fields[-fixed + 1])
    if len(body) < min(length, max_bytes):
        yield BadRow(name, f"offset {position}", f"record cut short: {len(body)} of {length} bytes")
        return
    if url.startswith("filedesc:"):
        return
    blank = b"\r\n\r\n" if b"\r\n\r\n" in body[:HEAD_BYTES] else b"\n\n"
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
        payload = _decode_body(payload, headers, max_bytes)
    except (*STREAM_ERRORS, ValueError) as error:
        yield BadRow(name, f"offset {position}", f"broken body: {error}")
        return
    yield page_row(url, date, kind, charset_of(kind), payload, name, position, max_bytes)


def _date(stamp: str) -> str:
    """20140216012908 -> 2014-02-16T01:29:08Z; anything else gives an empty date."""
    if len(stamp) != 14 or not stamp.isdigit():
        return ""
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[8:10]}:{stamp[10:12]}:{stamp[12:]}Z"


def _http_headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\n")
    pairs = (line.partition(":") for line in lines[1:])
    return {"": lines[0].strip()} | {key.strip().lower(): value.strip() for key, _, value in pairs}


def _decode_body(payload: bytes, headers: dict[str, str], max_bytes: int) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        payload = _dechunk(payload)
    coding = headers.get("content-encoding", "").lower()
    if coding in ("gzip", "x-gzip"):
        with gzip.GzipFile(fileobj=io.BytesIO(payload)) as file:
            payload = file.read(max_bytes + 1)
    elif coding == "deflate":
        payload = zlib.decompressobj(-zlib.MAX_WBITS if payload[:1] != b"\x78" else zlib.MAX_WBITS).decompress(
            payload, max_bytes + 1
        )
    return payload


def _dechunk(payload: bytes) -> bytes:
    parts: list[bytes] = []
    position = 0
    while True:
        end = payload.index(b"\n", position)
        size = int(payload[position:end].split(b";")[0].strip() or b"0", 16)
        if size <= 0:
            return b"".join(parts)
        parts.append(payload[end + 1 : end + 1 + size])
        position = payload.index(b"\n", end + 1 + size) + 1
