"""One safetensors file, tensor by tensor: its header checked before anything of it is believed, rows read and written in place.

The library maps whole files; here a block of rows is read into memory of its own and given back, so that a model of any size
passes through a few megabytes. What is written has the layout of `safetensors.save_file`, to the byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.core.errors import InputError

COPY_AGAIN = "the file is incomplete or damaged: copy or write it again"
DTYPES = {
    "F8_E4M3": torch.float8_e4m3fn, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip
WRITTEN = ("F8_E4M3", "F16", "BF16", "F32")  # what a Llama is stored in; the library lays the last of these first
LARGEST_HEADER = 100_000_000  # bytes, the library's own limit
BLOCK_BYTES = 2 << 20  # read at once: small enough to be worked on in the cache
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: bytes from `start` of the file on."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, the unit of reading: all dimensions but the first."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def meta(self) -> Tensor:
        """A tensor of this shape and type without memory."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    def rows(self, first: int, last: int) -> Tensor:
        """Rows [first, last) in memory of their own; InputError when the file ends before."""
        data = torch.empty((last - first) * self.row_bytes, dtype=torch.uint8)
        buffer, done = data.numpy().data, 0
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + first * self.row_bytes)
            while done < len(buffer):
                got = file.readinto(buffer[done:])
                if not got:
                    raise damaged(self.path, "it ended while it was read")
                done += got
        return data.view(self.dtype).view(last - first, *self.shape[1:])


def row_blocks(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about `BLOCK_BYTES` that cover a tensor (or one on `meta`)."""
    rows = tensor.shape[0]
    step = max(1, BLOCK_BYTES // max(1, tensor.nbytes // max(1, rows)))
    for first in range(0, rows, step):
        yield first, min(rows, first + step)


def damaged(path: Path, why: str) -> InputError:
    """What is said of a file that is not what it claims to be."""
    return InputError(f"{path.name} is damaged: {why}", where=str(path), fix=COPY_AGAIN)


def read_header(path: Path) -> dict[str, Entry]:
    """Tensors of a file by name, in the order they lie. InputError names the file and what of its header cannot be true."""
    if not path.is_file():
        raise InputError(f"the weight file {path.name} is missing", where=str(path), fix="copy all weight files here")
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(8)
        if (begin + file.read(32)).startswith(LFS_POINTER):
            raise InputError(f"{path.name} is a git-lfs pointer and no weights", where=str(path), fix="run git lfs pull there")
        length = int.from_bytes(begin, "little")
        if len(begin) < 8 or length > min(size - 8, LARGEST_HEADER):
            raise damaged(path, f"its header claims {length} bytes and the file has {size}")
        file.seek(8)
        try:
            described = json.loads(file.read(length))
            described.pop("__metadata__", None)
            entries = {name: _entry(path, value, 8 + length) for name, value in described.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(path, f"its header cannot be read ({error})") from None
    at = 8 + length
    for name, (entry, end) in sorted(entries.items(), key=lambda item: (item[1][0].start, item[1][1])):
        if entry.start != at or end - entry.start != math.prod(entry.shape) * entry.dtype.itemsize:
            raise damaged(path, f"the offsets of {name[:80]} do not fit its shape and its neighbours")
        at = end
    if at != size:
        raise damaged(path, f"its tensors end at byte {at} and the file at {size}")
    return {name: entry for name, (entry, _) in entries.items()}


def _entry(path: Path, value: dict[str, Any], base: int) -> tuple[Entry, int]:
    first, last = value["data_offsets"]
    shape = tuple(value["shape"])
    if not all(isinstance(n, int) and n >= 0 for n in (first, last, *shape)):
        raise ValueError("sizes must be whole numbers")
    if value["dtype"] not in DTYPES:
        raise ValueError(f"there is no type {value['dtype']!r}")
    return Entry(path, DTYPES[value["dtype"]], shape, base + first), base + last


class WeightWriter:
    """A safetensors file whose tensors are known beforehand and written by rows in any order."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]):
        """`tensors` tell shapes and types only; they may lie on `meta`."""
        kinds = {DTYPES[kind]: kind for kind in WRITTEN}
        order = sorted(tensors, key=lambda name: (-WRITTEN.index(kinds[tensors[name].dtype]), name))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offsets, at = {}, 0
        for name in order:
            tensor = tensors[name]
            end = at + tensor.nbytes
            header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
            offsets[name], at = at, end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._starts = {name: 8 + len(text) + offset for name, offset in offsets.items()}
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(8 + len(text) + at)

    def put(self, name: str, first: int, rows: Tensor) -> None:
        """Write rows of a tensor from row `first` on, in the type announced."""
        data = rows.contiguous()
        self._file.seek(self._starts[name] + first * (data.nbytes // max(1, data.shape[0])))
        self._file.write(data.view(torch.uint8).numpy().data)

    def __enter__(self) -> WeightWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def brought_to_disk(path: Path) -> str:
    """Wait until a file is on the disk; its SHA-256."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
