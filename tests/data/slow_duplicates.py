"""What duplicates are, slowly and plainly: the reference for `puna.data.versions`, `near_duplicates` and `lines`."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np


def older_versions(keys: list, dates: list, among: np.ndarray) -> dict[int, int]:
    """Documents that share a key with a newer one (an earlier one, where dates are equal), and the one that stays."""
    best: dict = {}
    for index in np.flatnonzero(among).tolist():
        held = best.setdefault(keys[index], index)
        if dates[index] > dates[held]:
            best[keys[index]] = index
    return {index: best[keys[index]] for index in np.flatnonzero(among).tolist() if best[keys[index]] != index}


def clusters(sets: list[set], pairs: set[tuple[int, int]], threshold: float) -> list[int]:
    """Smallest member of each document's cluster, where pairs of enough similarity are connected."""
    label = list(range(len(sets)))
    for first, second in sorted(pairs):
        union = len(sets[first] | sets[second])
        if union and len(sets[first] & sets[second]) / union >= threshold:
            one, other = sorted((label[first], label[second]))
            label = [one if mark == other else mark for mark in label]
    return label


def bucket_pairs(signatures: np.ndarray, usable: list[int], bands: int, rows: int, heads: int) -> set[tuple[int, int]]:
    """Pairs that share a band, each document with the first `heads` of a bucket and with the one before it."""
    found: set[tuple[int, int]] = set()
    for band in range(bands):
        buckets: dict[tuple, list[int]] = {}
        for index in usable:
            buckets.setdefault(tuple(signatures[index, band * rows : (band + 1) * rows].tolist()), []).append(index)
        for members in buckets.values():
            found |= {pair for pair in itertools.combinations(members, 2) if pair[0] in members[:heads]}
            found |= set(itertools.pairwise(members))
    return found


def greedy_clusters(signatures: np.ndarray, sets: list[set], bands: int, rows: int, threshold: float) -> list[int]:
    """The sequential way of before: each document of a bucket joins the first head it is similar to, band after band."""
    label, refused = list(range(len(sets))), set()
    for band in range(bands):
        buckets: dict[tuple, list[int]] = {}
        for index in range(len(sets)):
            buckets.setdefault(tuple(signatures[index, band * rows : (band + 1) * rows].tolist()), []).append(index)
        for members in buckets.values():
            heads: list[int] = []
            for index in members:
                for head in heads:
                    if label[index] == label[head]:
                        break
                    if (head, index) in refused:
                        continue
                    if len(sets[head] & sets[index]) / max(len(sets[head] | sets[index]), 1) >= threshold:
                        one, other = sorted((label[index], label[head]))
                        label = [one if mark == other else mark for mark in label]
                        break
                    refused.add((head, index))
                else:
                    if len(heads) < 8:
                        heads.append(index)
    return label


def frequent_lines(documents: list[list[int]], limit: int) -> set[int]:
    """Lines that stand in more than `limit` documents; 0 is no line."""
    counts = Counter(key for lines in documents for key in set(lines) if key)
    return {key for key, count in counts.items() if count > limit}
