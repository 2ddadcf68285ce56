"""Opening a file wherever it lies and whatever compression it has: local paths, and any URL that fsspec opens (`s3://`,
`https://`, `memory://`, ...).

The compression is judged by the first bytes, because crawl files are often misnamed; where these are unknown the suffix decides,
so that a file damaged at its beginning is reported as broken and not read as text. Nothing here opens a network connection unless
the user named a URL.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from puna.core.errors import InputError

Place = Path | str  # a local path, or the URL of a file
# what a broken or cut compressed stream raises while it is read
STREAM_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
BUFFER_BYTES = 1 << 18
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".lz4")
MARKS = {
    ".gz": b"\x1f\x8b\x08",
    ".zst": b"\x28\xb5\x2f\xfd",
    ".lz4": b"\x04\x22\x4d\x18",
    ".bz2": b"BZh",
    ".xz": b"\xfd7zXZ\x00",
}
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp", "abfs": "adlfs", "az": "adlfs"}


def is_url(place: Place) -> bool:
    """Whether a place is a URL and no local path."""
    return isinstance(place, str) and "://" in place


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        InputError: no file system of that kind is installed, or it does not take this address.
    """
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        package = PACKAGES.get(url.partition("://")[0])
        fix = f"pip install {package}" if package else "check the part before ://"
        raise InputError(f"this address cannot be opened: {error}", where=url, fix=fix) from error


def open_raw(place: Place) -> IO[bytes]:
    """A seekable binary stream of the file as it is, compressed or not."""
    if is_url(place):
        system, path = file_system(str(place))
        return cast(IO[bytes], system.open(path, "rb"))
    return Path(place).open("rb")


def compression(place: Place) -> str:
    """The suffix of the file's compression (".gz", ...), by its first bytes or else by its name; empty for none."""
    with open_raw(place) as file:
        opening = file.read(6)
    for suffix, mark in MARKS.items():
        if opening.startswith(mark):
            return suffix
    suffix = suffix_of(place)
    return suffix if suffix in COMPRESSED and opening else ""


def open_bytes(place: Place) -> IO[bytes]:
    """A binary stream of the decompressed content, from the first byte."""
    kind = compression(place)
    if not kind:
        return open_raw(place)
    under: Any = open_raw(place) if is_url(place) or kind in (".zst", ".lz4") else place
    match kind:
        case ".gz":
            return cast(IO[bytes], gzip.open(under, "rb"))
        case ".bz2":
            return cast(IO[bytes], bz2.open(under, "rb"))
        case ".xz":
            return cast(IO[bytes], lzma.open(under, "rb"))
    from fastwarc.stream_io import Lz4Reader, ZstdReader

    reader = _Decompressed(ZstdReader(under) if kind == ".zst" else Lz4Reader(under), under)
    return cast(IO[bytes], io.BufferedReader(reader, BUFFER_BYTES))


class _Decompressed(io.RawIOBase):
    """A FastWARC reader as a raw stream of Python's own; python-zstandard ends in silence where a frame is cut short."""

    def __init__(self, reader: Any, under: IO[bytes]):
        self._reader, self._under = reader, under

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
            self._under.close()
        super().close()


def suffix_of(place: Place) -> str:
    """The last suffix of a file's name, in lower case; the query of a URL is no part of it."""
    name = str(place).partition("?")[0] if is_url(place) else str(place)
    return PurePosixPath(name).suffix.lower()


def inner_suffix(place: Place) -> str:
    """The suffix that says what the content is: `.jsonl` for `train.jsonl.gz`."""
    name = PurePosixPath(str(place).partition("?")[0] if is_url(place) else str(place))
    return (name.with_suffix("") if name.suffix.lower() in COMPRESSED else name).suffix.lower()
