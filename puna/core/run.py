"""Run a recipe to its end: reuse what exists, start what is ready on free cores, and leave nothing half-done behind.

One loop, one thread: it starts workers through the fork server, reads their events and exits, and moves the run's pointers
`runs/<run>/<NN>-<stage>`. Whatever happens (a stage fails, SIGTERM, kill -9), what is finished stays finished and the next
`puna up` goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from puna.core import store
from puna.core.errors import InputError, Preempted, PunaError, RunError
from puna.core.forkserver import ForkServer, preload_for
from puna.core.graph import Graph, Node
from puna.core.hardware import tree_rss_bytes
from puna.core.journal import Journal, Listener
from puna.core.layout import LOCK_RECIPE, identity_of, point, priorities, run_directory, stage_link
from puna.core.lease import Lease
from puna.core.modules import load_stage, source_hash
from puna.core.recipe import Recipe
from puna.core.stage import Artifact
from puna.core.worker import Job, describe, job_for

GRACE_S = 60.0  # for stages to save after a stop was asked for; then they are killed, which loses no finished stage
MEMORY_EVERY_S = 1.0


@dataclass
class Outcome:
    """What came of a run: `state` is finished, failed or preempted; `made` and `reused` name stages."""

    run_dir: Path
    state: str = "finished"
    exit_code: int = 0
    error: PunaError | None = None
    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mb: int = 0


@dataclass
class _Running:
    name: str
    job: Job
    pipe: int
    started: float
    pid: int | None = None
    buffer: bytes = b""
    result: dict[str, Any] | None = None
    status: int | None = None
    cpu_s: float = 0.0


def up(
    recipe: Recipe,
    graph: Graph,
    root: Path,
    *,
    cores: int,
    listener: Listener,
    strict: bool = False,
    command: Sequence[str] = (),
    server: ForkServer | None = None,
    ready: Callable[[Path], None] | None = None,
) -> Outcome:
    """Run every stage of a graph that is not finished yet.

    Args:
        root: the directory that holds `store/` and `runs/`.
        cores: how many cores stages may fill together.
        strict: make stages again whose code has changed since.
        ready: called with the run's directory once it is ours and before the first stage starts (the live page hooks in here).
    Returns: the outcome; a failed stage is in it and not raised.
    Raises: InputError when another `puna up` works on the same run.
    """
    run_dir = run_directory(root, recipe)
    lease = Lease(run_dir / "lease.json")
    lease.take_or_refuse(f"the run '{recipe.name}'")
    owned = server is None
    server = server or ForkServer(run_dir / "logs" / "forkserver.txt", preload_for(node.uses for node in graph.values()))
    try:
        (run_dir / "logs").mkdir(exist_ok=True)
        (run_dir / LOCK_RECIPE).write_text(
            yaml.safe_dump(json.loads(json.dumps(recipe.data, default=str)), sort_keys=False, allow_unicode=True)
        )
        if ready is not None:
            ready(run_dir)
        journal = Journal(run_dir, recipe, graph, cores, listener)
        scheduler = _Scheduler(recipe, graph, root, run_dir, cores, strict, list(command), journal, server, lease)
        with _signals(scheduler.asked.append):
            return scheduler.run()
    finally:
        if owned:
            server.close()
        lease.free()


class _Scheduler:
    def __init__(
        self,
        recipe: Recipe,
        graph: Graph,
        root: Path,
        run_dir: Path,
        cores: int,
        strict: bool,
        command: list[str],
        journal: Journal,
        server: ForkServer,
        lease: Lease,
    ):
        self.recipe, self.graph, self.root, self.run_dir = recipe, graph, root, run_dir
        self.cores, self.strict, self.command = cores, strict, command
        self.journal, self.server, self.lease = journal, server, lease
        self.free = cores
        self.outcome = Outcome(run_dir)
        self.running: dict[str, _Running] = {}
        self.drifted: list[str] = []
        self.asked: list[int] = []  # signals received and not yet acted on
        self.stopped_by: int | None = None
        self.kill_at: float | None = None
        self.selector = selectors.DefaultSelector()
        self.priority = priorities(recipe, graph)
        self._sampled = 0.0

    def run(self) -> Outcome:
        self._clear_links()
        self.selector.register(self.server.socket, selectors.EVENT_READ, None)
        self._advance()
        while self.running:
            for key, _ in self.selector.select(timeout=0.25):
                self._hear_server() if key.data is None else self._hear_worker(key.data)
            self._tick()
        return self._close()

    def _stop(self, number: int) -> None:
        """Asked to stop: workers save and end. Asked twice: they end now."""
        self.kill_at = time.monotonic() + (0.0 if self.stopped_by is not None else GRACE_S)
        if self.stopped_by is None:
            self.journal.say(
                {"event": "note", "stage": "run", "text": "stopping: stages save their state (once more stops at once)"}
            )
        self.stopped_by = number
        for worker in self.running.values():
            self._signal(worker, signal.SIGTERM)

    def _advance(self) -> None:
        """Reuse what is finished, then fill the free cores with what is ready."""
        moved = True
        while moved and self.outcome.error is None and self.stopped_by is None:
            moved = False
            waiting = [n for n in self.graph.values() if n.name not in self.outcome.artifacts and n.name not in self.running]
            ready = [n for n in waiting if all(s in self.outcome.artifacts for s in n.sources)]
            for node in sorted(ready, key=lambda n: -self.priority[n.name]):
                if self.outcome.error is None and self._consider(node):
                    moved = True
        self._report_drift()

    def _consider(self, node: Node) -> bool:
        """Reuse or start one ready stage; True when its artifact is there."""
        try:
            inputs = [self.outcome.artifacts[s] for s in node.sources]
            identity = identity_of(self.root, self.recipe, node, inputs)
            found = store.find(identity)
        except PunaError as error:
            self._fail(node.name, error)
            return False
        drifted = found is not None and found.record.get("code") != source_hash(load_stage(node.uses))
        if found is not None and not (drifted and self.strict):
            self.drifted += [node.name] if drifted else []
            store.tidy(found.path)
            self._finish(node.name, found, "reused")
            return True
        if self.free > 0:  # a wide stage starts on one free core and crowds the others for a while, rather than wait for all
            self._start(node, identity, min(node.cores, self.cores), rebuild=found is not None)
        return False

    def _start(self, node: Node, identity: store.Identity, cores: int, rebuild: bool) -> None:
        inputs = [self.outcome.artifacts[s] for s in node.sources]
        run, seed = {"name": self.recipe.name, "recipe": self.recipe.label}, self.recipe.seed
        job = job_for(node, identity, inputs, seed=seed, cores=cores, rebuild=rebuild, command=self.command, run=run)
        ours, theirs = os.pipe()
        self.server.start(job.to_json(), self.run_dir / "logs" / f"{node.name}.txt", theirs)
        os.close(theirs)
        os.set_blocking(ours, False)
        self.selector.register(ours, selectors.EVENT_READ, node.name)
        self.running[node.name] = _Running(node.name, job, ours, time.monotonic())
        self.free -= cores
        self.journal.stage(node.name, "running", cores=cores, fingerprint=identity.fingerprint)

    def _hear_worker(self, name: str) -> None:
        worker = self.running[name]
        with contextlib.suppress(BlockingIOError):
            data = os.read(worker.pipe, 1 << 20)
            if not data:
                self.selector.unregister(worker.pipe)
                os.close(worker.pipe)
                worker.pipe = -1
                self._settle(worker)
                return
            *lines, worker.buffer = (worker.buffer + data).split(b"\n")
            for event in map(json.loads, lines):
                if event["event"] == "result":
                    worker.result = event
                else:
                    self.journal.say(event)

    def _hear_server(self) -> None:
        messages = self.server.messages()
        if messages is None:
            lost = list(self.running)
            for name in lost:
                self._fail(
                    name,
                    RunError(
                        "the process that starts stages has died",
                        where=str(self.run_dir / "logs/forkserver.txt"),
                        fix="puna up continues",
                    ),
                )
            self.selector.unregister(self.server.socket)
            self.running.clear()
            return
        for message in messages:
            if "started" in message:
                self.running[message["name"]].pid = message["started"]
                if self.stopped_by is not None:
                    self._signal(self.running[message["name"]], signal.SIGTERM)
            elif (worker := next((w for w in self.running.values() if w.pid == message["exited"]), None)) is not None:
                worker.status, worker.cpu_s = message["status"], message["cpu_s"]
                self._settle(worker)

    def _settle(self, worker: _Running) -> None:
        """Once a worker has exited and its pipe is drained, its stage is finished, failed or preempted."""
        if worker.status is None or worker.pipe != -1:
            return
        del self.running[worker.name]
        self.free += worker.job.cores
        result = worker.result or self._silent_end(worker)
        if result["state"] in ("finished", "reused"):
            artifact = store.read(Path(worker.job.path))
            assert artifact is not None  # the worker committed it before it said so
            self._finish(worker.name, artifact, result["state"], seconds=round(time.monotonic() - worker.started, 2))
        elif result["state"] == "preempted":
            self.journal.stage(worker.name, "preempted")
            self.stopped_by = self.stopped_by or signal.SIGTERM
        else:
            self._fail(worker.name, self._error(worker, result))
        self._advance()

    def _silent_end(self, worker: _Running) -> dict[str, Any]:
        status = worker.status or 0
        if status == Preempted.exit_code or (self.stopped_by is not None and status < 0):
            return {"state": "preempted"}
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return {
            "state": "failed",
            "exit_code": 1,
            "error": {
                "what": f"the process of stage '{worker.name}' {how}",
                "where": str(self.run_dir / "logs" / f"{worker.name}.txt"),
                "fix": "signal 9 is most often exhausted memory: try fewer --cores; puna up continues",
            },
        }

    def _error(self, worker: _Running, result: dict[str, Any]) -> PunaError:
        error = result["error"]
        if "traceback" in result:
            path = self.run_dir / "failures" / f"{worker.name}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(result["traceback"])
            error = {**error, "where": str(path), "fix": "the file holds the details; puna up continues from the finished stages"}
        kind = InputError if result["exit_code"] == InputError.exit_code else RunError
        return kind(error["what"], where=error["where"] or worker.name, fix=error["fix"])

    def _finish(self, name: str, artifact: Artifact, state: str, **facts: Any) -> None:
        self.outcome.artifacts[name] = artifact
        (self.outcome.reused if state == "reused" else self.outcome.made).append(name)
        link = stage_link(self.run_dir, self.graph, name)
        point(link, artifact.path)
        self.journal.stage(name, state, path=str(link.relative_to(self.run_dir)), summary=artifact.summary(), **facts)

    def _fail(self, name: str, error: PunaError) -> None:
        self.journal.stage(name, "failed", error=describe(error))
        if self.outcome.error is None:
            self.outcome.error = error

    def _tick(self) -> None:
        while self.asked:
            self._stop(self.asked.pop(0))
        now = time.monotonic()
        if now - self._sampled > MEMORY_EVERY_S:
            self._sampled = now
            self.journal.memory(tree_rss_bytes(os.getpid()))
        if self.kill_at is not None and now > self.kill_at:
            for worker in self.running.values():
                self._signal(worker, signal.SIGKILL)
        self.lease.beat()
        self.journal.refresh()

    def _signal(self, worker: _Running, number: int) -> None:
        if worker.pid is not None and worker.status is None:
            with contextlib.suppress(BrokenPipeError):
                self.server.signal(worker.pid, number)

    def _report_drift(self) -> None:
        if self.drifted:
            names = ", ".join(self.drifted[:4]) + (f" and {len(self.drifted) - 4} more" if len(self.drifted) > 4 else "")
            text = f"code has changed since this was made: {names}; --strict makes it again"
            self.journal.say({"event": "note", "stage": "run", "text": text, "level": "warning"})
            self.drifted = []

    def _clear_links(self) -> None:
        """Drop pointers whose name or number this graph no longer has."""
        current = {stage_link(self.run_dir, self.graph, name).name for name in self.graph}
        for link in self.run_dir.iterdir():
            if link.is_symlink() and link.name not in current:
                link.unlink()

    def _close(self) -> Outcome:
        outcome = self.outcome
        if outcome.error is not None:
            outcome.state, outcome.exit_code = "failed", outcome.error.exit_code
        elif self.stopped_by is not None and len(outcome.artifacts) < len(self.graph):
            outcome.state, outcome.exit_code = "preempted", 130 if self.stopped_by == signal.SIGINT else Preempted.exit_code
        outcome.seconds = time.time() - self.journal.started
        self.journal.memory(tree_rss_bytes(os.getpid()))
        self._place_report()
        self.journal.end(outcome.state, describe(outcome.error) if outcome.error else None)
        outcome.peak_memory_mb = self.journal.head["peak_memory_mb"]
        return outcome

    def _place_report(self) -> None:
        """Copy the last report's page to where people look for it."""
        pages = [a.path / "volatile" / "report.html" for a in self.outcome.artifacts.values() if a.kind == "report"]
        if pages and pages[-1].exists():
            beside = self.run_dir / "report.html.new"
            shutil.copyfile(pages[-1], beside)
            beside.replace(self.run_dir / "report.html")


@contextlib.contextmanager
def _signals(ask: Callable[[int], None]) -> Iterator[None]:
    """SIGINT and SIGTERM are passed to `ask` while the block runs."""
    before = {number: signal.signal(number, lambda received, _: ask(received)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
