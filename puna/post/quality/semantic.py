"""Semantic de-duplication: clusters of dialogs, and in each the best of what is alike (paper 4.2.3, SemDeDup).

Comparing all pairs of N rows costs N^2; rows that are alike nearly always fall into one cluster, so comparing within clusters
costs N times the size of one. Within a cluster rows are taken by quality times difficulty, and a row is kept if its largest
cosine similarity to the kept ones is below a limit (the paper gives none). What clusters miss is the pair on both sides of a
border, so a row is compared in its two nearest; what is missed still is measured by comparing a sample with everything. Vectors
stay on disk, products go block by block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from puna.core.rng import numpy_stream
from puna.core.settings import Settings
from puna.post.quality.embed import blocks

KEPT_AT_ONCE = 8192  # kept rows of a cluster that a block is compared with in one product
ROWS_AT_ONCE = 1024  # rows of a cluster in a block
LOOKS = 3  # times that a row is seen at most while centres move


class SemanticSettings(Settings):
    """How clusters are made and what is alike.

    Attributes:
        similarity: cosine from which the worse row of two is left out.
        rows_per_cluster: number of clusters is rows divided by this.
        nearest: clusters that a row is compared in; two rows are missed only if none of them is the same.
        rounds: mini-batches that move the centres, each of `batch` rows; fewer where rows would be seen more than LOOKS times.
        sample: rows compared with all others to measure what clusters miss; 0 for none.
    """

    similarity: float = Field(default=0.82, gt=0, le=1)
    rows_per_cluster: PositiveInt = 512
    nearest: PositiveInt = 2
    rounds: PositiveInt = 20
    batch: PositiveInt = 8192
    sample: int = Field(default=500, ge=0)


@dataclass(frozen=True)
class Duplicates:
    """For every row the row that it is left out for.

    Attributes:
        of: int64 [N], a row number, -1 for a kept row. Where another cluster has a better one for that row too, it is not kept.
        similarity: float32 [N], largest cosine to a better row of its cluster; 0 for the first of a cluster.
        clusters: number of them.
        missed: sampled kept rows, and how many of them have a like among the others that were kept.
    """

    of: np.ndarray
    similarity: np.ndarray
    clusters: int
    missed: dict[str, Any]


def deduplicate(
    vectors: np.ndarray, worth: np.ndarray, settings: SemanticSettings, seed: int, among: np.ndarray | None = None
) -> Duplicates:
    """Leave out rows that are like a better one.

    Args:
        vectors: float16 [M, D], unit length, may be mapped from disk.
        worth: float [M]; of equally worthy rows the earlier is better.
        among: int64 [N], ascending numbers of the rows that are compared; None for all. What comes back counts these from 0.
    """
    view = _View(vectors, np.arange(len(vectors)) if among is None else among)
    worth, rows = worth[view.among], len(view)
    of, similarity = np.full(rows, -1, dtype=np.int64), np.zeros(rows, dtype=np.float32)
    clusters = 0
    for members in _groups(view, settings, seed) if rows else ():
        clusters += 1
        left = members[of[members] < 0]
        left = left[np.lexsort((left, -worth[left]))]
        best, nearest = _greedy(view.rows(left), settings.similarity)
        similarity[left] = np.maximum(similarity[left], nearest)
        alike = nearest >= settings.similarity
        of[left[alike]] = left[best[alike]]
    return Duplicates(of, similarity, clusters, _missed(_View(vectors, view.among[of < 0]), settings, seed))


@dataclass(frozen=True)
class _View:
    """Some rows of the vectors, read from disk when they are asked for."""

    vectors: np.ndarray
    among: np.ndarray

    def __len__(self) -> int:
        return len(self.among)

    def rows(self, which: np.ndarray | slice) -> Tensor:
        """Float32 [rows, D]."""
        return torch.from_numpy(self.vectors[self.among[which]].astype(np.float32))


def _centres(view: _View, settings: SemanticSettings, seed: int) -> Tensor:
    """Centres of spherical k-means by mini-batches (Sculley 2010). Returns float32 [clusters, D], unit length."""
    rng = numpy_stream(seed, "clusters")
    count = max(1, round(len(view) / settings.rows_per_cluster))
    centres = view.rows(np.sort(rng.choice(len(view), count, replace=False)))
    if count == 1:
        return centres
    sizes = torch.zeros(count)
    for _ in range(min(settings.rounds, math.ceil(LOOKS * len(view) / settings.batch))):
        batch = view.rows(np.sort(rng.integers(0, len(view), min(settings.batch, len(view)))))
        nearest = (batch @ centres.T).argmax(1)
        found = torch.bincount(nearest, minlength=count).float()
        starts = torch.cumsum(found, 0).long() - found.long()
        sums = F.embedding_bag(nearest.argsort(), batch, starts, mode="sum")
        sizes += found
        moved = found > 0
        step = (found / sizes.clamp(min=1))[moved, None]
        centres[moved] = F.normalize((1 - step) * centres[moved] + step * sums[moved] / found[moved, None])
    return centres


def _groups(view: _View, settings: SemanticSettings, seed: int) -> Iterator[np.ndarray]:
    """Rows of each cluster, int64: those that have it among their nearest."""
    centres = _centres(view, settings, seed)
    near = min(settings.nearest, len(centres))
    found = [(view.rows(block) @ centres.T).topk(near).indices.numpy().astype(np.int32) for block in blocks(len(view))]
    cluster = np.concatenate(found).ravel()
    order = np.argsort(cluster, kind="stable")
    bounds = np.flatnonzero(np.diff(cluster[order], prepend=-1, append=-1)).tolist()
    for start, end in pairwise(bounds):
        yield order[start:end] // near


def _greedy(rows: Tensor, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """For every row of a cluster, best first, the kept row before it that it is most like.

    Returns its number, int64, and the similarity, float32; a row is kept while that is below `limit`.
    """
    best, nearest = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.float32)
    kept: list[int] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE]
        _compare(block, rows, kept, best[start:], nearest[start:])
        inside = torch.tril(block @ block.T, -1).numpy()
        free = _free(inside, nearest[start : start + len(block)], limit)
        before = np.where(free, inside, 0)
        place = before.argmax(1)
        found = before[np.arange(len(block)), place]
        nearer = np.flatnonzero(found > nearest[start : start + len(block)])
        best[start + nearer], nearest[start + nearer] = start + place[nearer], found[nearer]
        kept += (start + np.flatnonzero(free)).tolist()
    return best, nearest


def _free(inside: np.ndarray, nearest: np.ndarray, limit: float) -> np.ndarray:
    """Which rows of a block are kept: like none of the kept rows of earlier blocks, nor of those before it here.

    Args:
        inside: float32 [rows, rows], similarities to earlier rows of the block, 0 elsewhere.
        nearest: float32 [rows], to kept rows of earlier blocks.
    """
    free, like = nearest < limit, inside >= limit
    for row in np.flatnonzero(free & like.any(1)).tolist():
        free[row] = not (like[row] & free).any()
    return free


def _compare(block: Tensor, rows: Tensor, kept: list[int], best: np.ndarray, nearest: np.ndarray) -> None:
    """Write for each row of the block the kept row most like it into `best` and `nearest`."""
    for start in range(0, len(kept), KEPT_AT_ONCE):
        some = kept[start : start + KEPT_AT_ONCE]
        similarity, place = (part.numpy() for part in (block @ rows[some].T).max(1))
        nearer = np.flatnonzero(similarity > nearest[: len(block)])
        best[nearer], nearest[nearer] = np.asarray(some)[place[nearer]], similarity[nearer]


def _missed(view: _View, settings: SemanticSettings, seed: int) -> dict[str, Any]:
    """Of a sample of kept rows, how many are like another kept row, which comparing all pairs would have found."""
    sample = np.sort(numpy_stream(seed, "missed").choice(len(view), min(settings.sample, len(view)), replace=False))
    alike = np.zeros(len(sample), dtype=bool)
    ours = view.rows(sample)
    for block in blocks(len(view)):
        near = (ours @ view.rows(block).T).numpy() >= settings.similarity
        near &= sample[:, None] != np.arange(block.start, block.stop)[None]
        alike |= near.any(1)
    return {"sampled": len(sample), "missed": int(alike.sum())}
