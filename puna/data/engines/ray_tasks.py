"""Shards as plain tasks of a Ray cluster, over the files all its nodes see.

No Ray Data and no object store: a task gets the name of a shard and leaves files, as it would in this process. A task whose
worker died is tried again; a few more tasks than workers are in flight, so that a long list of shards does not become a long
list of pending tasks.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from puna.core.errors import InputError, RunError

IN_FLIGHT = 4  # tasks submitted per worker
OBJECT_STORE_BYTES = 128 << 20  # of a cluster started here; nothing but functions and shard names goes through it


class Engine(Protocol):
    """What is read of `puna.data.engine.EngineSettings`."""

    @property
    def address(self) -> str | None: ...
    @property
    def memory_mb(self) -> int | None: ...
    @property
    def retries(self) -> int: ...


def map_tasks(
    function: Callable[[Any], Any], shards: Sequence[Any], *, engine: Engine, workers: int, done: Callable[[int], None] | None
) -> list[Any]:
    """Results in the order of the shards.

    Raises:
        InputError: Ray is not installed or no cluster answers at the address.
        RunError: a task's worker died more often than `retries` allow.
    """
    ray = _connected(engine, workers)
    memory = engine.memory_mb * 2**20 if engine.memory_mb else None
    task = ray.remote(function_on).options(num_cpus=1, max_retries=engine.retries, memory=memory)
    stored = ray.put(function)
    results: dict[int, Any] = {}
    waiting: dict[Any, int] = {}
    following = 0
    try:
        while len(results) < len(shards):
            while following < len(shards) and len(waiting) < IN_FLIGHT * workers:
                waiting[task.remote(stored, shards[following])] = following
                following += 1
            [ready], _ = ray.wait(list(waiting), num_returns=1)
            results[waiting[ready]] = ray.get(ready)
            del waiting[ready]
            if done:
                done(len(results))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # as the function raised it
    except ray.exceptions.RayError as error:
        raise RunError(
            f"a task of the Ray cluster was lost: {str(error).splitlines()[0]}", fix="run again: it continues"
        ) from error
    finally:
        for reference in waiting:
            ray.cancel(reference)
    return [results[index] for index in range(len(shards))]


def function_on(function: Callable[[Any], Any], shard: Any) -> Any:
    """Body of a task."""
    return function(shard)


def _connected(engine: Engine, workers: int) -> Any:
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send usage statistics
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # what a task raises is raised here, once
        if engine.address is None:
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's own switch for "loopback only"
        import ray
    except ModuleNotFoundError as error:
        raise InputError("the engine 'ray' needs the package ray", fix="pip install 'puna[ray]', or engine: processes") from error
    if ray.is_initialized():
        return ray
    try:
        if engine.address:
            ray.init(address=engine.address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                num_cpus=workers,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
            )
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise InputError(
            f"no Ray cluster could be reached: {str(error).splitlines()[0]}",
            where=engine.address or "a local one",
            fix="check `engine.address`, or set engine: processes",
        ) from error
    atexit.register(ray.shutdown)
    return ray
