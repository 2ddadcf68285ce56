"""Bounded, array-based duplicate detection against slow and plain definitions, whatever the number of partitions."""

from __future__ import annotations

import itertools
import random
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_duplicates import bucket_pairs, clusters, frequent_lines, greedy_clusters, older_versions

from puna.core.stage import local_context
from puna.data.columns import Layout, write_layout
from puna.data.engine import EngineSettings, save_array, shuffle
from puna.data.facts import date_keys
from puna.data.lines import buckets, frequent, line_counts, lines_by_document, over_the_limit
from puna.data.minhash import MinHashSettings, signatures
from puna.data.near_duplicates import MAX_HEADS, bands, cluster_drops, components, find_near_duplicates
from puna.data.versions import drops_between, newest_of_each, versions
from puna.data.words import scan
from puna.data.workforce import Workforce

SETTINGS = MinHashSettings()
SHARD = 40  # documents


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), max_size=60), st.integers(1, 4))
def test_the_newest_version_stays(tmp_path_factory, rows, partitions):
    keys, dates, among = (np.array([row[part] for row in rows], dtype=np.int64) for part in range(3))
    among = among.astype(bool)
    out = tmp_path_factory.mktemp("versions")
    half = len(rows) // 2
    parts = [np.flatnonzero(among[:half]), half + np.flatnonzero(among[half:])]
    shuffle(
        lambda part: versions(keys[part].astype(np.uint64), dates[part], part),
        parts,
        newest_of_each,
        out=out,
        partitions=partitions,
    )
    drops = [drops_between(out, start, end) for start, end in ((0, half), (half, len(rows)))]
    found = {int(document): int(of) for part in drops for document, of in part.tolist()}
    assert found == older_versions(keys.tolist(), dates.tolist(), among)


def test_dates_sort_as_their_texts_do():
    dates = ["", "2019", "2019-03", "2019-03-01", "2019-03-01T10:00:00Z", "2019-03-01T10:00:01.5Z", "2020-01-01", "20200102"]
    keys = date_keys(pa.array(dates)).to_pylist()
    assert keys == sorted(keys) and keys[0] == 0 and keys[1] == 20190000000000 and keys[4] == 20190301100000


def edited(words: list[str], edits: int, rng: random.Random) -> list[str]:
    copy = list(words)
    for _ in range(edits):
        copy[rng.randrange(len(copy))] = f"new{rng.randrange(10**6)}"
    return copy


def corpus(seed: int, families: int = 40, clean: int = 60) -> list[str]:
    """Families of one text and its edits (of edits), among texts of their own, in random order."""
    rng = random.Random(seed)
    vocabulary = [f"word{i}" for i in range(300)]
    texts = [rng.choices(vocabulary, k=rng.randint(60, 300)) for _ in range(clean)]
    for _ in range(families):
        family = [rng.choices(vocabulary, k=rng.randint(80, 300))]
        for _ in range(rng.choice((1, 1, 1, 2, 4, 12))):
            base = rng.choice(family)
            family.append(edited(base, rng.randint(0, len(base) // 25), rng))
        texts += family
    texts += [["too", "short", "to", "judge"]] * 3
    rng.shuffle(texts)
    return [" ".join(words) for words in texts]


def facts_of(folder: Path, texts: list[str]) -> tuple[np.ndarray, list[set]]:
    """Write what near-duplicate detection reads of a facts artifact; returns signatures and shingle sets."""
    marks, shingles, ends = signatures(scan(pa.array(texts)), SETTINGS)
    (folder / "hashes").mkdir(parents=True)
    starts = [*range(0, len(texts), SHARD), len(texts)]
    names = tuple(f"{number:05d}.parquet" for number in range(len(starts) - 1))
    write_layout(folder, Layout(names, np.array(starts)))
    begins = np.concatenate([[0], ends])
    for name, first, last in zip(names, starts, starts[1:], strict=False):
        stem = Path(name).stem
        save_array(folder / "hashes" / f"{stem}.shingles.npy", shingles[begins[first] : begins[last]])
        save_array(folder / "hashes" / f"{stem}.shingle_ends.npy", begins[first + 1 : last + 1] - begins[first])
    return marks, [set(shingles[begins[i] : begins[i + 1]].tolist()) for i in range(len(texts))]


def rows_of(job: range, *, marks: np.ndarray, usable: np.ndarray, dates: np.ndarray) -> np.ndarray:
    documents = np.array([index for index in job if usable[index]], dtype=np.int64)
    return bands(marks[documents], dates[documents], documents, SETTINGS)


def near(folder: Path, marks: np.ndarray, sets: list[set], dates: np.ndarray, partition_mb: float) -> dict[int, int]:
    usable = np.array([len(shingles) >= SETTINGS.min_shingles for shingles in sets])
    work = Workforce(EngineSettings(name="serial"), 1, local_context(folder / "work"), phases=4)
    work.partitions = lambda rows, row_bytes: max(1, int(rows * row_bytes / partition_mb / 2**20))  # type: ignore[method-assign]
    jobs = [range(start, min(start + SHARD, len(sets))) for start in range(0, len(sets), SHARD)]
    job = partial(rows_of, marks=marks, usable=usable, dates=dates)
    drops = drops_between(find_near_duplicates(job, jobs, work, folder / "facts", SETTINGS), 0, len(sets))
    assert (np.diff(drops["document"]) > 0).all()
    return dict(drops.tolist())


@pytest.mark.parametrize("seed", range(4))
def test_near_duplicates_are_those_of_the_plain_definition(tmp_path, seed):
    texts = corpus(seed)
    marks, sets = facts_of(tmp_path / "facts", texts)
    dates = np.random.default_rng(seed).integers(0, 3, len(texts))
    usable = [index for index, shingles in enumerate(sets) if len(shingles) >= SETTINGS.min_shingles]
    pairs = bucket_pairs(marks, usable, SETTINGS.bands, SETTINGS.rows, MAX_HEADS)
    labels = clusters(sets, pairs, SETTINGS.threshold)
    expected = older_versions(labels, dates.tolist(), np.ones(len(texts), dtype=bool))
    found = near(tmp_path, marks, sets, dates, partition_mb=64)
    assert found == expected and len(found) > 40
    (tmp_path / "work.scratch").rename(tmp_path / "before")
    assert near(tmp_path, marks, sets, dates, partition_mb=0.002) == expected  # some fifty partitions
    before = greedy_clusters(marks, sets, SETTINGS.bands, SETTINGS.rows, SETTINGS.threshold)
    joined = [index for index in usable if labels[index] != labels[before[index]]]
    assert not joined  # what the sequential way joined is joined
    assert 0 <= len(set(before)) - len(set(labels)) <= 3  # and a pair that it passed over


def test_recall_and_precision_of_pairs(tmp_path):
    rng = random.Random(2)
    vocabulary = [f"word{i}" for i in range(300)]
    texts = []
    for _ in range(500):
        words = rng.choices(vocabulary, k=rng.randint(80, 400))
        texts += [words, edited(words, rng.randint(0, len(words) // 12), rng)]
    marks, sets = facts_of(tmp_path / "facts", [" ".join(words) for words in texts])
    found = near(tmp_path, marks, sets, np.zeros(len(texts), dtype=np.int64), partition_mb=64)
    exact = [len(sets[i] & sets[i + 1]) / len(sets[i] | sets[i + 1]) for i in range(0, len(texts), 2)]
    similar = [2 * pair for pair, similarity in enumerate(exact) if similarity >= 0.85]
    assert len(similar) > 50
    assert np.mean([found.get(index + 1) == index for index in similar]) >= 0.95
    assert all(of + 1 == document and exact[of // 2] >= SETTINGS.threshold for document, of in found.items())


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 25).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))
    )
)
def test_components(graph):
    count, edges = graph
    expected = clusters([{0}] * count, set(edges), 1.0)
    first, second = (np.array([edge[part] for edge in edges], dtype=np.int64) for part in range(2))
    assert components(first, second, count).tolist() == expected


def test_components_of_a_long_chain():
    count = 3000
    order = np.random.default_rng(0).permutation(count)
    assert (components(order[:-1], order[1:], count) == 0).all()


def test_no_edges_drop_nothing():
    from puna.data.near_duplicates import PAIR

    assert len(cluster_drops(np.zeros(0, dtype=PAIR))) == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 6), max_size=8), min_size=2, max_size=30),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_frequent_lines_are_those_of_the_plain_count(tmp_path_factory, documents, limit, partitions, two_buckets):
    half = len(documents) // 2
    bucket = [0] * half + [int(two_buckets)] * (len(documents) - half)
    out = tmp_path_factory.mktemp("lines")

    def rows(part: range) -> np.ndarray:
        keys, ends = flat([documents[index] for index in part])
        return line_counts(keys, ends, np.ones(len(part), dtype=bool), bucket[part[0]])

    jobs = [range(0, half), range(half, len(documents))]
    files = shuffle(rows, jobs, partial(over_the_limit, limit=limit), out=out, partitions=partitions)
    for part in jobs:
        among = [documents[index] for index in range(len(documents)) if bucket[index] == bucket[part[0]]]
        expected = frequent_lines(among, limit)
        keys, ends = flat([documents[index] for index in part])
        hit = frequent(keys, bucket[part[0]], files)
        assert hit.tolist() == [key in expected for key in keys.tolist()]
        numbers, offsets = lines_by_document(hit, ends)
        shown = [numbers[start:end].tolist() for start, end in itertools.pairwise(offsets)]
        assert shown == [[place for place, key in enumerate(documents[index]) if key in expected] for index in part]


def flat(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.array([key for lines in documents for key in lines], dtype=np.uint64)
    return keys, np.cumsum([len(lines) for lines in documents])


def test_documents_that_do_not_take_part_count_for_nothing():
    keys, ends = flat([[5, 5, 7], [5], [5, 0]])
    rows = line_counts(keys, ends, np.array([True, False, True]), 3)
    assert rows.tolist() == [(5, 3, 2), (7, 3, 1)]


def test_buckets_take_whole_shards():
    starts = np.array([0, 10, 20, 30, 31, 60])
    assert buckets(starts, 25).tolist() == [0, 0, 1, 1, 2]
    assert buckets(starts).tolist() == [0] * 5
