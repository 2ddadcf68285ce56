"""Shards as plain tasks of a Ray cluster, over the files all its nodes see.

No Ray Data and no object store: a task gets the name of a shard and leaves files, as it would in this process. A task whose
worker died is tried again; a few more tasks than workers are in flight, so that a long list of shards does not become a long
list of pending tasks.

Ray ends the process that speaks with it, without a word, when its head is gone for a minute (`_exit` in its own C++). That
process is therefore a child of ours: one that is lost is started again once, with a cluster of its own, and its tasks are given
again, whose outputs that are there are not made again.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from puna.core.errors import InputError, RunError

IN_FLIGHT = 4  # tasks submitted per worker
OBJECT_STORE_BYTES = 128 << 20  # of a cluster started here; nothing but functions and shard names goes through it
DRIVERS = 2  # processes that are tried for one list of shards
STARTS = 3  # of a cluster of our own: Ray gives up after 30 s, which a machine with much to do can need
CLOSE_S = 20.0  # until a driver that was asked to end is killed

Driver = tuple[BaseProcess, Connection]
_drivers: dict[str | None, Driver] = {}  # by address


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
        RunError: a task's worker died more often than `retries` allow, or the process that speaks with Ray was lost twice.
    """
    told = 0

    def tell(count: int) -> None:
        nonlocal told
        if count > told and done:  # a second driver begins to count again
            told = count
            done(count)

    for _ in range(DRIVERS):
        process, connection = _driver(engine.address)
        try:
            connection.send((function, shards, engine, workers))
            results, error = _answer(connection, tell)
        except (EOFError, ConnectionError):
            process.join(CLOSE_S)
            _close(engine.address)
            continue
        except BaseException:
            _close(engine.address)  # tasks still in flight end with it
            raise
        if error is not None:
            raise error
        return results
    raise RunError(
        f"the process that speaks with the Ray cluster ended with code {process.exitcode}",
        where=engine.address or "a cluster of its own on this machine",
        fix="run again: it continues; or set engine: processes",
    )


def _answer(connection: Connection, tell: Callable[[int], None]) -> tuple[list[Any], BaseException | None]:
    while True:
        kind, value = connection.recv()
        if kind == "count":
            tell(value)
        elif kind == "error":
            return [], value
        else:
            return value, None


def _driver(address: str | None) -> Driver:
    if address not in _drivers or not _drivers[address][0].is_alive():
        ours, theirs = multiprocessing.Pipe()
        # spawn: a fork of a process that has started torch's threads can hang
        process = multiprocessing.get_context("spawn").Process(target=_drive, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        _drivers[address] = process, ours
    return _drivers[address]


def _close(address: str | None) -> None:
    process, connection = _drivers.pop(address)
    connection.close()
    process.join(CLOSE_S)
    if process.is_alive():
        process.kill()
        process.join()


@atexit.register
def _close_all() -> None:
    for address in list(_drivers):
        _close(address)


def _drive(connection: Connection) -> None:
    """Body of the driver process: lists of shards from the connection, one after the other, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and closes the connection
    ray = None

    def send(kind: str, value: Any) -> None:
        try:
            connection.send((kind, value))
        except OSError as error:
            raise _ClosedError from error

    try:
        while True:
            function, shards, engine, workers = connection.recv()
            try:
                ray = _connected(engine, workers)
                send("results", _run(ray, function, shards, engine, workers, send))
            except _ClosedError:
                return
            except Exception as error:
                send("error", error)
    except (EOFError, OSError):
        return
    finally:
        if ray is not None:
            ray.shutdown()


class _ClosedError(Exception):
    """The parent has closed the connection."""


def _run(
    ray: Any,
    function: Callable[[Any], Any],
    shards: Sequence[Any],
    engine: Engine,
    workers: int,
    send: Callable[[str, Any], None],
) -> list[Any]:
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
            send("count", len(results))
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
            os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "60")  # seconds until its head must answer
        import ray
    except ModuleNotFoundError as error:
        raise InputError("the engine 'ray' needs the package ray", fix="pip install 'puna[ray]', or engine: processes") from error
    tries = 1 if engine.address else STARTS
    while not ray.is_initialized():
        tries -= 1
        try:
            ray.init(**_options(engine, workers), log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # a node that starts too slowly is a plain Exception
            ray.shutdown()
            if tries == 0:
                raise InputError(
                    f"no Ray cluster could be reached: {str(error).splitlines()[0]}",
                    where=engine.address or "a local one",
                    fix="check `engine.address`, or set engine: processes",
                ) from error
    return ray


def _options(engine: Engine, workers: int) -> dict[str, Any]:
    if engine.address:
        return {"address": engine.address}
    return {
        "num_cpus": workers,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    }
