"""Second part of curation: what only the whole corpus can decide (paper section 3.1.1).

In this order: the newest version of an address, spam and unwanted languages (whose copies should not stand for a good document),
equal texts, near-duplicates, frequent lines among what is left. Each step is one shuffle of small rows by a hash, so no worker
holds more than a partition of it, and no step joins tables: what a document lost to comes back by its number. `duplicates/` has
one row per document: the reason, the document that stands for it, and the numbers of the lines to remove.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from puna.core.settings import Settings as StageSettings
from puna.core.settings import Share, execution
from puna.core.stage import StageContext
from puna.data.columns import Layout, read_layout, read_table, write_table
from puna.data.engine import EngineSettings, load_array
from puna.data.facts import SPAM_COLUMNS, hash_path
from puna.data.language import LLAMA_LANGUAGES
from puna.data.lines import LINE, buckets, frequent, line_counts, lines_by_document, over_the_limit
from puna.data.minhash import MinHashSettings, jaccard
from puna.data.near_duplicates import ShingleSets, bands, find_near_duplicates
from puna.data.rules import CODE, language_reasons, mark, reason_column, spam_reasons
from puna.data.spam import SpamLimits
from puna.data.versions import VERSION, drops_between, newest_of_each, versions
from puna.data.workforce import Workforce

KIND = "duplicates"
REVISION = 2
CORES = 2

Job = tuple[str, int, int, int]  # name of a shard, its first and last+1 document, its bucket of lines
Steps = dict[str, Path]  # folders of DROP rows by reason, as far as they are known
BY_KEY = {"url_duplicate": "url_key", "exact_duplicate": "text_key"}
LARGEST_CLUSTERS = 1000  # listed in clusters.parquet


class Settings(StageSettings):
    """What is a duplicate, and what never stands for another document; `data.curate` fills these in.

    Attributes:
        languages, language_p: documents surely in another language drop out first.
        line_limit: a line in more documents of a bucket than this is removed; 0 switches it off.
    """

    languages: tuple[str, ...] = LLAMA_LANGUAGES
    language_p: Share = 0.65
    spam: SpamLimits = SpamLimits()
    minhash: MinHashSettings = MinHashSettings()
    line_limit: NonNegativeInt = 6
    engine: EngineSettings = execution(EngineSettings())
    workers: PositiveInt = execution(2)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `duplicates/` and `clusters.parquet`."""
    facts = ctx.inputs.one("facts").path
    layout = read_layout(facts)
    work = Workforce(settings.engine, settings.workers, ctx, phases=11)
    jobs = jobs_of(layout)
    steps: Steps = {}
    for reason, column in BY_KEY.items():
        partitions = work.partitions(layout.documents, VERSION.itemsize)
        steps[reason] = ctx.scratch / f"{reason}-{partitions}"
        rows = partial(version_rows, column=column, facts=facts, steps=_known(steps, reason), settings=settings)
        work.shuffle(rows, jobs, newest_of_each, out=steps[reason], partitions=partitions)
    rows = partial(band_rows, facts=facts, steps=dict(steps), settings=settings)
    steps["near_duplicate"] = find_near_duplicates(rows, jobs, work, facts, settings.minhash)
    lines = _frequent_lines(work, jobs, facts, steps, settings)
    (ctx.scratch / "duplicates").mkdir(exist_ok=True)
    work.map(partial(write_shard, facts=facts, steps=steps, lines=lines, out=ctx.scratch / "duplicates", settings=settings), jobs)
    work.keep("duplicates")
    clusters = {reason: _clusters(folder) for reason, folder in steps.items()}
    _write_clusters(ctx.out / "clusters.parquet", clusters, facts)
    return {
        "pages": layout.documents,
        "clusters": {reason: found.summary() for reason, found in clusters.items()},
        "frequent_lines": sum(len(load_array(path)) for path in lines),
    }


def jobs_of(layout: Layout) -> list[Job]:
    """One job per shard."""
    starts = layout.starts.tolist()
    return list(zip(layout.names, starts[:-1], starts[1:], buckets(layout.starts).tolist(), strict=True))


def _known(steps: Steps, reason: str) -> Steps:
    return {name: path for name, path in steps.items() if name != reason}


def reasons_so_far(job: Job, facts: Path, steps: Steps, settings: Settings) -> np.ndarray:
    """The reason of every document of a shard from the steps that are known.

    Returns: int8 [documents], codes of `puna.data.rules.REASONS`.
    """
    name, start, end, _ = job
    columns = ["blocked", "text_key", "lang", "lang_p", *SPAM_COLUMNS]
    table = read_table(facts / "facts" / name, columns)
    codes = np.zeros(end - start, dtype=np.int8)
    mark(codes, table["blocked"].to_numpy(), "blocked")
    mark(codes, table["text_key"].to_numpy() == 0, "empty")
    for reason, folder in steps.items():
        gone = np.zeros(end - start, dtype=bool)
        gone[drops_between(folder, start, end)["document"] - start] = True
        mark(codes, gone, reason)
        if reason == "url_duplicate":
            codes = np.where(codes == 0, spam_reasons(table, settings.spam), codes)
            mark(codes, language_reasons(table, settings.languages, settings.language_p), "language")
    return codes


def version_rows(job: Job, *, column: str, facts: Path, steps: Steps, settings: Settings) -> np.ndarray:
    """Rows of one shard for the shuffle by address or text."""
    name, start, _, _ = job
    left = np.flatnonzero(reasons_so_far(job, facts, steps, settings) == 0)
    table = read_table(facts / "facts" / name, [column, "date_key"])
    return versions(table[column].to_numpy()[left], table["date_key"].to_numpy()[left], start + left)


def band_rows(job: Job, *, facts: Path, steps: Steps, settings: Settings) -> np.ndarray:
    """Rows of one shard for the shuffle by band; documents of too few shingles take no part."""
    name, start, _, _ = job
    counts = np.diff(np.load(hash_path(facts, name, "shingle_ends"), allow_pickle=False), prepend=0)
    left = np.flatnonzero((reasons_so_far(job, facts, steps, settings) == 0) & (counts >= settings.minhash.min_shingles))
    dates = read_table(facts / "facts" / name, ["date_key"])["date_key"].to_numpy()
    marks = np.array(load_array(hash_path(facts, name, "signatures"))[left])
    return bands(marks, dates[left], start + left, settings.minhash)


def line_rows(job: Job, *, facts: Path, steps: Steps, settings: Settings) -> np.ndarray:
    """Rows of one shard for the count of lines, of the documents that are left."""
    name, _, _, bucket = job
    keys, ends = (np.load(hash_path(facts, name, kind), allow_pickle=False) for kind in ("lines", "line_ends"))
    return line_counts(keys, ends, reasons_so_far(job, facts, steps, settings) == 0, bucket)


def _frequent_lines(work: Workforce, jobs: list[Job], facts: Path, steps: Steps, settings: Settings) -> list[Path]:
    if not settings.line_limit:
        return []
    lines = sum(len(load_array(hash_path(facts, job[0], "lines"))) for job in jobs)
    partitions = work.partitions(lines, LINE.itemsize)
    return work.shuffle(
        partial(line_rows, facts=facts, steps=steps, settings=settings),
        jobs,
        partial(over_the_limit, limit=settings.line_limit),
        out=work.ctx.scratch / f"lines-{partitions}",
        partitions=partitions,
    )


def write_shard(job: Job, *, facts: Path, steps: Steps, lines: list[Path], out: Path, settings: Settings) -> None:
    """Write the row of every document of one shard: id, reason, duplicate_of, similarity, lines."""
    import pyarrow as pa

    name, start, _, bucket = job
    if (out / name).exists():
        return
    codes = reasons_so_far(job, facts, steps, settings)
    keys, ends = (np.load(hash_path(facts, name, kind), allow_pickle=False) for kind in ("lines", "line_ends"))
    hit = frequent(keys, bucket, lines) if lines else np.zeros(len(keys), dtype=bool)
    hit &= np.repeat(codes == 0, np.diff(ends, prepend=0))
    numbers, offsets = lines_by_document(hit, ends)
    heads = np.full(len(codes), -1, dtype=np.int64)
    for reason, folder in steps.items():
        drops = drops_between(folder, start, start + len(codes))
        mine = codes[drops["document"] - start] == CODE[reason]
        heads[drops["document"][mine] - start] = drops["of"][mine]
    table = pa.table(
        {
            "id": read_table(facts / "facts" / name, ["id"])["id"],
            "reason": reason_column(codes),
            "duplicate_of": pa.array(ids_of(heads, facts), pa.string()),
            "similarity": pa.array(_similarities(heads, codes, start, facts), from_pandas=True),
            "lines": pa.ListArray.from_arrays(pa.array(offsets), pa.array(numbers)),
        }
    )
    write_table(out / name, table)


def ids_of(documents: np.ndarray, facts: Path) -> list[str | None]:
    """Ids of documents by number; None for a negative number."""
    layout = read_layout(facts)
    shards = np.searchsorted(layout.starts, documents, side="right") - 1
    found: list[str | None] = [None] * len(documents)
    for shard in np.unique(shards[documents >= 0]).tolist():
        ids = read_table(facts / "facts" / layout.names[shard], ["id"])["id"]
        places = np.flatnonzero((shards == shard) & (documents >= 0))
        taken = ids.take(documents[places] - layout.starts[shard]).to_pylist()
        for place, name in zip(places.tolist(), taken, strict=True):
            found[place] = name
    return found


def _similarities(heads: np.ndarray, codes: np.ndarray, start: int, facts: Path) -> np.ndarray:
    """Exact Jaccard similarity of each near-duplicate to the document that stands for it. Returns float64, NaN for others."""
    shingles = ShingleSets(facts)
    found = np.full(len(heads), np.nan)
    for row in np.flatnonzero(codes == CODE["near_duplicate"]).tolist():
        found[row] = jaccard(shingles[start + row], shingles[int(heads[row])])
    return found


@dataclass
class Clusters:
    """Documents that stand for others: the largest clusters with their sizes, and how many clusters there are of each size."""

    heads: np.ndarray
    sizes: np.ndarray
    by_size: Counter[int]

    def summary(self) -> dict[str, Any]:
        """Number of clusters, dropped documents, and clusters by size."""
        return {
            "clusters": self.by_size.total(),
            "dropped": sum((size - 1) * number for size, number in self.by_size.items()),
            "by_size": {str(size): number for size, number in sorted(self.by_size.items())},
        }


def _clusters(folder: Path) -> Clusters:
    """The clusters of one step, a partition at a time: a cluster lies whole in one."""
    heads, sizes, by_size = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), Counter[int]()
    for path in sorted(folder.glob("*.npy")):
        of, dropped = np.unique(load_array(path)["of"], return_counts=True)
        by_size.update((dropped + 1).tolist())
        heads, sizes = np.concatenate([heads, of]), np.concatenate([sizes, dropped + 1])
        order = np.lexsort((heads, -sizes))[:LARGEST_CLUSTERS]
        heads, sizes = heads[order], sizes[order]
    return Clusters(heads, sizes, by_size)


def _write_clusters(path: Path, clusters: dict[str, Clusters], facts: Path) -> None:
    import pyarrow as pa

    parts = []
    for reason, found in clusters.items():
        heads, sizes = found.heads, found.sizes
        kinds = pa.array([reason] * len(heads), pa.string())
        parts.append(pa.table({"kind": kinds, "head": pa.array(ids_of(heads, facts), pa.string()), "size": pa.array(sizes)}))
    write_table(path, pa.concat_tables(parts))
