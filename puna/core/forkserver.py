"""A process that has imported what is slow to import once and forks a worker per stage, so that a stage starts in milliseconds.

`multiprocessing`'s own fork server would import the caller's main module again in each worker and hides the worker's exit
from the run; this one is a page long. Nothing it starts outlives the run: the kernel kills a worker whose server has died
(PR_SET_PDEATHSIG), a watchdog thread does the same where the kernel cannot, and what a worker forks inherits both.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PRELOAD_COLUMNS = (
    "numpy",
    "pydantic",
    "yaml",
    "pyarrow.parquet",
    "pyarrow.compute",
    "puna.data.kernels.ready",
    "puna.core.worker",
    "puna.data.facts",
    "puna.data.duplicates",
    "puna.data.measure",
    "puna.data.decide",
)
PRELOAD = (
    *PRELOAD_COLUMNS,
    "torch",
    "torch._dynamo",  # which the first optimiser imports: else 1.8 s of work in every stage that trains
    "safetensors",
    "puna.model.llama",
    "puna.train.loop",
    "puna.infer.engine",
)
_PR_SET_PDEATHSIG = 1
_BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv[2]); from puna.core.forkserver import serve; serve(int(sys.argv[1]))"


def preload_for(stages: Iterable[str]) -> tuple[str, ...]:
    """What to import before the first worker: without torch, 1.3 s and 200 MB in every worker, where stages work on columns only.

    Args:
        stages: as recipes name them, for instance "data.curate".
    """
    return PRELOAD_COLUMNS if all(stage.startswith(("data.", "tokenizer.")) for stage in stages) else PRELOAD


class ForkServer:
    """The run's end: `start` a worker, `signal` it, read `messages` about exits from `socket`."""

    def __init__(self, log: Path, preload: tuple[str, ...] = PRELOAD):
        self.socket, theirs = socket.socketpair()
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps([str(Path(p).absolute()) for p in sys.path])]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, json.dumps(preload)],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        theirs.close()
        self._buffer = b""

    def start(self, job: str, log: Path, pipe: int) -> None:
        """Fork a worker for a job (JSON); its output goes to `log`, its events to `pipe`, whose copy here may then be closed.

        The server answers later with `{"started": pid, "name"}`.
        """
        line = json.dumps({"job": job, "log": str(log)}).encode() + b"\n"
        sent = socket.send_fds(self.socket, [line], [pipe])
        self.socket.sendall(line[sent:])

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a worker; the server knows which of its children still live, so none else can be hit."""
        self.socket.sendall(json.dumps({"signal": number, "pid": pid}).encode() + b"\n")

    def messages(self) -> list[dict[str, Any]] | None:
        """What the server has said since the last call; None when it is gone. Call when `socket` is readable."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """End the server, and with it every worker that still runs (the kernel sees to that)."""
        self.socket.close()
        self.process.kill()
        self.process.wait()


def serve(handle: int) -> None:
    """The server's end: preload, then fork a worker for each request until the run's end closes the socket."""
    server = socket.socket(fileno=handle)
    server.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _preload(json.loads(sys.argv[3]))
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    _Server(server, wake_read).loop()


class _Server:
    def __init__(self, server: socket.socket, wake: int):
        self.socket, self.wake = server, wake
        self.children: set[int] = set()
        self.buffer = b""
        self.handles: list[int] = []

    def loop(self) -> None:
        while True:
            ready = select.select([self.socket.fileno(), self.wake], [], [])[0]
            if self.wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake, 4096)
                self._reap()
            if self.socket.fileno() in ready and not self._receive():
                break
        for pid in self.children:  # the run is gone: nothing may go on writing
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        os._exit(0)

    def _receive(self) -> bool:
        try:
            data, handles, _, _ = socket.recv_fds(self.socket, 65536, 16)
        except ConnectionError:
            return False
        for handle in handles:
            os.set_inheritable(handle, False)
        self.handles += handles
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "job" in message:
                self._fork(message["job"], message["log"], self.handles.pop(0))
            elif message["pid"] in self.children:
                os.kill(message["pid"], message["signal"])
        return bool(data)

    def _fork(self, job: str, log: str, pipe: int) -> None:
        server_pid = os.getpid()
        pid = _fork_stoppable()
        if pid == 0:
            status = 1
            try:
                self.socket.close()
                for handle in self.handles:
                    os.close(handle)
                _become_worker(server_pid, log)
                from puna.core.worker import run_worker

                status = run_worker(job, pipe)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(pipe)
        self.children.add(pid)
        self._tell({"started": pid, "name": json.loads(job)["name"]})

    def _reap(self) -> None:
        for pid in list(self.children):
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                self.children.discard(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # whatever the stage forked and left behind
                self._tell({"exited": pid, "status": os.waitstatus_to_exitcode(status), "cpu_s": usage.ru_utime + usage.ru_stime})

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")


def _preload(names: list[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # the stage that needs it fails with the reason; this is only a head start
            print(f"not preloaded: {name}: {error!r}", file=sys.stderr, flush=True)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # keeps the pages of what is loaded shared with the workers


def _fork_stoppable() -> int:
    """`os.fork`; SIGTERM ends the child from its first moment on. One that ignored it, as the server does, would lose a stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # of the server, while it has the default action
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return pid


def _become_worker(server_pid: int, log: str) -> None:
    """After the fork: own process group, output to the log, default signals, and no life after the server's."""
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    _die_with_parent(server_pid)
    os.register_at_fork(after_in_child=_after_fork_in_stage)
    threading.Thread(target=_watch, args=(server_pid,), daemon=True).start()


def _after_fork_in_stage() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pools end their children with SIGTERM
    _die_with_parent(os.getppid())


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)
