"""Rows that wait on disk until it is known which split they belong to.

Whether a dialog may be learnt from depends on prompts that other rows hold, so it is decided when all have been read; and a
million dialogs do not fit into memory. Each row is written once, as it will stand in the artifact; what is kept of it are forty
bytes: digests of its id and of its prompt, and its place in the file.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from puna.tokenizer.dialog import row_line

DIGEST_BYTES = 16
Digests = np.ndarray  # of 16 bytes each, dtype S16: they sort as their hexadecimal forms do


def digests_of(keys: Iterable[str]) -> Digests:
    """Keys of 32 hexadecimal digits as an array."""
    return np.frombuffer(b"".join(map(bytes.fromhex, keys)), f"S{DIGEST_BYTES}")


class Spool:
    """Rows in a file of their own, numbered in the order in which they came."""

    def __init__(self, path: Path):
        self._written, self._read = path.open("wb"), path.open("rb")
        self._starts, self._size = array("q"), 0
        self._ids, self._prompts = bytearray(), bytearray()

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, row: BaseModel, prompt: str) -> None:
        """Keep a row that has an `id`; `prompt` is the key by which it is held out (32 hexadecimal digits)."""
        line = row_line(row).encode()
        self._starts.append(self._size)
        self._size += self._written.write(line)
        self._ids += hashlib.blake2b(row.id.encode(), digest_size=DIGEST_BYTES).digest()  # type: ignore[attr-defined]
        self._prompts += bytes.fromhex(prompt)

    def prompts(self, rows: np.ndarray) -> Digests:
        """Digests of the prompts of some rows."""
        return np.frombuffer(bytes(self._prompts), f"S{DIGEST_BYTES}")[rows]

    def once(self, first: int) -> np.ndarray:
        """Numbers of the rows from `first` on, int64, each id once: in the place where it was first seen, as it was last seen."""
        ids = np.frombuffer(bytes(self._ids), f"S{DIGEST_BYTES}")[first:]
        _, seen = np.unique(ids, return_index=True)
        _, last = np.unique(ids[::-1], return_index=True)
        return first + (len(ids) - 1 - last)[np.argsort(seen)]

    def lines(self, rows: np.ndarray) -> Iterator[bytes]:
        """Some rows as lines of JSON."""
        self._written.flush()
        for row in rows:
            self._read.seek(self._starts[row])
            yield self._read.readline()
