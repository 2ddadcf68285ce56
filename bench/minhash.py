"""How good MinHash is: estimated against exact Jaccard, and the pairs found against all pairs there are.

    python bench/minhash.py [--quick] [--check] [--pages FOLDER ...] [--count N]

Two sets: `planted`, documents and edited copies with similarities from 0.3 to 1, and `real`, texts of HTML pages found on this
machine (or in the given folders, for instance those of bench/curate_vs_datatrove.py --fetch), whose near-duplicates nobody
planted. Truth is the exact Jaccard similarity of shingle sets, of every pair that could reach 0.8: a prefix filter (Bayardo
et al. 2007) leaves out only pairs that cannot. `error` is the mean absolute error of the estimate over candidate pairs of
similarity above 0.3, beside the bound 1 / sqrt(permutations); `recall` counts pairs above 0.85 that end in one cluster;
`precision` counts the joined pairs that were planted, or, where nothing was planted, that have the threshold's similarity exactly
(which holds by construction: candidates are verified).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Set as AbstractSet
from itertools import combinations
from pathlib import Path

import numpy as np
from curate_vs_datatrove import FOUND_HERE, pages_of

from puna.data.extract import extract
from puna.data.minhash import MinHashSettings, signatures
from puna.data.near_duplicates import bands, candidate_pairs
from puna.data.words import scan

ALIKE, LEAST, COUNTED = 0.85, 0.8, 0.3
GOAL = 0.95


def planted(count: int) -> list[str]:
    """Documents 2i and 2i + 1 are alike."""
    draw = random.Random(1)
    words = [f"word{number}" for number in range(3000)]
    texts = []
    for _ in range(count // 2):
        text = draw.choices(words, k=draw.randint(80, 400))
        copy = list(text)
        for _ in range(draw.randint(0, len(text) // 10)):
            copy[draw.randrange(len(copy))] = draw.choice(words)
        texts += [" ".join(text), " ".join(copy)]
    return texts


def real(folders: list[Path], count: int) -> list[str]:
    """The texts of pages, as many from each folder as there are."""
    pools = [pages_of(folder) for folder in folders if folder.is_dir()]
    pools = [pool for pool in pools if pool]
    share = max(1, count // max(1, len(pools)))
    paths = [path for pool in pools for path in pool[:share]]
    return [text for path in paths if len(text := extract(path.read_bytes(), "html", "").text) > 200]


def exact_pairs(sets: list[np.ndarray], least: float) -> dict[tuple[int, int], float]:
    """Jaccard similarity of every pair of sets that has at least `least`."""
    often = Counter(value for each in sets for value in each.tolist())
    holders: dict[int, list[int]] = defaultdict(list)
    for index, each in enumerate(sets):
        rare = sorted(each.tolist(), key=lambda value: (often[value], value))
        for value in rare[: len(rare) - math.ceil(least * len(rare)) + 1]:
            holders[value].append(index)
    pairs = {pair for group in holders.values() for pair in combinations(group, 2)}
    found = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for pair in sorted(pairs)}
    return {pair: value for pair, value in found.items() if value >= least}


def jaccard(one: np.ndarray, two: np.ndarray) -> float:
    """Of two sorted sets."""
    shared = len(np.intersect1d(one, two, assume_unique=True))
    return shared / max(len(one) + len(two) - shared, 1)


def measure(texts: list[str], settings: MinHashSettings, truth: AbstractSet[tuple[int, int]] = frozenset()) -> dict[str, float]:
    """Error of the estimate, recall and precision of the pairs, over some texts; `truth` are the planted pairs, if any were."""
    start = time.process_time()
    marks, shingles, ends = signatures(scan(texts), settings)
    sets = np.split(shingles, ends[:-1])
    usable = np.flatnonzero(np.array([len(each) for each in sets]) >= settings.min_shingles)
    rows = candidate_pairs(bands(marks[usable], np.zeros(len(usable), dtype=np.int64), usable, settings))
    candidates = list(zip(rows["first"].tolist(), rows["second"].tolist(), strict=True))
    similar = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for pair in candidates}
    joined = [pair for pair in candidates if similar[pair] >= settings.threshold]
    seconds = time.process_time() - start
    labels = components(len(texts), joined)
    exact = exact_pairs([sets[i] for i in usable], LEAST)
    alike = [(int(usable[a]), int(usable[b])) for (a, b), value in exact.items() if value > ALIKE]
    together = [labels[a] == labels[b] for a, b in alike]
    compared = [pair for pair, value in similar.items() if value > COUNTED]
    right = [pair in truth if truth else similar[pair] >= settings.threshold for pair in joined]
    errors = [abs(float((marks[a] == marks[b]).mean()) - similar[a, b]) for a, b in compared]
    return {
        "documents": len(texts),
        "pairs_above_0.85": len(alike),
        "recall": float(np.mean(together)) if alike else float("nan"),
        "precision": float(np.mean(right)) if joined else float("nan"),
        "joined": len(joined),
        "error": float(np.mean(errors)),
        "bound": 1 / math.sqrt(settings.bands * settings.rows),
        "cpu_s": seconds,
    }


def components(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """The smallest member of the cluster of every document."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, second in edges:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return [root(index) for index in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--pages", type=Path, nargs="*", default=[])
    parser.add_argument("--count", type=int, default=0)
    args = parser.parse_args()
    count = args.count or (400 if args.quick else 4000)
    folders = args.pages or [Path(folder) for folder in FOUND_HERE]
    settings = MinHashSettings()
    found = {"planted": measure(planted(count), settings, {(index, index + 1) for index in range(0, count, 2)})}
    texts = real(folders, count)
    if len(texts) >= 100:
        found["real"] = measure(texts, settings)
    else:
        print(f"real: only {len(texts)} pages were found: left out; give folders of HTML by --pages")
    for name, row in found.items():
        print(
            f"{name:<8} {row['documents']} documents, {row['pairs_above_0.85']} pairs above {ALIKE}: recall {row['recall']:.3f}, "
            f"precision {row['precision']:.3f} of {row['joined']}, error {row['error']:.4f} (bound {row['bound']:.4f})"
        )
    print(json.dumps({"bench": "minhash", "sets": found}))
    missed = [
        f"{name} {key}"
        for name, row in found.items()
        for key, fine in (
            ("recall", row["recall"] >= GOAL),
            ("precision", row["precision"] >= GOAL),
            ("error", row["error"] < row["bound"]),
        )
        if not fine
    ]
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
