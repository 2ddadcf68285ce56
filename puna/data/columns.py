"""Documents as columns: the Parquet schemas of pages, documents and annotations, and how shards of them are written and read.

One Python object per document is what makes the known pipelines slow, so every stage maps a shard (one Parquet file) to
another of the same name and row order. Files are written beside their place and renamed, so an existing shard is a whole shard
and serves as the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.core.errors import InputError
from puna.core.store import write_json

if TYPE_CHECKING:
    import pyarrow as pa

PAGE_COLUMNS = {
    "id": "string",
    "url": "string",
    "date": "string",
    "source": "string",
    "licence": "string",
    "group": "string",
    "format": "string",
    "charset": "string",
    "content": "binary",
    "blocked": "string",
}
DOCUMENT_COLUMNS = {
    "id": "string",
    "url": "string",
    "date": "string",
    "source": "string",
    "licence": "string",
    "group": "string",
    "lang": "string",
    "text": "string",
}
PAGE_FACTS = ("id", "url", "date", "source", "licence")  # of a page, as collected
LAYOUT = "layout.json"
# Rows that a reader holds at a time, fewer where they are large: pages in groups of 12 MB take twice the time to write.
ROW_GROUP, GROUP_BYTES = 8192, 2 << 20
GROUPS = ("general", "maths", "code", "multilingual")  # the four parts of the paper's data mix (section 3.1.2)


def schema(columns: dict[str, str]) -> pa.Schema:
    """An Arrow schema from column name to Arrow type name."""
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])


def write_shard_table(path: Path, rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    """Write rows as one Parquet shard; see `write_table`."""
    import pyarrow as pa

    arrays = [pa.array([row.get(name) for row in rows], type=pa.type_for_alias(kind)) for name, kind in columns.items()]
    write_table(path, pa.Table.from_arrays(arrays, schema=schema(columns)))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as one zstd Parquet shard, by rename. Same rows, same bytes (for one version of pyarrow)."""
    import pyarrow.parquet as pq

    partial = path.with_name(path.name + ".part")
    rows = min(ROW_GROUP, max(1, GROUP_BYTES * table.num_rows // max(table.nbytes, 1)))
    pq.write_table(table.combine_chunks(), partial, compression="zstd", use_dictionary=True, row_group_size=rows)
    partial.replace(path)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One shard as a table of one chunk, all columns or the named ones; InputError for a file that is not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:  # read_table would load the data set layer, and pandas with it: 0.3 s a process
            table = file.read(columns=columns, use_threads=False).combine_chunks()
        return table if columns is None else table.select(columns)
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from error


def batches(path: Path, rows: int) -> Iterator[pa.Table]:
    """A shard in tables of at most so many rows, read as they are asked for; InputError for a file that is not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(rows, use_threads=False):
                yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"this shard cannot be read: {error}", where=str(path), fix="run the stage that wrote it again")


def numpy_column(table: pa.Table, name: str) -> np.ndarray:
    """A column of numbers; a null becomes NaN, in integers and truth values too."""
    return table[name].to_numpy()


def typed_columns(values: Mapping[str, np.ndarray], kinds: Mapping[str, str]) -> dict[str, pa.Array]:
    """Arrays as Arrow columns of the named types; NaN becomes null."""
    import pyarrow as pa

    return {name: pa.array(values[name], from_pandas=True).cast(pa.type_for_alias(kind)) for name, kind in kinds.items()}


def shard_paths(directory: Path) -> list[Path]:
    """The Parquet shards of a directory in order; InputError when there is none."""
    paths = sorted(Path(directory).glob("*.parquet"))
    if not paths:
        raise InputError("there are no shards here", where=str(directory), fix="run the stage that writes them again")
    return paths


def read_shard_table(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of one shard, all columns or the named ones; InputError for a file that is not Parquet."""
    return read_table(path, columns).to_pylist()


@dataclass(frozen=True)
class Layout:
    """The shards of a data set and the number of every document in it: position among all documents, in the order of the shards.

    Attributes:
        names: file names of the shards.
        starts: int64 [shards + 1], number of the first document of each shard, and of all.
    """

    names: tuple[str, ...]
    starts: np.ndarray

    @property
    def documents(self) -> int:
        return int(self.starts[-1])

    def place(self, number: int) -> tuple[int, int]:
        """Shard and row of a document."""
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        return shard, number - int(self.starts[shard])


def layout_of(directory: Path) -> Layout:
    """The layout of a folder of shards, from their footers."""
    import pyarrow.parquet as pq

    paths = shard_paths(directory)
    rows = [pq.read_metadata(path).num_rows for path in paths]
    return Layout(tuple(path.name for path in paths), np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]))


def write_layout(directory: Path, layout: Layout) -> None:
    """Keep a layout as `layout.json` in an artifact's directory."""
    write_json(directory / LAYOUT, {"shards": list(layout.names), "starts": layout.starts.tolist()})


def read_layout(directory: Path) -> Layout:
    """What `write_layout` wrote."""
    found = json.loads((directory / LAYOUT).read_text())
    return Layout(tuple(found["shards"]), np.array(found["starts"], dtype=np.int64))


def documents(directory: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Every kept document of a `documents` artifact, in order.

    Args:
        directory: the artifact's directory, which holds `documents/*.parquet`.
        columns: names out of `DOCUMENT_COLUMNS`; None for all of them.
    """
    for path in shard_paths(Path(directory) / "documents"):
        yield from read_shard_table(path, columns)
