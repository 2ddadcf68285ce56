"""Documents as columns: the Parquet schemas of pages, documents and annotations, and how shards of them are written and read.

One Python object per document is what makes the known pipelines slow, so every stage maps a shard (one Parquet file) to
another. Files are written beside their place and renamed, so an existing shard is a whole shard and serves as the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.core.errors import InputError

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
GROUPS = ("general", "maths", "code", "multilingual")  # the four parts of the paper's data mix (section 3.1.2)


def schema(columns: dict[str, str]) -> pa.Schema:
    """An Arrow schema from column name to Arrow type name."""
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])


def write_shard_table(path: Path, rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    """Write rows as one zstd Parquet shard, by rename. Same rows, same bytes (for one version of pyarrow)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows, schema=schema(columns))
    partial = path.with_name(path.name + ".part")
    pq.write_table(table, partial, compression="zstd", use_dictionary=True, row_group_size=8192)
    partial.replace(path)


def shard_paths(directory: Path) -> list[Path]:
    """The Parquet shards of a directory in order; InputError when there is none."""
    paths = sorted(Path(directory).glob("*.parquet"))
    if not paths:
        raise InputError("there are no shards here", where=str(directory), fix="run the stage that writes them again")
    return paths


def read_shard_table(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of one shard, all columns or the named ones; InputError for a file that is not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=columns, use_threads=False).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"this shard cannot be read: {error}", where=str(path), fix="run the stage that wrote it again"
        ) from error


def documents(directory: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Every kept document of a `documents` artifact, in order.

    Args:
        directory: the artifact's directory, which holds `documents/*.parquet`.
        columns: names out of `DOCUMENT_COLUMNS`; None for all of them.
    """
    for path in shard_paths(Path(directory) / "documents"):
        yield from read_shard_table(path, columns)
