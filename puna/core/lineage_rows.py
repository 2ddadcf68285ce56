"""Lineage row by row, in columns: who wrote, judged and licensed each row of a data set, beside the rows themselves.

`lineage.parquet` has one line for each row of an artifact. What repeats (source, licences, teacher, judge, round) is
dictionary-encoded, so a question about obligations reads a few bytes a row: each row group's codes are combined into one number
per row and counted, and only the distinct combinations are looked at. Documents carry their source and licence as columns of
their own; those files are read the same way. The licence that a row came with (declared) and the one that somebody found to be
right (concluded, with the evidence) stand apart, and the concluded one counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FILE = "lineage.parquet"
GROUP_ROWS = 1 << 20  # of a row group
HELD_ROWS = 1 << 16  # taken one by one, before they are put into columns
DENSE = 1 << 20  # so many possible combinations are counted in an array, more by sorting
REPEATED = (
    "part", "source", "licence_declared", "licence_concluded", "evidence", "teacher", "teacher_licence", "teacher_evidence",
    "judge", "judge_licence", "judge_evidence",
)  # fmt: skip
ROLES = {  # how a source can be in a row, and the columns that say it
    "data": ("source", "licence_declared", "licence_concluded"),
    "teacher": ("teacher", "teacher_licence"),
    "judge": ("judge", "judge_licence"),
}
ASKED = tuple(name for names in ROLES.values() for name in names)
OLDER = {"licence": "licence_declared"}  # documents name their columns so
OWN = "own"  # licence of a teacher that is a model of this store: what it asks for stands in its own lineage


@dataclass(frozen=True)
class Group:
    """Rows in which one source stands alike: its role, its values by column, how many rows, and where the first of them is."""

    role: str
    values: dict[str, str | None]
    rows: int
    file: Path
    place: tuple[int, int]  # row group, and row in it

    def source(self) -> dict[str, Any]:
        """As a source of an artifact (`puna.core.lineage`)."""
        if self.role != "data":
            licence = self.values[f"{self.role}_licence"] or "unknown"
            return {"source": self.values[self.role], "licence": licence, "rows": self.rows, "use": "outputs", "role": self.role}
        declared, concluded = self.values["licence_declared"], self.values.get("licence_concluded")
        row = {"source": self.values["source"] or "unnamed", "licence": concluded or declared or "unknown", "rows": self.rows}
        return {**row, "declared": declared} if concluded and declared and concluded != declared else row

    @property
    def example(self) -> str:
        """The id of the first row, read when it is asked for; empty where rows have none."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.file, memory_map=True) as file:
            if "id" not in file.schema_arrow.names:
                return ""
            return str(file.read_row_group(self.place[0], columns=["id"])["id"][self.place[1]].as_py())

    @property
    def licence(self) -> str:
        """The licence that counts: concluded, or else declared."""
        return self.values.get("licence_concluded") or self.values.get("licence_declared") or "unknown"


class RowLineage:
    """Writes `lineage.parquet`, row by row, in little memory."""

    def __init__(self, path: Path):
        self._path, self._rows, self._tables = path, list[dict[str, Any]](), list[Any]()
        self._file: pq.ParquetWriter | None = None

    def add(self, **row: Any) -> None:
        """Take a row: `id`, `round`, `parents` and any of REPEATED."""
        self._rows.append(row)
        if len(self._rows) == HELD_ROWS:
            self._into_columns()

    def add_table(self, table: pa.Table) -> None:
        """Take rows that lie in columns (`row_schema`)."""
        self._tables.append(table)
        if sum(part.num_rows for part in self._tables) >= GROUP_ROWS:
            self._write()

    def close(self) -> None:
        """Write what is left; a file without rows is written too."""
        self._into_columns()
        self._write()
        assert self._file is not None  # opened by `_write`
        self._file.close()

    def _into_columns(self) -> None:
        import pyarrow as pa

        rows, self._rows = self._rows, []
        self.add_table(pa.Table.from_pylist(rows, schema=row_schema()))

    def _write(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._file is None:
            self._file = pq.ParquetWriter(self._path, row_schema(), compression="zstd", use_dictionary=[*REPEATED, "round"])
        table, self._tables = pa.concat_tables(self._tables or [row_schema().empty_table()]), []
        if table.num_rows:
            self._file.write_table(table, row_group_size=GROUP_ROWS)


def row_schema() -> pa.Schema:
    """Columns of `lineage.parquet`."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("id", *REPEATED)]
    return pa.schema([*texts, ("round", pa.int32()), ("parents", pa.list_(pa.string()))])


def row_files(directory: Path) -> list[Path]:
    """Where an artifact keeps the lineage of its rows: `lineage.parquet`, or the documents themselves."""
    own = directory / FILE
    return [own] if own.is_file() else sorted((directory / "documents").glob("*.parquet"))


def groups(files: Iterable[Path]) -> list[Group]:
    """Every source of these files' rows in each role, with its count; each column is read once.

    A teacher that is a model of the same store is left out: what it asks for stands in its own lineage.
    """
    import pyarrow.parquet as pq

    found: dict[tuple, list] = {}
    for path in files:
        known = set(pq.read_schema(path).names)
        names = [name for name in (*ASKED, *OLDER) if name in known]
        with pq.ParquetFile(path, read_dictionary=names, memory_map=True) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=names)
                table = table.rename_columns([OLDER.get(name, name) for name in names])
                for role, columns in ROLES.items():
                    if columns[0] in table.column_names:
                        for values, first, count in _combinations(table, columns):
                            entry = found.setdefault((role, values), [0, path, (number, first)])
                            entry[0] += count
    every = [Group(role, dict(values), count, path, place) for (role, values), (count, path, place) in found.items()]
    return [g for g in every if g.role == "data" or (g.values[g.role] and g.values[f"{g.role}_licence"] != OWN)]


def _combinations(table: pa.Table, names: Iterable[str]) -> list[tuple[tuple, int, int]]:
    """Distinct rows of some columns as (column, value) pairs, each with the place of its first row and its count."""
    import pyarrow as pa

    codes, radix, columns = np.zeros(table.num_rows, np.int64), 1, []
    for name in (name for name in names if name in table.column_names):
        column = table[name].combine_chunks()
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        values = [None, *encoded.dictionary.to_pylist()]
        codes += radix * (encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1)
        columns.append((name, values, radix))
        radix *= len(values)
    distinct, first, counts = _counted(codes, radix)
    return [
        (tuple((name, values[code // place % len(values)]) for name, values, place in columns), int(at), int(count))
        for code, at, count in zip(distinct.tolist(), first, counts, strict=True)
    ]  # fmt: skip


def _counted(codes: np.ndarray, radix: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct codes below `radix`, the place of the first of each, and how often each is there."""
    if radix > DENSE:
        return np.unique(codes, return_index=True, return_counts=True)
    counts = np.bincount(codes, minlength=1)
    distinct = np.flatnonzero(counts)
    first = np.zeros(len(counts), np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return distinct, first[distinct], counts[distinct]
