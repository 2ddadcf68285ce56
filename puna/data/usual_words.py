"""How usual the words of each document are in the corpus, over any number of shards (paper section 3.1.1; the measure itself is
`puna.data.kl`).

Words are counted and added up, every document is compared with the sum, and what divergence is usual at what length is read off
a sample of the documents: three small things that every worker can hold. Each group of the mix and language stands for itself,
for the words of code are no outliers among code (the paper gives code and maths pipelines of their own for that reason).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from puna.core.settings import Settings
from puna.data.columns import GROUPS
from puna.data.engine import load_array, save_array
from puna.data.kl import (
    BUCKETS_LOG2,
    LEAST_SPREAD,
    LIKE_LENGTH,
    MAD_TO_SIGMA,
    Distribution,
    KlLimits,
    add_counts,
    count_words,
    distribution,
)
from puna.data.words import Words
from puna.data.workforce import Workforce

COUNT_FILES = 64  # most files of counted words
SAMPLE = 1 << 20  # documents from which the usual divergence by length is learned
BANDS = 4096  # most bands of length

COUNTED = np.dtype([("bucket", np.int32), ("count", np.int64)])
JUDGED = np.dtype([("kl", np.float32), ("words", np.int32), ("group", np.int8)])

WordsOf = Callable[[str], tuple[Words, list[str], list[str]]]


class Bands(Settings):
    """Usual divergence by length: for each band its greatest length, the median and the scaled median deviation."""

    longest: tuple[int, ...] = ()
    medians: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()

    def deviations(self, kl: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """How far a divergence lies above that of documents of this length (words), in scaled median deviations. float64."""
        if not self.longest:
            return np.full(len(kl), np.nan)
        band = np.minimum(np.searchsorted(self.longest, lengths), len(self.longest) - 1)
        return (kl - np.array(self.medians)[band]) / np.array(self.spreads)[band]


class UsualWords(Settings):
    """What is known of a corpus: `folder` holds the divergence of each shard's documents, `bands` the usual one by group."""

    folder: Path
    bands: dict[str, Bands]

    def columns(self, name: str) -> dict[str, np.ndarray]:
        """`kl` (nats) and `kl_deviations` of the documents of one shard that are left, NaN without words."""
        rows = load_array(_kl_path(self.folder, name))
        found = np.full(len(rows), np.nan)
        for number, group in enumerate(GROUPS):
            among = rows["group"] == number
            found[among] = self.bands[group].deviations(rows["kl"][among], rows["words"][among])
        return {"kl": np.array(rows["kl"]), "kl_deviations": found}


def learn_usual_words(names: Sequence[str], words_of: WordsOf, work: Workforce, min_language_words: int) -> UsualWords:
    """Count, compare, and learn what is usual.

    Args:
        names: of the shards.
        words_of: words, languages and groups of the documents of a shard that take part.
    """
    folder = work.ctx.scratch / "usual-words"
    folder.mkdir(exist_ok=True)
    groups = [group.tolist() for group in np.array_split(np.array(names, dtype=object), min(len(names), COUNT_FILES))]
    numbered = list(enumerate(groups))
    work.map(partial(_count, words_of=words_of, folder=folder), numbered)
    total: dict[str, np.ndarray] = {}
    for number, _ in numbered:
        with np.load(_count_path(folder, number), allow_pickle=False) as counts:
            for kind in counts.files:
                total = add_counts(total, {kind: _dense(counts[kind])})
    if not (folder / "langs.npy").exists():
        _save(folder, distribution(total, KlLimits(min_language_words=min_language_words)))
    documents = sum(work.map(partial(_compare, words_of=words_of, folder=folder), list(names)))
    rows = _sample([_kl_path(folder, name) for name in names], documents)
    return UsualWords(folder=folder, bands={group: usual_by_length(rows[rows["group"] == n]) for n, group in enumerate(GROUPS)})


def usual_by_length(rows: np.ndarray) -> Bands:
    """What divergence is usual at what length; documents of one length are in one band.

    Args:
        rows: structured JUDGED [documents]; those without a divergence (NaN) are left out.
    """
    rows = rows[~np.isnan(rows["kl"])]
    rows = rows[np.argsort(rows["words"], kind="stable")]
    longest, medians, spreads = [], [], []
    start = 0
    for part in np.array_split(np.arange(len(rows)), max(1, min(BANDS, len(rows) // LIKE_LENGTH))):
        end = int(np.searchsorted(rows["words"], rows["words"][part[-1]], side="right")) if len(part) else start
        if end <= start:
            continue
        kl = rows["kl"][start:end].astype(np.float64)
        longest.append(int(rows["words"][end - 1]))
        medians.append(float(np.median(kl)))
        spreads.append(max(MAD_TO_SIGMA * float(np.median(np.abs(kl - medians[-1]))), LEAST_SPREAD))
        start = end
    return Bands(longest=tuple(longest), medians=tuple(medians), spreads=tuple(spreads))


def _count(job: tuple[int, list[str]], *, words_of: WordsOf, folder: Path) -> None:
    """Count the words of a group of shards, one kind of text in full width at a time."""
    number, names = job
    path = _count_path(folder, number)
    if path.exists():
        return
    total: dict[str, np.ndarray] = {}
    for name in names:
        words, langs, groups = words_of(name)
        kinds = _kinds(langs, groups)
        for kind in sorted(set(kinds)):
            counts = count_words(_only(words, np.array([kind == other for other in kinds])), [kind] * kinds.count(kind))[kind]
            if kind in total:
                counts += _dense(total[kind])
            total[kind] = _sparse(counts)
    beside = path.with_suffix(".part")
    with beside.open("wb") as file:
        np.savez(file, **total)  # type: ignore[arg-type]
    beside.replace(path)


def _only(words: Words, among: np.ndarray) -> Words:
    """The words of some of the documents."""
    mine = np.repeat(among, words.counts)
    ends = np.cumsum(words.counts[among])
    return Words(words.hashes[mine], words.lengths[mine], words.flags[mine], words.starts[mine], ends)


def _sparse(counts: np.ndarray) -> np.ndarray:
    buckets = np.flatnonzero(counts)
    rows = np.empty(len(buckets), dtype=COUNTED)
    rows["bucket"], rows["count"] = buckets, counts[buckets]
    return rows


def _dense(rows: np.ndarray) -> np.ndarray:
    counts = np.zeros(1 << BUCKETS_LOG2, dtype=np.int64)
    counts[rows["bucket"]] = rows["count"]
    return counts


def _compare(name: str, *, words_of: WordsOf, folder: Path) -> int:
    path = _kl_path(folder, name)
    if not path.exists():
        words, langs, groups = words_of(name)
        rows = np.empty(len(langs), dtype=JUDGED)
        rows["kl"], rows["words"] = _load(folder).divergence(words, _kinds(langs, groups)), words.counts
        rows["group"] = [GROUPS.index(group) for group in groups]
        save_array(path, rows)
    return len(load_array(path))


def _kinds(langs: list[str], groups: list[str]) -> list[str]:
    return [f"{group} {lang}" for group, lang in zip(groups, langs, strict=True)]


def _sample(paths: list[Path], documents: int) -> np.ndarray:
    """Every k-th document of all, so that no more than `SAMPLE` are held."""
    step, skip, parts = max(1, -(-documents // SAMPLE)), 0, []
    for path in paths:
        rows = load_array(path)
        parts.append(np.array(rows[skip::step]))
        skip = (skip - len(rows)) % step
    return np.concatenate(parts)


def _save(folder: Path, usual: Distribution) -> None:
    save_array(folder / "counts.npy", usual.counts)
    save_array(folder / "langs.npy", np.array(usual.langs))


def _load(folder: Path) -> Distribution:
    langs = np.load(folder / "langs.npy", allow_pickle=False)
    return Distribution(tuple(langs.tolist()), load_array(folder / "counts.npy"))


def _count_path(folder: Path, number: int) -> Path:
    return folder / f"words-{number:03d}.npz"


def _kl_path(folder: Path, name: str) -> Path:
    return folder / f"{Path(name).stem}.kl.npy"
