"""The verb `map_shards`: one function over a list of shards, on one process or several, with results in the order of the
shards.

A function given here is a pure function of its shard and writes its output by rename, so that every back end leaves the same
bytes and a killed run goes on from the shards that exist. Ray and Slurm back ends take the same functions.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from puna.core.errors import RunError

Shard = TypeVar("Shard")
Result = TypeVar("Result")


def map_shards(
    function: Callable[[Shard], Result], shards: Sequence[Shard], *, workers: int = 1, done: Callable[[int], None] | None = None
) -> list[Result]:
    """Apply `function` to every shard and return the results in the order of `shards`.

    Args:
        function: picklable (a module's function, or a partial of one).
        workers: processes; with 1, or with one shard, everything runs in this process.
        done: called with the number of finished shards after each; what it raises ends the work.

    Raises:
        RunError: a worker process died (usually killed for memory).
    """
    if min(workers, len(shards)) <= 1:
        return _serial(function, shards, done)
    results: dict[int, Result] = {}
    # spawn: a fork of a process that has started torch's threads can hang
    pool = ProcessPoolExecutor(
        min(workers, len(shards)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
        initargs=(os.getpid(),),
    )
    try:
        futures = {pool.submit(function, shard): index for index, shard in enumerate(shards)}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            if done:
                done(len(results))
    except BrokenProcessPool as error:
        raise RunError("a worker process died, most likely for want of memory", fix="set `workers: 1` and run again") from error
    finally:
        pool.shutdown(cancel_futures=True)
    return [results[index] for index in range(len(shards))]


def _end_with_parent(parent: int) -> None:
    """Start a thread that ends this worker when the process that started it is gone (killed, so that it could not tell)."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _serial(function: Callable[[Shard], Result], shards: Sequence[Shard], done: Callable[[int], None] | None) -> list[Result]:
    results = []
    for shard in shards:
        results.append(function(shard))
        if done:
            done(len(results))
    return results
