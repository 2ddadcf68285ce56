"""The two verbs of data work, `map_shards` and `shuffle`, and the settings that choose where they run.

Curation is nine tenths one function per shard and one tenth grouping by a key (address, text, band of a signature, line). The
first is `map_shards`; the second is `shuffle`: every shard leaves its rows ordered by partition in one file, then one task per
partition reads its slice of all files. Both verbs are the same code on every back end, so their bytes are equal:

    serial      in this process                        processes   spawned workers of this machine (the default)
    ray         tasks of a Ray cluster                 slurm       one array job

A function given here is pure, takes one shard and writes its output by rename; an output that exists is not made again, which is
how a killed run goes on. How many partitions a shuffle has decides memory, never the result.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from puna.core.settings import Settings
from puna.data.engines import processes, ray_tasks, slurm
from puna.data.engines.serial import map_serial

Shard = TypeVar("Shard")
Result = TypeVar("Result")
Done = Callable[[int], None]

MIX = np.uint64(0xBF58476D1CE4E5B9)  # of splitmix64: keys need not be well spread themselves
PARTITION_BYTES = 64 << 20  # rows one reduce task holds; sorting takes three times as much


class EngineSettings(Settings):
    """Where shards are worked on; `engine: ray` is short for `engine: {name: ray}`. Never part of an identity.

    Attributes:
        address: of a running Ray cluster; None starts one on this machine's loopback for the time of the stage.
        memory_mb: what a task asks of Ray or Slurm; None asks for nothing.
        retries: of a Ray task whose worker died.
        sbatch: options of the array job, for instance `--partition=cpu`.
        array_tasks: most tasks of an array job (Slurm's own default limit is 1001); shards beyond that share tasks.
        partition_mb: rows that one reduce task holds in memory.
    """

    name: Literal["serial", "processes", "ray", "slurm"] = "processes"
    address: str | None = None
    memory_mb: PositiveInt | None = None
    retries: NonNegativeInt = 3
    sbatch: tuple[str, ...] = ()
    array_tasks: int = Field(default=1000, ge=1)
    partition_mb: int = Field(default=PARTITION_BYTES >> 20, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


def map_shards(
    function: Callable[[Shard], Result],
    shards: Sequence[Shard],
    *,
    engine: EngineSettings | None = None,
    workers: int = 1,
    done: Done | None = None,
    scratch: Path | None = None,
) -> list[Result]:
    """Apply `function` to every shard and return the results in the order of `shards`.

    Args:
        function: a module's function or a partial of one; small results, large ones go to files.
        workers: processes, tasks at a time, or array tasks at a time; with 1 everything runs in this process (but on Slurm).
        done: called with the number of finished shards after each; what it raises ends the work.
        scratch: a folder all workers see, for the job files of `slurm`.

    Raises:
        RunError: a worker died (usually killed for memory). InputError: the back end is not there.
    """
    engine = engine or EngineSettings()
    if engine.name == "slurm" and shards:
        return slurm.map_array(function, shards, engine=engine, workers=workers, done=done, scratch=scratch)
    if engine.name == "serial" or min(workers, len(shards)) <= 1:
        return map_serial(function, shards, done)
    if engine.name == "ray":
        return ray_tasks.map_tasks(function, shards, engine=engine, workers=workers, done=done)
    return processes.map_processes(function, shards, workers, done)


def shuffle(
    rows_of: Callable[[Shard], np.ndarray],
    shards: Sequence[Shard],
    reduce: Callable[[np.ndarray], np.ndarray],
    *,
    out: Path,
    partitions: int,
    engine: EngineSettings | None = None,
    workers: int = 1,
    done: Done | None = None,
    scratch: Path | None = None,
) -> list[Path]:
    """Bring rows of equal key together and reduce each partition of keys.

    Args:
        rows_of: gives the rows of one shard, a structured array with a field `key` (uint64).
        reduce: from the rows of one partition, in the order of the shards, to the structured array that is kept.
        out: folder that takes `00000.npy`, `00001.npy`, ... (one per partition); files that are there are not made again.
        partitions: see `partition_count`.
        done: called with the number of finished tasks, of `len(shards) + partitions`.

    Returns:
        The files, by partition.
    """
    files = [out / f"{number:05d}.npy" for number in range(partitions)]
    given, parts = list(enumerate(shards)), out / "rows"
    if all(file.exists() for file in files):
        shutil.rmtree(parts, ignore_errors=True)  # left by a stop between the last partition and the end
        return files
    parts.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {"engine": engine, "workers": workers, "scratch": scratch}
    map_shards(partial(_scatter, rows_of=rows_of, parts=parts, partitions=partitions), given, done=done, **how)
    names = [_part(parts, index) for index, _ in given]
    after = None if done is None else _after(done, len(given))
    map_shards(partial(_gather, reduce=reduce, names=names, out=out), range(partitions), done=after, **how)
    for name in names:
        name.unlink(missing_ok=True)
        _ends(name).unlink(missing_ok=True)
    parts.rmdir()
    return files


def partition_count(rows: int, row_bytes: int, engine: EngineSettings) -> int:
    """Partitions of a shuffle of so many rows, so that one fits the memory of a reduce task."""
    return max(1, -(-rows * row_bytes // (engine.partition_mb << 20)))


def partition_of(keys: np.ndarray, partitions: int) -> np.ndarray:
    """The partition each key belongs to. uint64 [rows] to int64 [rows]."""
    mixed = (keys ^ (keys >> np.uint64(30))) * MIX
    return ((mixed >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write one `.npy` by rename."""
    partial_path = path.with_name(path.name + ".part")
    with partial_path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    partial_path.replace(path)


def load_array(path: Path) -> np.ndarray:
    """One `.npy`, mapped into memory and not read (an empty array cannot be mapped and is read)."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        return np.load(path, allow_pickle=False)


def _part(parts: Path, index: int) -> Path:
    return parts / f"{index:06d}.npy"


def _ends(part: Path) -> Path:
    return part.with_suffix(".ends.npy")


def _after(done: Done, before: int) -> Done:
    return lambda count: done(before + count)


def _scatter(job: tuple[int, Any], *, rows_of: Callable[[Any], np.ndarray], parts: Path, partitions: int) -> None:
    """Write the rows of one shard in the order of their partitions, and where each partition ends."""
    index, shard = job
    path = _part(parts, index)
    if path.exists():
        return
    rows = rows_of(shard)
    places = partition_of(rows["key"], partitions)
    save_array(_ends(path), np.cumsum(np.bincount(places, minlength=partitions)))
    save_array(path, rows[np.argsort(places, kind="stable")] if partitions > 1 else rows)


def _gather(partition: int, *, reduce: Callable[[np.ndarray], np.ndarray], names: list[Path], out: Path) -> None:
    path = out / f"{partition:05d}.npy"
    if path.exists():
        return
    slices = []
    for name in names:
        ends = np.load(_ends(name), allow_pickle=False)
        start = int(ends[partition - 1]) if partition else 0
        slices.append(np.array(load_array(name)[start : int(ends[partition])]))
    save_array(path, reduce(np.concatenate(slices)))
