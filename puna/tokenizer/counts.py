"""What a vocabulary is trained on: how often each piece of the split pattern stands in the texts of each part of the corpus.

A part is a group of the data mix and a language ("general-de"), because a vocabulary is balanced between groups, extended by
languages, and measured in each of them. The counts of a shard of documents are Parquet files of two columns, `bytes` and `count`
(int64), one file a part; counts of shards add up to the counts of the corpus, and memory grows with the distinct pieces only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np

from puna.core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from puna.tokenizer.pieces import PieceCounter

NO_LANGUAGE = "und"  # BCP 47's code for text whose language is not determined
PARTS_FILE = "parts.json"
FOLDER = "counts"
AGAIN = "run `data.token_counts` again"
BATCH_ROWS = 1024  # documents in memory at a time


@dataclass(frozen=True)
class Totals:
    """Size of the texts behind a table of counts. `words` are runs of anything but white space, `bytes` are UTF-8."""

    documents: int = 0
    chars: int = 0
    bytes: int = 0
    words: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


@dataclass(frozen=True)
class PieceCounts:
    """Distinct pieces and their counts.

    Attributes:
        data: uint8, the bytes of all pieces, one after the other.
        ends: int64 [pieces], where each piece ends in `data`.
        counts: int64 [pieces].
        totals: size of the texts that were counted.
    """

    data: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    totals: Totals = field(default_factory=Totals)

    def __len__(self) -> int:
        return len(self.ends)

    def pieces(self) -> Iterator[bytes]:
        """The pieces in order."""
        start = 0
        for end in self.ends.tolist():
            yield self.data[start:end].tobytes()
            start = end

    def take(self, rows: np.ndarray) -> PieceCounts:
        """The pieces at these positions (or where a mask of bool holds), in that order."""
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        lengths = np.diff(self.ends, prepend=0)
        starts, sizes = (self.ends - lengths)[rows], lengths[rows]
        ends = np.cumsum(sizes)
        places = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - sizes), sizes)
        return PieceCounts(self.data[places], ends, self.counts[rows], self.totals)

    def sorted(self) -> PieceCounts:
        """The same in the order of the pieces' bytes."""
        import pyarrow.compute as pc

        return self.take(pc.sort_indices(self._bytes_column()).to_numpy().astype(np.int64))

    def at_least(self, minimum: int) -> PieceCounts:
        """Without the pieces counted fewer than `minimum` times."""
        return self if minimum <= 1 else self.take(self.counts >= minimum)

    def scaled(self, factor: int) -> PieceCounts:
        """Every count times `factor`."""
        return replace(self, counts=self.counts * np.int64(factor))

    def write(self, path: Path) -> None:
        """Write `bytes` and `count` as one zstd Parquet file, by rename."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"bytes": self._bytes_column(), "count": pa.array(self.counts)})
        partial = path.with_name(path.name + ".part")
        pq.write_table(table, partial, compression="zstd", use_dictionary=False)
        partial.replace(path)

    @classmethod
    def read(cls, path: Path, totals: Totals | None = None) -> PieceCounts:
        """Read what `write` wrote; InputError for anything else."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path, columns=["bytes", "count"], use_threads=False)
            column = table["bytes"].cast(pa.large_binary()).combine_chunks()
            counts = table["count"].to_numpy().astype(np.int64, copy=False)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise InputError(f"these counts cannot be read: {error}", where=str(path), fix=AGAIN) from error
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
        _, offsets, data = column.buffers()
        bounds = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
        held = np.frombuffer(data, dtype=np.uint8)[bounds[0] : bounds[-1]] if data else np.zeros(0, dtype=np.uint8)
        return cls(held, bounds[1:] - bounds[0], counts, totals or Totals())

    def _bytes_column(self) -> pa.Array:
        import pyarrow as pa

        offsets = np.concatenate([np.zeros(1, dtype=np.int64), self.ends])
        data = np.ascontiguousarray(self.data)
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


class Part(NamedTuple):
    """A part of the corpus: a group of the data mix, and a language."""

    group: str
    lang: str

    def __str__(self) -> str:
        return f"{self.group}-{self.lang}"


class Pruned(NamedTuple):
    """Pieces left out of a table of counts, and how often they stood in the texts."""

    pieces: int = 0
    occurrences: int = 0


Sources = Counter[tuple[str, str]]  # documents by source and licence


@dataclass(frozen=True)
class CountedPart:
    """The counts of one part, what was pruned of them, and where its documents came from."""

    pieces: PieceCounts
    sources: Sources
    pruned: Pruned = field(default_factory=Pruned)

    def at_least(self, minimum: int) -> CountedPart:
        """Without the pieces counted fewer than `minimum` times; what goes is recorded."""
        left = self.pieces.at_least(minimum)
        gone = len(self.pieces) - len(left), int(self.pieces.counts.sum() - left.counts.sum())
        return CountedPart(left, self.sources, Pruned(self.pruned.pieces + gone[0], self.pruned.occurrences + gone[1]))


class Document(NamedTuple):
    """What counting needs of a kept document."""

    source: str
    licence: str
    group: str
    lang: str
    text: str


def document_shards(documents: Path) -> list[Path]:
    """The shards of a documents artifact in order; InputError where there is none, or one has no annotations beside it."""
    files = sorted((documents / "documents").glob("*.parquet"))
    if not files:
        raise InputError("the documents input holds no documents/*.parquet", where=documents.name)
    for file in files:
        if not _annotations(file).is_file():
            raise InputError("a shard of documents has no annotations beside it", where=f"annotations/{file.name}")
    return files


def count_documents(files: Iterable[Path]) -> dict[Part, CountedPart]:
    """Count the pieces of the kept documents of some shards, part by part."""
    from puna.tokenizer.pieces import PieceCounter

    counters: dict[Part, tuple[PieceCounter, Sources]] = {}
    for file in files:
        for document in _kept(file):
            part = Part(document.group or "general", document.lang or NO_LANGUAGE)
            if part not in counters:
                counters[part] = PieceCounter(), Counter()
            counter, sources = counters[part]
            counter.add(document.text)
            sources[document.source, document.licence] += 1
    return {part: CountedPart(counter.counts(), sources) for part, (counter, sources) in sorted(counters.items())}


def add_up(tables: Iterable[PieceCounts]) -> PieceCounts:
    """One table of the sums of several."""
    from puna.tokenizer.pieces import PieceCounter

    counter = PieceCounter()
    for table in tables:
        counter.add_counts(table)
    return counter.counts()


def write_part(directory: Path, part: Part, counted: CountedPart) -> dict[str, Any]:
    """Write `counts/<part>.parquet`; returns its description: totals, sources, what was pruned."""
    path = _counts_file(directory, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    counted.pieces.write(path)
    sources = [{"source": s, "licence": licence, "documents": n} for (s, licence), n in sorted(counted.sources.items())]
    return {
        **part._asdict(),
        **asdict(counted.pieces.totals),
        "pieces": len(counted.pieces),
        "pruned": counted.pruned._asdict(),
        "sources": sources,
    }


def write_descriptions(directory: Path, rows: list[dict[str, Any]]) -> None:
    """Write `parts.json`, by rename: where it lies, the counts beside it are whole."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f"{PARTS_FILE}.part"
    partial.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(directory / PARTS_FILE)


def described_parts(directory: Path) -> dict[Part, dict[str, Any]]:
    """The descriptions of the parts in a directory of counts; InputError where they are missing or damaged."""
    try:
        rows = json.loads((directory / PARTS_FILE).read_text(encoding="utf-8"))
        return {Part(row["group"], row["lang"]): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"these counts have no readable {PARTS_FILE}: {error!r}", where=str(directory), fix=AGAIN) from error


def read_part(directory: Path, description: dict[str, Any]) -> CountedPart:
    """Read one part of a directory of counts."""
    row = description
    totals = Totals(row["documents"], row["chars"], row["bytes"], row["words"])
    pieces = PieceCounts.read(_counts_file(directory, Part(row["group"], row["lang"])), totals)
    sources: Sources = Counter({(source["source"], source["licence"]): source["documents"] for source in row["sources"]})
    return CountedPart(pieces, sources, Pruned(**row["pruned"]))


def _counts_file(directory: Path, part: Part) -> Path:
    return directory / FOLDER / f"{quote(str(part), safe='')}.parquet"


def _annotations(shard: Path) -> Path:
    return shard.parents[1] / "annotations" / shard.name


def _kept(file: Path) -> Iterator[Document]:
    import pyarrow.parquet as pq

    table, keep = pq.ParquetFile(file), pq.read_table(_annotations(file), columns=["keep"])["keep"].to_pylist()
    if table.metadata.num_rows != len(keep):
        raise InputError("documents and annotations differ in their number of rows", where=file.name)
    columns = [name for name in Document._fields if name in table.schema_arrow.names]
    row = 0
    for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
        absent = [""] * batch.num_rows
        values = [batch[name].to_pylist() if name in columns else absent for name in Document._fields]
        for fields in zip(*values, strict=True):
            if keep[row] and fields[-1]:
                yield Document(*fields)
            row += 1
