"""Dialogs of any number as token ids, encoded once, when training first draws them, and kept in a file of the scratch folder.

Fine-tuning on two hundred thousand dialogs must not wait until all are encoded, nor hold them in memory. A look through the files
says where each row begins; a row is encoded at its first use and its ids are appended to `ids.bin`, where a resumed run finds
them. In memory there are some forty bytes a row. Every record carries a checksum: what a crash left torn is encoded again.
"""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from puna.core.errors import InputError
from puna.post.examples import Encoded, Left, encode_dialog
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Dialog, reason_of
from puna.train.packing import Example

UNREAD, OVERLONG, EMPTY = 0, -1, -2  # in place of where a record starts; records start at 1
ID_BYTES, MASK_BYTES, SUM_BYTES = 4, 1, 4


class DialogStore:
    """Rows of several files, numbered through; each is a dialog's ids and loss mask.

    Args:
        limit: longer dialogs are left out.
        scratch: folder for the encoded rows; one with the rows of other files or of another limit is written anew.

    Raises InputError for a missing file, and from `tokens` and `row` for a malformed row.
    """

    def __init__(self, tokenizer: Tokenizer, files: Sequence[Path], limit: int, scratch: Path):
        self.tokenizer, self.files, self.limit = tokenizer, list(files), limit
        found = [_row_starts(path) for path in files]
        self.starts = np.concatenate([np.zeros(0, np.int64), *(starts for starts, _ in found)])
        self.bytes = sum(size for _, size in found)
        self._ends = list(accumulate(len(starts) for starts, _ in found))
        self._sources = [path.open("rb") for path in files]
        scratch.mkdir(parents=True, exist_ok=True)
        self._index, self._data = self._open(scratch)
        self._size = os.fstat(self._data.fileno()).st_size

    def __len__(self) -> int:
        return len(self.starts)

    def rows_of(self, files: slice) -> np.ndarray:
        """The numbers of the rows of some of the files, int32."""
        bounds = [0, *self._ends][files.start : files.stop + 1]
        return np.arange(bounds[0], bounds[-1], dtype=np.int32)

    def sizes(self) -> np.ndarray:
        """Bytes of each row in its file, int64 [rows]; blank lines count with the row before."""
        ends, first = np.append(self.starts[1:], 0), 0
        for end, file in zip(self._ends, self.files, strict=True):
            if end > first:
                ends[end - 1] = file.stat().st_size
            first = end
        return ends - self.starts

    def tokens(self, row: int) -> int:
        """Tokens of a row, 0 if it is left out; the row is encoded if it has not been."""
        if self._index[row, 0] == UNREAD:
            self._encode(row)
        start, tokens = self._index[row].tolist()
        if start > 0 and not tokens:  # the machine stopped between the two
            self._encode(row)
            start, tokens = self._index[row].tolist()
        return tokens if start > 0 else 0

    def row(self, row: int) -> Example:
        """Ids (uint32) and loss mask (uint8) of a row that is not left out."""
        if self._index[row, 0] == UNREAD:
            self._encode(row)
        start, tokens = self._index[row].tolist()
        record = os.pread(self._data.fileno(), SUM_BYTES + tokens * (ID_BYTES + MASK_BYTES), start)
        body = record[SUM_BYTES:]
        if len(body) != tokens * (ID_BYTES + MASK_BYTES) or int.from_bytes(record[:SUM_BYTES], "little") != _sum(body, row):
            self._encode(row)
            return self.row(row)
        return np.frombuffer(body, "<u4", tokens), np.frombuffer(body, np.uint8, tokens, tokens * ID_BYTES)

    def usable(self, rows: np.ndarray) -> np.ndarray:
        """Those of these rows that have been encoded and are not left out."""
        return rows[self._index[rows, 0] > 0]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of those of these rows that have been encoded and are not left out, int64."""
        return self._index[self.usable(rows), 1]

    def known(self, rows: np.ndarray) -> int:
        """How many of these rows have been encoded, left out or not."""
        return int((self._index[rows, 0] != UNREAD).sum())

    def left(self, rows: np.ndarray, longest: int) -> Left:
        """How many of these rows are left out as far as is known: encoded and longer than `longest`, or with nothing to learn."""
        starts, tokens = self._index[rows].T
        return Left(int(((starts == OVERLONG) | (tokens > longest)).sum()), int((starts == EMPTY).sum()))

    def _encode(self, row: int) -> None:
        encoded = self.encoded(row)
        tokens = len(encoded.ids)
        if tokens > self.limit:
            self._index[row] = OVERLONG, tokens
        elif not any(encoded.loss_mask):
            self._index[row] = EMPTY, 0
        else:
            body = np.asarray(encoded.ids, "<u4").tobytes() + np.asarray(encoded.loss_mask, np.uint8).tobytes()
            record = _sum(body, row).to_bytes(SUM_BYTES, "little") + body
            os.pwrite(self._data.fileno(), record, self._size)
            self._index[row] = self._size, tokens
            self._size += len(record)

    def encoded(self, row: int) -> Encoded:
        """Ids and masks of a row as it stands in its file."""
        return encode_dialog(self.tokenizer, self.dialog(row))

    def file(self, row: int) -> Path:
        """The file a row is in."""
        return self.files[next(i for i, end in enumerate(self._ends) if row < end)]

    def dialog(self, row: int) -> Dialog:
        """A row as it stands in its file."""
        file = next(i for i, end in enumerate(self._ends) if row < end)
        first = self._ends[file - 1] if file else 0
        source = self._sources[file]
        source.seek(int(self.starts[row]))
        try:
            return Dialog.model_validate_json(source.readline())
        except ValidationError as error:
            what = f"malformed Dialog row: {reason_of(error)}"
            where = f"{self.files[file]}, row {row - first + 1}"
            raise InputError(what, where=where, fix="mend that line, or make the artifact again") from None

    def _open(self, scratch: Path) -> tuple[np.ndarray, Any]:
        """Index [rows, 2] (start of the record, tokens) and records, kept if they are of the same rows and limit."""
        about = f"{self.tokenizer.digest} {self.limit} {zlib.crc32(self.starts.tobytes())} {self._ends} {self.bytes}"
        told, index, data = scratch / "about.txt", scratch / "index.bin", scratch / "ids.bin"
        if not (told.is_file() and told.read_text() == about):
            told.unlink(missing_ok=True)
            data.write_bytes(b"\0")  # so that no record starts at 0
            index.write_bytes(b"")
            os.truncate(index, 16 * len(self.starts))
            told.write_text(about)
        if not len(self.starts):
            return np.zeros((0, 2), np.int64), data.open("r+b")
        return np.memmap(index, np.int64, "r+", shape=(len(self.starts), 2)), data.open("r+b")


class Mixed:
    """Examples over a store: every row as often as its part of the mix says, those left out not at all.

    Args:
        rows: number of the store's row of each example.
        longest: longer ones are left out (the store's limit may be higher).
    """

    def __init__(self, store: DialogStore, rows: np.ndarray, longest: int):
        self.store, self.rows, self.longest = store, rows, longest

    def __len__(self) -> int:
        return len(self.rows)

    def length(self, i: int) -> int:
        """Tokens of an example, 0 if it is left out."""
        tokens = self.store.tokens(int(self.rows[i]))
        return tokens if tokens <= self.longest else 0

    def __getitem__(self, i: int) -> Example:
        return self.store.row(int(self.rows[i]))

    def tokens(self) -> float:
        """Tokens of one epoch: exact once every row has been read, until then what the rows read so far make of it."""
        found = self.store.read(self.rows)
        return float(found[found <= self.longest].sum()) * len(self.rows) / max(1, self.store.known(self.rows))


def longest_of(store: DialogStore, rows: Iterable[int]) -> int:
    """Tokens of the longest of these rows that is not left out, 0 without any."""
    return max((store.tokens(int(row)) for row in rows), default=0)


def _row_starts(path: Path) -> tuple[np.ndarray, int]:
    """Where each line that is not blank starts, int64, and the bytes of the file."""
    if not path.is_file():
        raise InputError("the file does not exist", where=str(path), fix="check the path")
    starts, at = array("q"), 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                starts.append(at)
            at += len(line)
    return np.frombuffer(starts, np.int64) if starts else np.zeros(0, np.int64), at


def _sum(body: bytes, row: int) -> int:
    """Checksum of a row's record, which no other row has."""
    return zlib.crc32(body, row + 1)
