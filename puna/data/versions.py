"""Documents of equal key: the newest stays (the first, where dates are equal), the others know which one it was.

Address and text are both treated so (paper section 3.1.1: of an address the newest version is kept); keys are 64-bit hashes, of
which two in 2^32 documents are expected to be equal by chance once in two such corpora.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from puna.data.engine import load_array

VERSION = np.dtype([("key", np.uint64), ("date", np.int64), ("document", np.int64)])
DROP = np.dtype([("document", np.int64), ("of", np.int64)])  # a document and the one that stands for it


def versions(keys: np.ndarray, dates: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Rows for a shuffle. Returns structured VERSION [rows]."""
    rows = np.empty(len(keys), dtype=VERSION)
    rows["key"], rows["date"], rows["document"] = keys, dates, documents
    return rows


def newest_of_each(rows: np.ndarray) -> np.ndarray:
    """Which documents of one partition have a newer version. Returns structured DROP [dropped], by document."""
    rows = rows[np.lexsort((rows["document"], -rows["date"], rows["key"]))]
    heads = run_starts(rows["key"])
    first = np.arange(len(rows)) == heads
    return sorted_drops(rows["document"][~first], rows["document"][heads[~first]])


def run_starts(keys: np.ndarray) -> np.ndarray:
    """For each entry of a sorted array, where its run of equal keys begins. Returns int64 [rows]."""
    new = np.ones(len(keys), dtype=bool)
    new[1:] = keys[1:] != keys[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))


def sorted_drops(documents: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """Structured DROP, by document."""
    drops = np.empty(len(documents), dtype=DROP)
    order = np.argsort(documents, kind="stable")
    drops["document"], drops["of"] = documents[order], heads[order]
    return drops


def drops_between(folder: Path, start: int, end: int) -> np.ndarray:
    """The drops of documents `start` to `end` from all partitions. Returns structured DROP."""
    parts = []
    for path in sorted(folder.glob("*.npy")):
        drops = load_array(path)
        first, last = np.searchsorted(drops["document"], [start, end])
        parts.append(np.array(drops[first:last]))
    return np.concatenate(parts)
