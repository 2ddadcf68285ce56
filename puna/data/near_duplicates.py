"""Near-duplicate documents over the whole data set: banded LSH, exact verification, union (paper section 3.1.1).

Each signature gives a key per band; documents that share one are candidates (a shuffle by key); every candidate pair is checked
against the exact Jaccard similarity of the shingle sets (a shuffle of pairs), so precision does not depend on the estimate; what
pairs connect is one cluster, of which the newest document stays. Which pairs are looked at depends on the documents alone, not on
the order of the work, so any engine and any number of partitions find the same clusters.

112 permutations in 14 bands of 8 rows find a pair of similarity 0.85 with probability 0.99 and one of 0.5 with 0.05. The paper
gives no numbers; these are FineWeb's.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from puna.data.columns import Layout, read_layout
from puna.data.engine import MIX, load_array, save_array
from puna.data.minhash import MinHashSettings, jaccard
from puna.data.versions import VERSION, run_starts, sorted_drops
from puna.data.workforce import Workforce

PAIR = np.dtype(
    [("key", np.uint64), ("first", np.int64), ("second", np.int64), ("first_date", np.int64), ("second_date", np.int64)]
)
MAX_HEADS = 8  # first documents of a bucket that all others are compared with, beside the one before
OPEN_SHARDS = 32  # whose shingles are mapped at a time


def find_near_duplicates(
    band_rows: partial[np.ndarray], jobs: list, work: Workforce, facts: Path, settings: MinHashSettings
) -> Path:
    """Shuffle bands and pairs, unite, and write the drops.

    Args:
        band_rows: gives the rows of one job (see `bands`).
        facts: directory of a `facts` artifact, whose shingles are read.

    Returns:
        Folder with one file of DROP rows.
    """
    scratch = work.ctx.scratch
    documents = read_layout(facts).documents
    partitions = work.partitions(documents * settings.bands, VERSION.itemsize)
    found = work.shuffle(band_rows, jobs, candidate_pairs, out=scratch / f"bands-{partitions}", partitions=partitions)
    pairs = sum(len(load_array(path)) for path in found)
    partitions = work.partitions(pairs, PAIR.itemsize)
    check = partial(verified, facts=facts, threshold=settings.threshold)
    edges = work.shuffle(
        partial(pair_rows, facts=facts), found, check, out=scratch / f"edges-{partitions}", partitions=partitions
    )
    out = scratch / "near"
    out.mkdir(exist_ok=True)
    if not (out / "00000.npy").exists():
        save_array(out / "00000.npy", cluster_drops(np.concatenate([load_array(path) for path in edges])))
    return out


def bands(signatures: np.ndarray, dates: np.ndarray, documents: np.ndarray, settings: MinHashSettings) -> np.ndarray:
    """One row per document and band.

    Args:
        signatures: uint32 [documents, bands * rows].
        dates, documents: int64 [documents].

    Returns:
        Structured VERSION [documents * bands]; the key is a hash of the band's minima and its number.
    """
    split = signatures.reshape(-1, settings.bands, settings.rows)
    keys = np.broadcast_to(np.arange(1, settings.bands + 1, dtype=np.uint64), split.shape[:2]).copy()
    for row in range(settings.rows):
        keys = (keys ^ split[:, :, row]) * MIX
        keys ^= keys >> np.uint64(29)
    rows = np.empty(keys.size, dtype=VERSION)
    rows["key"] = keys.ravel()
    rows["date"], rows["document"] = np.repeat(dates, settings.bands), np.repeat(documents, settings.bands)
    return rows


def candidate_pairs(rows: np.ndarray) -> np.ndarray:
    """Pairs of documents to compare: each of a bucket with the bucket's first `MAX_HEADS`, and with the one before it.

    Returns: structured PAIR, each once, `first` < `second`.
    """
    rows = rows[np.lexsort((rows["document"], rows["key"]))]
    starts = run_starts(rows["key"])
    rank = np.arange(len(rows)) - starts
    found = []
    for head in range(MAX_HEADS):
        later = np.flatnonzero(rank > head)
        found.append(_pairs(rows[starts[later] + head], rows[later]))
    far = np.flatnonzero(rank > MAX_HEADS)
    found.append(_pairs(rows[far - 1], rows[far]))
    return each_once(np.concatenate(found))


def each_once(pairs: np.ndarray) -> np.ndarray:
    """Pairs by second, then first document, without repetitions."""
    pairs = pairs[np.lexsort((pairs["first"], pairs["second"]))]
    new = np.ones(len(pairs), dtype=bool)
    new[1:] = (pairs["second"][1:] != pairs["second"][:-1]) | (pairs["first"][1:] != pairs["first"][:-1])
    return pairs[new]


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    pairs = np.zeros(len(first), dtype=PAIR)
    pairs["first"], pairs["second"] = first["document"], second["document"]
    pairs["first_date"], pairs["second_date"] = first["date"], second["date"]
    return pairs


def pair_rows(path: Path, *, facts: Path) -> np.ndarray:
    """The pairs of one partition of bands, to be brought together by the shard of the later document."""
    pairs = np.array(load_array(path))
    pairs["key"] = np.searchsorted(read_layout(facts).starts, pairs["second"], side="right") - 1
    return pairs


def verified(pairs: np.ndarray, *, facts: Path, threshold: float) -> np.ndarray:
    """The pairs of one partition whose exact Jaccard similarity reaches the threshold; what is connected already is left out.

    Returns: structured PAIR.
    """
    pairs = each_once(pairs)
    shingles = ShingleSets(facts)
    parent: dict[int, int] = {}
    kept = np.zeros(len(pairs), dtype=bool)
    held, of_second = -1, np.zeros(0, dtype=np.uint64)
    for index, (first, second) in enumerate(zip(pairs["first"].tolist(), pairs["second"].tolist(), strict=True)):
        one, other = _root(parent, first), _root(parent, second)
        if one == other:
            continue
        if second != held:
            held, of_second = second, shingles[second]
        if jaccard(shingles[first], of_second) >= threshold:
            parent[max(one, other)] = min(one, other)
            kept[index] = True
    return pairs[kept]


def _root(parent: dict[int, int], index: int) -> int:
    root = index
    while (above := parent.get(root, root)) != root:
        root = above
    while index != root:
        above = parent[index]
        parent[index], index = root, above
    return root


class ShingleSets:
    """Sorted distinct shingle hashes of any document of a `facts` artifact, read as they are asked for."""

    def __init__(self, facts: Path):
        self.facts = facts
        self.layout: Layout = read_layout(facts)
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._open)

    def __getitem__(self, document: int) -> np.ndarray:
        shard, row = self.layout.place(document)
        shingles, ends = self._shard(shard)
        return np.array(shingles[int(ends[row - 1]) if row else 0 : int(ends[row])])

    def _open(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        stem = Path(self.layout.names[shard]).stem
        folder = self.facts / "hashes"
        return load_array(folder / f"{stem}.shingles.npy"), np.load(folder / f"{stem}.shingle_ends.npy", allow_pickle=False)


def cluster_drops(edges: np.ndarray) -> np.ndarray:
    """All but the newest document of every cluster (the first, where dates are equal).

    Memory is that of the documents that occur in an edge, not of the corpus.

    Args:
        edges: structured PAIR.

    Returns:
        Structured DROP, by document.
    """
    documents, first = np.unique(np.concatenate([edges["first"], edges["second"]]), return_index=True)
    dates = np.concatenate([edges["first_date"], edges["second_date"]])[first]
    labels = components(np.searchsorted(documents, edges["first"]), np.searchsorted(documents, edges["second"]), len(documents))
    order = np.lexsort((documents, -dates, labels))
    heads = order[run_starts(labels[order])]
    dropped = order != heads
    return sorted_drops(documents[order[dropped]], documents[heads[dropped]])


def components(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Connected components of a graph: each round hooks the larger of two roots under the smaller and shortens all paths.

    Returns: int64 [count], the smallest member of each node's component.
    """
    parent = np.arange(count, dtype=np.int64)
    while True:
        one, other = parent[first], parent[second]
        apart = one != other
        if not apart.any():
            return parent
        first, second, one, other = first[apart], second[apart], one[apart], other[apart]
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(parent, shorter := parent[parent]):
            parent = shorter
