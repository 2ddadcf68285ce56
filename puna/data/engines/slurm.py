"""Shards as one Slurm array job: task i of n takes the shards i, i + n, i + 2n, ...

The job's folder holds `job.json` (function and shards), `submit.sh`, `logs/` and one `result-<shard>.json` per finished shard,
written by rename. A result that exists is not made again, so submitting twice is harmless; a task knows nothing of the others.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from puna.core.errors import InputError, RunError
from puna.data.engines import wire

LOOK_EVERY_S = 1.0  # for results, while the job runs


class Engine(Protocol):
    """What is read of `puna.data.engine.EngineSettings`."""

    @property
    def memory_mb(self) -> int | None: ...
    @property
    def sbatch(self) -> tuple[str, ...]: ...
    @property
    def array_tasks(self) -> int: ...


def map_array(
    function: Callable[[Any], Any],
    shards: Sequence[Any],
    *,
    engine: Engine,
    workers: int,
    done: Callable[[int], None] | None,
    scratch: Path | None,
) -> list[Any]:
    """Submit what has no result yet, wait for the job, and return the results in the order of the shards.

    Raises:
        InputError: there is no sbatch here (the script is written all the same).
        RunError: the job ended and results are missing.
    """
    text = wire.dump({"function": function, "shards": list(shards)})
    folder = (scratch or Path.cwd()).absolute() / "slurm" / hashlib.sha256(text.encode()).hexdigest()[:12]
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(text)
    tasks = min(len(shards), engine.array_tasks)
    script = folder / "submit.sh"
    script.write_text(_script(folder, tasks, min(workers, tasks), engine))
    if _missing(folder, len(shards)):
        _submit(script, folder, len(shards), done)
    if missing := _missing(folder, len(shards)):
        raise RunError(
            f"{len(missing)} of {len(shards)} shards have no result after the array job",
            where=str(folder / "logs"),
            fix="the logs hold the reason; the same command submits what is missing",
        )
    results = [wire.load(_result(folder, index).read_text()) for index in range(len(shards))]
    shutil.rmtree(folder)
    return results


def run_task(folder: Path, task: int, tasks: int) -> None:
    """Body of array task `task` of `tasks`."""
    job = wire.load((folder / "job.json").read_text())
    for index in range(task, len(job["shards"]), tasks):
        path = _result(folder, index)
        if not path.exists():
            beside = path.with_suffix(f".{task}.part")
            beside.write_text(wire.dump(job["function"](job["shards"][index])))
            beside.replace(path)


def _script(folder: Path, tasks: int, at_a_time: int, engine: Engine) -> str:
    options = [f"--array=0-{tasks - 1}%{at_a_time}", "--ntasks=1", f"--output={folder}/logs/%a.txt", "--job-name=puna"]
    options += [f"--mem={engine.memory_mb}M"] if engine.memory_mb else []
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in (*options, *engine.sbatch))]
    command = [sys.executable, "-m", "puna.data.engines.slurm", str(folder)]
    lines.append(f"export PYTHONPATH={shlex.quote(os.pathsep.join(filter(None, sys.path)))}")
    return "\n".join([*lines, f'exec {shlex.join(command)} "$SLURM_ARRAY_TASK_ID" {tasks}', ""])


def _submit(script: Path, folder: Path, shards: int, done: Callable[[int], None] | None) -> None:
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise InputError(
            "there is no sbatch on this machine",
            where=str(script),
            fix="submit that script where there is one and run this command again, or set engine: processes",
        )
    with (folder / "logs" / "sbatch.txt").open("w") as log:
        job = subprocess.Popen([sbatch, "--wait", str(script)], stdout=log, stderr=subprocess.STDOUT)
        try:
            while not _ended(job):
                if done:
                    done(shards - len(_missing(folder, shards)))
        finally:
            if job.poll() is None:
                job.terminate()
    if done:
        done(shards - len(_missing(folder, shards)))


def _ended(job: subprocess.Popen[bytes]) -> bool:
    try:
        job.wait(LOOK_EVERY_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _missing(folder: Path, shards: int) -> list[int]:
    return [index for index in range(shards) if not _result(folder, index).exists()]


def _result(folder: Path, index: int) -> Path:
    return folder / f"result-{index:06d}.json"


if __name__ == "__main__":
    run_task(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
