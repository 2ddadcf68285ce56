"""Opening a file whatever compression it has, judged by its suffix: gzip, zstd, bzip2, xz, lz4 or none."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import IO

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
            import zstandard

            return zstandard.open(path, "rb", dctx=zstandard.ZstdDecompressor())  # type: ignore[return-value]
        case ".lz4":
            return _open_lz4(path)
    return path.open("rb")


def _open_lz4(path: Path) -> IO[bytes]:
    import io

    from fastwarc.stream_io import Lz4Reader

    with path.open("rb") as file:
        return io.BytesIO(Lz4Reader(file).read())


def inner_suffix(path: Path) -> str:
    """The suffix that says what the content is: `.jsonl` for `train.jsonl.gz`."""
    name = path.with_suffix("") if path.suffix in COMPRESSED else path
    return name.suffix.lower()
