"""Starts the processes of a layout, and lets a training stage run in each of them.

`puna run train.pretrain parallel.tp=2 ...` starts torch's elastic launcher with this file. The stage runs in every process;
process 0 alone writes to the artifact. When a process dies all are started again and go on from the last checkpoint; when one
waits too long for the others, the run ends and says who was behind. On several machines the launcher is started on each
(docs/cluster.md).

Files in `ranks/` of the stage's scratch carry what the processes and the stage tell each other: `job.json`, `events.jsonl`,
`stop`, `result.json`, `error-N.json`, and `alive-N.json`, the last step each process has begun.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.core.errors import InputError, Preempted, PunaError, RunError
from puna.core.modules import load_stage
from puna.core.settings import Settings
from puna.core.stage import Artifact, Inputs, StageContext
from puna.train.drill import with_faults
from puna.train.parallel.layout import Layout

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

FOLDER = "ranks"
POLL_SECONDS = 0.2
ALIVE_SECONDS = 0.5  # between two writes of where a process is
STOP_SECONDS = 60.0  # to save and end after a stop
KINDS = {kind.__name__: kind for kind in (InputError, Preempted, RunError)}
_PR_SET_PDEATHSIG = 1

Body = Callable[[Any, StageContext, "Meshes | None"], dict[str, Any]]


def on_ranks(body: Body, settings: Any, ctx: StageContext) -> dict[str, Any]:
    """Run `body` here, or in every process of `settings.parallel`, and return what it returns in process 0.

    Args:
        body: takes settings, context and this process's meshes (None: the model is whole in this process).

    Raises:
        PunaError: what `body` raised in some process. RunError: processes died too often, or one hung.
    """
    import torch.distributed as dist

    from puna.train.parallel.meshes import Meshes

    layout: Layout = settings.parallel
    device = device_of(settings)
    if dist.is_available() and dist.is_initialized():
        return body(settings, ctx, Meshes.open(layout, device))
    if layout.world > 1:
        return _launched(settings, ctx, layout)
    if getattr(settings, "precision", "fp32") != "fp8" and not layout.compile and layout.recompute == "none":
        return body(settings, ctx, None)
    with _group_of_one(device):
        return body(settings, ctx, Meshes.open(layout, device))


def device_of(settings: Any) -> str:
    """The device that a training stage's settings name, beside what is watched or by itself."""
    return settings.watch.device if hasattr(settings, "watch") else settings.device


@contextlib.contextmanager
def _group_of_one(device: str) -> Iterator[None]:
    """A process group of this process alone: FP8, compiled and recomputed blocks are those of a placed model."""
    import torch.distributed as dist

    dist.init_process_group(_backend(device), store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _backend(device: str) -> str:
    return "gloo" if device == "cpu" else "nccl"


# ---- the stage's side


def _launched(settings: Settings, ctx: StageContext, layout: Layout) -> dict[str, Any]:
    folder = ctx.scratch / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stage = type(settings).__module__.removeprefix("puna.")
    job = {
        "stage": stage, "settings": settings.model_dump(mode="json"), "name": ctx.name, "out": str(ctx.out.absolute()),
        "scratch": str(ctx.scratch.absolute()), "seed": ctx.seed, "cores": ctx.cores, "run": ctx.run,
        "inputs": [{"name": a.name, "kind": a.kind, "path": str(a.path.absolute()), "digest": a.digest, "record": a.record}
                   for a in ctx.inputs.artifacts],
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    if layout.nodes > 1:
        others = layout.nodes - 1
        ctx.note(f"waiting for {others} more node{'s' if others > 1 else ''}; start there: {' '.join(_command(layout, folder))}")
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            _command(layout, folder), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=_environment(ctx, layout),
            preexec_fn=_die_with_parent,
        )  # fmt: skip
        try:
            _watch(process, ctx, folder)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return _outcome(ctx, folder, layout)


def _command(layout: Layout, folder: Path) -> list[str]:
    """What starts the processes of one machine; each start has a store of its own, since addresses would stay in a shared one."""
    return [
        "env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", sys.executable, "-m", "torch.distributed.run",
        "--nnodes", str(layout.nodes), "--nproc-per-node", str(layout.world // layout.nodes),
        "--max-restarts", str(layout.restarts),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", layout.meet, "--rdzv-id", "puna",
        "-m", "puna.train.ranks", str(folder / "job.json"),
    ]  # fmt: skip


def _environment(ctx: StageContext, layout: Layout) -> dict[str, str]:
    """Threads that share the cores, the modules found here, and the records by which a hang of NCCL can be told."""
    threads = max(1, ctx.cores * layout.nodes // layout.world)
    path = os.pathsep.join(str(Path(part).absolute()) for part in sys.path if part)
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
            "TORCH_FR_BUFFER_SIZE": "2000", "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000"}  # fmt: skip


def _watch(process: subprocess.Popen[bytes], ctx: StageContext, folder: Path) -> None:
    """Pass on events and a stop, until the launcher ends."""
    read, asked = 0, 0.0
    while True:
        ended = process.poll() is not None
        read = _pass_on(folder / "events.jsonl", read, ctx)
        if ended:
            return
        if ctx.stopping() and not asked:
            asked = time.monotonic()
            (folder / "stop").touch()
        if asked and time.monotonic() - asked > STOP_SECONDS:
            return
        time.sleep(POLL_SECONDS)


def _pass_on(path: Path, read: int, ctx: StageContext) -> int:
    """Report the whole lines after `read` bytes; returns where to go on."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(read)
        for line in file:
            if not line.endswith(b"\n"):
                break
            read += len(line)
            ctx.report(json.loads(line))
    return read


def _outcome(ctx: StageContext, folder: Path, layout: Layout) -> dict[str, Any]:
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    for path in sorted(folder.glob("error-*.json")):
        error = json.loads(path.read_text())
        raise KINDS.get(error["kind"], RunError)(error["what"], where=error["where"], fix=error["fix"])
    if ctx.stopping():
        raise Preempted(f"stage '{ctx.name}' was asked to stop and goes on from its last checkpoint", fix="run it again")
    kept = ctx.scratch.parent / f"{ctx.scratch.name}.ranks.txt"
    with contextlib.suppress(OSError):
        shutil.copyfile(folder / "log.txt", kept)
    raise RunError(
        f"the {layout.world} processes of '{ctx.name}' ended {layout.restarts + 1} times without a result; {behind(folder)}",
        where=str(kept),
        fix="look at the last lines of this log, then start again: it goes on from the last checkpoint",
    )


def behind(folder: Path) -> str:
    """Which process was behind when all ended: the first of those that gave the fewest signs."""
    found = {}
    for path in folder.glob("alive-*.json"):
        with contextlib.suppress(ValueError, OSError):
            found[int(path.stem.removeprefix("alive-"))] = json.loads(path.read_text())
    if not found:
        return "none had begun a step"
    least = min(one["signs"] for one in found.values())
    rank, *others = [number for number in sorted(found) if found[number]["signs"] == least]
    last = found[rank]
    if others and len(others) + 1 == len(found):
        return f"all were at step {last['step']}, {last['doing']}"
    quiet = max(one["time"] for one in found.values()) - last["time"]
    where = f"at step {last['step']}, {last['doing']}, {quiet:.0f} s before the last sign"
    return f"process {rank} on {last['host']} was behind: {where}"


# ---- each process's side


class Alive:
    """Says in a file where this process is. A thread writes, so training never waits, and what a hung process last said is there.

    All processes give the same signs in the same order: the one with the fewest is behind.
    """

    def __init__(self, path: Path):
        self.path, self.signs = path, 0
        self.last: dict[str, Any] = {}
        threading.Thread(target=self._write, daemon=True).start()

    def __call__(self, step: int, doing: str) -> None:
        self.signs += 1
        who = {"host": os.uname().nodename, "pid": os.getpid()}
        self.last = {"step": step, "doing": doing, "signs": self.signs, "time": time.time(), **who}

    def _write(self) -> None:
        written = self.last
        while True:
            if self.last is not written:
                written = self.last
                _write(self.path, written)
            time.sleep(ALIVE_SECONDS)


def run_rank(job_path: Path) -> int:
    """Body of one process: join the others, run the stage, leave its result or its error. Returns the exit status."""
    import torch
    import torch.distributed as dist

    folder = job_path.parent
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if any(folder.glob("error-*.json")):
        return 0  # another process has said why this cannot be done
    job = json.loads(job_path.read_text())
    stage = load_stage(job["stage"])
    settings: Any = stage.Settings.model_validate(job["settings"])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    device = device_of(settings)
    if device != "cpu":
        torch.accelerator.set_device_index(local)
    timeout = timedelta(seconds=settings.parallel.hang_seconds)
    dist.init_process_group(_backend(device), timeout=timeout)
    with tempfile.TemporaryDirectory() as elsewhere:
        ctx = _context(job, rank, folder, Path(elsewhere))
        ctx.alive = with_faults(ctx.alive, settings.parallel.drill, rank, folder)
        try:
            result = stage.run(settings, ctx)
        except PunaError as error:
            text = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
            _write(folder / f"error-{rank}.json", text)
            return 0
        except Exception:
            if any(folder.glob("error-*.json")):
                return 0
            raise
    if rank == 0:
        _write(folder / "result.json", result)
    dist.barrier()
    dist.destroy_process_group()
    return 0


def _context(job: dict[str, Any], rank: int, folder: Path, elsewhere: Path) -> StageContext:
    """The stage's context; all but process 0 write to a directory that is thrown away."""
    out = Path(job["out"]) if rank == 0 else elsewhere
    events = (folder / "events.jsonl").open("a") if rank == 0 else None
    if rank == 0:  # what an earlier start has written comes again
        for path in out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def report(event: dict[str, Any]) -> None:
        if events is not None:
            events.write(json.dumps(event, default=str) + "\n")
            events.flush()

    inputs = [Artifact(a["name"], a["kind"], Path(a["path"]), a["digest"], a["record"]) for a in job["inputs"]]
    return StageContext(
        name=job["name"],
        inputs=Inputs(inputs),
        out=out,
        scratch=Path(job["scratch"]),
        seed=job["seed"],
        report=report,
        stopping=(folder / "stop").exists,
        cores=job["cores"],
        run=job["run"],
        alive=Alive(folder / f"alive-{rank}.json"),
    )


def _write(path: Path, value: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.replace(path)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Entry point of the processes that the launcher starts."""
    _die_with_parent()
    sys.exit(run_rank(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
