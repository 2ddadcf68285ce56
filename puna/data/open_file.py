"""Opening a file whatever compression it has, judged by its suffix: gzip, zstd, bzip2, xz, lz4 or none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any

STREAM_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what a broken or cut compressed stream raises while it is read
BUFFER_BYTES = 1 << 18
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".lz4")


def open_bytes(path: Path) -> IO[bytes]:
    """A binary stream of the decompressed content, from the first byte."""
    match path.suffix:
        case ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        case ".bz2":
            return bz2.open(path, "rb")  # type: ignore[return-value]
        case ".xz":
            return lzma.open(path, "rb")
        case ".zst":
            from fastwarc.stream_io import ZstdReader

            return _stream(ZstdReader, path)
        case ".lz4":
            from fastwarc.stream_io import Lz4Reader

            return _stream(Lz4Reader, path)
    return path.open("rb")


def _stream(reader: Any, path: Path) -> IO[bytes]:
    # python-zstandard ends in silence where a frame is cut short; these readers raise OSError
    return io.BufferedReader(_Decompressed(reader(path.open("rb"))), BUFFER_BYTES)  # type: ignore[return-value]


class _Decompressed(io.RawIOBase):
    """A FastWARC reader as a raw stream of Python's own."""

    def __init__(self, reader: Any):
        self._reader = reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()


def inner_suffix(path: Path) -> str:
    """The suffix that says what the content is: `.jsonl` for `train.jsonl.gz`."""
    name = path.with_suffix("") if path.suffix in COMPRESSED else path
    return name.suffix.lower()
