"""Lines that come again and again: counted over the corpus, within a language, by bucket of 30 million documents (paper section
3.1.1).

Only hashes of lines are shuffled, each with the number of documents of its shard it stands in. What is over the limit is looked
up by every shard, and which lines go is written down by number, so that the text is written once and the decision can be shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from puna.data.columns import read_table
from puna.data.dedup import without_lines_batch
from puna.data.engine import load_array, partition_of
from puna.data.versions import run_starts

if TYPE_CHECKING:
    import pyarrow as pa

BUCKET_DOCUMENTS = 30_000_000  # paper section 3.1.1
LINE = np.dtype([("key", np.uint64), ("bucket", np.int32), ("count", np.int32)])
FREQUENT = np.dtype([("bucket", np.int32), ("key", np.uint64)])


def buckets(starts: np.ndarray, size: int = BUCKET_DOCUMENTS) -> np.ndarray:
    """The bucket of each shard: shards in order, as many as fit.

    Args:
        starts: int64 [shards + 1], first document of every shard.

    Returns:
        int64 [shards].
    """
    found, held, bucket = [], 0, 0
    for documents in np.diff(starts).tolist():
        if held and held + documents > size:
            bucket, held = bucket + 1, 0
        held += documents
        found.append(bucket)
    return np.array(found, dtype=np.int64)


def line_counts(keys: np.ndarray, ends: np.ndarray, among: np.ndarray, bucket: int) -> np.ndarray:
    """In how many of some documents of a shard each line stands.

    Args:
        keys: uint64 [lines], 0 for lines that do not count. ends: int64 [documents].
        among: bool [documents], those that take part.

    Returns:
        Structured LINE [distinct lines].
    """
    documents = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    counted = among[documents] & (keys != 0)
    keys, documents = keys[counted], documents[counted]
    order = np.lexsort((documents, keys))
    keys, documents = keys[order], documents[order]
    once = np.ones(len(keys), dtype=bool)
    once[1:] = (keys[1:] != keys[:-1]) | (documents[1:] != documents[:-1])
    distinct, counts = np.unique(keys[once], return_counts=True)
    rows = np.empty(len(distinct), dtype=LINE)
    rows["key"], rows["bucket"], rows["count"] = distinct, bucket, counts
    return rows


def over_the_limit(rows: np.ndarray, *, limit: int) -> np.ndarray:
    """Lines of one partition that stand in more than `limit` documents of a bucket. Returns structured FREQUENT, sorted."""
    rows = rows[np.lexsort((rows["key"], rows["bucket"]))]
    same = rows[["bucket", "key"]]
    first = np.flatnonzero(run_starts(same) == np.arange(len(rows)))
    totals = np.add.reduceat(rows["count"].astype(np.int64), first) if len(first) else first
    found = np.empty(int((totals > limit).sum()), dtype=FREQUENT)
    for name in ("bucket", "key"):
        found[name] = rows[name][first[totals > limit]]
    return found


def frequent(keys: np.ndarray, bucket: int, files: list[Path]) -> np.ndarray:
    """Which lines are frequent in a bucket.

    Args:
        keys: uint64 [lines].
        files: of `over_the_limit`, by partition.

    Returns:
        bool [lines].
    """
    hit = np.zeros(len(keys), dtype=bool)
    places = partition_of(keys, len(files))
    for number, path in enumerate(files):
        rows = load_array(path)
        first, last = np.searchsorted(rows["bucket"], [bucket, bucket + 1])
        mine = np.flatnonzero(places == number)
        if last > first:
            hit[mine] = np.isin(keys[mine], rows["key"][first:last])
    return hit & (keys != 0)


def lines_by_document(hit: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the lines that are hit, counted within each document.

    Returns: int32 [hits] and int32 [documents + 1], where each document's begin.
    """
    starts = ends - np.diff(ends, prepend=0)
    documents = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))[hit]
    numbers = np.flatnonzero(hit) - starts[documents]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(documents, minlength=len(ends)))])
    return numbers.astype(np.int32), offsets.astype(np.int32)


def text_without_lines(facts: Path, duplicates: Path, name: str) -> tuple[pa.Array, np.ndarray]:
    """The texts of one shard without their frequent lines, and how many each lost (int64 [documents])."""
    texts = read_table(facts / "text" / name, ["text"])["text"].combine_chunks()
    lines = read_table(duplicates / "duplicates" / name, ["lines"])["lines"].combine_chunks()
    counts = np.diff(lines.offsets.to_numpy()).astype(np.int64)
    if not counts.any():
        return texts, counts
    ends = np.load(facts / "hashes" / f"{Path(name).stem}.line_ends.npy", allow_pickle=False)
    drop = np.zeros(int(ends[-1]), dtype=bool)
    starts = ends - np.diff(ends, prepend=0)
    drop[np.repeat(starts, counts) + lines.values.to_numpy()] = True
    return without_lines_batch(texts, drop, ends)
