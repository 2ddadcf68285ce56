"""Shards on spawned processes of this machine.

A worker costs about a second to start and keeps what it has loaded (classifiers, compiled kernels), so a pool lives on from one
call to the next, and work that is over sooner than a pool would stand is done in this process.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from puna.core.errors import RunError

POOL_START_S = 2.0  # seconds of CPU: two workers with numpy, pyarrow and numba

_pools: dict[int, ProcessPoolExecutor] = {}


def map_processes(
    function: Callable[[Any], Any], shards: Sequence[Any], workers: int, done: Callable[[int], None] | None
) -> list[Any]:
    """Results in the order of the shards.

    Raises:
        RunError: a worker process died.
    """
    results: dict[int, Any] = {}
    tell = done or (lambda count: None)
    while workers not in _pools and len(results) < len(shards):
        before = time.process_time()
        results[len(results)] = function(shards[len(results)])
        cost = time.process_time() - before
        tell(len(results))
        # the first shard also loads what the others find loaded
        if cost > POOL_START_S or (len(results) > 1 and cost * (len(shards) - len(results)) > POOL_START_S):
            break
    if len(results) < len(shards):
        _map_pool(function, shards, workers, results, tell)
    return [results[index] for index in range(len(shards))]


def _map_pool(
    function: Callable[[Any], Any], shards: Sequence[Any], workers: int, results: dict[int, Any], done: Callable[[int], None]
) -> None:
    pool = _pool(workers)
    futures: dict[Future[Any], int] = {}
    try:
        futures = {pool.submit(function, shards[index]): index for index in range(len(results), len(shards))}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            done(len(results))
    except BrokenProcessPool as error:
        _pools.pop(workers, None)
        raise RunError("a worker process died, most likely for want of memory", fix="set `workers: 1` and run again") from error
    finally:
        for future in futures:
            future.cancel()


def _pool(workers: int) -> ProcessPoolExecutor:
    if workers not in _pools:
        # spawn: a fork of a process that has started torch's threads can hang
        _pools[workers] = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_end_with_parent,
            initargs=(os.getpid(),),
        )
    return _pools[workers]


@atexit.register
def _close() -> None:
    while _pools:
        _pools.popitem()[1].shutdown(cancel_futures=True)


def _end_with_parent(parent: int) -> None:
    """Start a thread that ends this worker when the process that started it is gone (killed, so that it could not tell)."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
