"""One stage in one process: run it beside its final place, hash what it left, commit it whole, and say how it went.

The same `make` serves `puna up` (in a process of its own, started by `puna.core.forkserver`) and `puna run` (in this process).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from puna.core import lineage, store
from puna.core.errors import InputError, Preempted, PunaError, RunError, resource_error
from puna.core.graph import Node
from puna.core.hardware import machine_facts
from puna.core.lease import Lease
from puna.core.modules import load_stage, source_hash
from puna.core.stage import Artifact, Inputs, StageContext

Report = Callable[[dict[str, Any]], None]

PROGRESS_EVERY_S = 0.2  # more often than this nobody reads it
LINEAGE = "lineage.json"


@dataclass(frozen=True)
class Job:
    """All a process needs to make one artifact, as JSON values.

    `inputs` are `{"path", "name", "kind"}` in order; name and kind count where a directory has no record. `payload` and
    `fingerprint` are the identity (see `puna.core.store`). `rebuild` makes the artifact again although it is there.
    """

    name: str
    uses: str
    settings: dict[str, Any]
    seed: int
    inputs: list[dict[str, str]]
    path: str
    fingerprint: str
    payload: dict[str, Any]
    cores: int = 1
    rebuild: bool = False
    command: list[str] = field(default_factory=list)
    run: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))


def job_for(
    node: Node,
    identity: store.Identity,
    inputs: Sequence[Artifact],
    *,
    seed: int,
    cores: int,
    rebuild: bool = False,
    command: Sequence[str] = (),
    run: Mapping[str, str] | None = None,
) -> Job:
    """The job that makes the artifact of `identity` at its place."""
    return Job(
        name=node.name,
        uses=node.uses,
        settings=node.raw,
        seed=seed,
        inputs=[{"path": str(a.path), "name": a.name, "kind": a.kind} for a in inputs],
        path=str(identity.path.absolute()),
        fingerprint=identity.fingerprint,
        payload=identity.payload,
        cores=cores,
        rebuild=rebuild,
        command=list(command),
        run=dict(run or {}),
    )


def make(job: Job, report: Report, stopping: Callable[[], bool]) -> dict[str, Any]:
    """Make the artifact of a job, unless another process has just made it.

    Returns: `{"state": "finished" | "reused", "digest", "path", "summary"}`.
    Raises: PunaError; a full disk or exhausted memory becomes a RunError.
    """
    path = Path(job.path)
    lock = Lease(store.beside(path, store.LOCK))
    try:
        _wait(lock, job, report, stopping)
        try:
            there = store.read(path)
            if there is not None and not job.rebuild:
                return {"state": "reused", "digest": there.digest, "path": job.path, "summary": there.summary()}
            return _make_locked(job, path, report, stopping)
        finally:
            lock.free()
    except Exception as error:
        if (known := resource_error(error, path)) is not None:
            shutil.rmtree(store.beside(path, store.PARTIAL), ignore_errors=True)
            raise known from error
        raise


def run_worker(text: str, pipe: int) -> int:
    """Body of a worker process: run the job, send events and one `result` down the pipe, return the exit status."""
    job = Job.from_json(text)
    send = _Sender(pipe, job.name)
    stop = _StopFlag()
    _limit_threads(job.cores)
    try:
        result = make(job, send, stop)
    except PunaError as error:
        state = "preempted" if isinstance(error, Preempted) else "failed"
        result = {"state": state, "error": describe(error), "exit_code": error.exit_code}
    except BaseException as error:  # the process ends here, and the run must hear why
        result = {
            "state": "failed",
            "exit_code": 1,
            "traceback": traceback.format_exc(),
            "error": {"what": f"stage '{job.name}' failed: {type(error).__name__}: {error}", "where": job.name, "fix": None},
        }
    send({"event": "result", "stage": job.name, **result})
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()  # temporary directories and pools of this stage; the inherited ones do nothing
    return int(result.get("exit_code", 0))


def describe(error: PunaError) -> dict[str, Any]:
    """What / where / fix as JSON."""
    return {"what": error.what, "where": error.where, "fix": error.fix}


def _make_locked(job: Job, path: Path, report: Report, stopping: Callable[[], bool]) -> dict[str, Any]:
    started = time.perf_counter()
    module = load_stage(job.uses)
    settings = module.Settings.model_validate(job.settings)
    inputs = [_input(given) for given in job.inputs]
    code = source_hash(module)
    partial, scratch = store.prepare(path, job.fingerprint)
    ctx = StageContext(
        name=job.name,
        inputs=Inputs(inputs),
        out=partial,
        scratch=scratch,
        seed=job.seed,
        report=report,
        stopping=stopping,
        cores=job.cores,
        run=job.run,
    )
    summary = module.run(settings, ctx)
    _write_summary(partial, summary, job.name)
    teacher = getattr(module, "TEACHER", None)
    carried = lineage.carried_weights(module.KIND, [(a.name, a.kind) for a in inputs], teacher)
    given = [lineage.handed_on(a.record.get("lineage", []), goes_on) for a, goes_on in zip(inputs, carried, strict=True)]
    sources = lineage.combine(ctx.lineage, given)
    store.write_json(partial / LINEAGE, {"sources": sources, "obligations": lineage.obligations(sources)})
    digest, files = store.digest_files(partial)
    usage, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    record = {
        "status": "complete",
        "name": job.name,
        "kind": module.KIND,
        "stage": job.uses,
        "fingerprint": job.fingerprint,
        "identity": job.payload,
        "digest": digest,
        "files": files,
        "settings": settings.model_dump(mode="json"),
        "inputs": [{"name": a.name, "kind": a.kind, "digest": a.digest, "path": os.path.relpath(a.path, path)} for a in inputs],
        "code": code,
        "teacher": teacher,
        "declared": lineage.combine(ctx.lineage, []),
        "lineage": sources,
        "obligations": lineage.obligations(sources),
        "summary": summary or {},
        "command": job.command,
        "machine": machine_facts(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.perf_counter() - started, 3),
        "cpu_s": round(sum(u.ru_utime + u.ru_stime for u in (usage, children)), 3),
        "peak_rss_mb": round(max(usage.ru_maxrss, children.ru_maxrss) / (1024 if sys.platform != "darwin" else 2**20), 1),
    }
    made = store.commit(path, record, files)
    return {"state": "finished", "digest": made.digest, "path": job.path, "summary": summary or {}}


def _input(given: dict[str, str]) -> Artifact:
    path = Path(given["path"])
    if not path.is_dir():
        raise InputError("an input is gone", where=str(path), fix="puna up makes it again")
    return store.read_or_adopt(path, given["name"], given["kind"])


def _write_summary(partial: Path, summary: Any, name: str) -> None:
    if summary is None:
        return
    try:
        store.write_json(partial / "summary.json", summary)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"stage '{name}' returned a summary that is no JSON: {error}",
            where=name,
            fix="return plain numbers and text, and no NaN",
        ) from error


def _wait(lock: Lease, job: Job, report: Report, stopping: Callable[[], bool]) -> None:
    waits = 0
    while not lock.take():
        if waits == 20:
            report({"event": "note", "stage": job.name, "text": "another process is making the same artifact: waiting for it"})
        if stopping():
            raise Preempted(f"stage '{job.name}' was asked to stop while it waited", fix="run it again")
        waits += 1
        time.sleep(0.1)


class _Sender:
    """Writes events to the run's pipe as JSON lines, progress at most every `PROGRESS_EVERY_S`."""

    def __init__(self, pipe: int, stage: str):
        self.pipe, self.stage = pipe, stage
        self._lock = threading.Lock()
        self._last = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("event") == "progress":
            now = time.monotonic()
            if now - self._last < PROGRESS_EVERY_S and event.get("done") != event.get("total"):
                return
            self._last = now
        line = (json.dumps(event, default=str) + "\n").encode()
        with self._lock, contextlib.suppress(BrokenPipeError):  # a dead run: the watchdog ends this process
            while line:
                line = line[os.write(self.pipe, line) :]


class _StopFlag:
    """`ctx.stopping`: true after SIGTERM. A stage that never asked has nothing to save, so it ends at once."""

    def __init__(self) -> None:
        self._stop, self._asked = False, False
        signal.signal(signal.SIGTERM, self._on_signal)

    def __call__(self) -> bool:
        self._asked = True
        return self._stop

    def _on_signal(self, number: int, frame: Any) -> None:
        self._stop = True
        if not self._asked:
            os._exit(Preempted.exit_code)


def _limit_threads(cores: int) -> None:
    """Native libraries that load later read these; torch is told directly if it is loaded."""
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "RAYON_NUM_THREADS",
        "NUMBA_NUM_THREADS",
    ):
        os.environ[name] = str(cores)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(cores)
