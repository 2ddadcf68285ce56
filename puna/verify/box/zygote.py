"""The warm interpreter inside the box: it has imported what programs commonly import, and makes a copy of itself for each.

It never sees a program or a test. The host hands it descriptors; the copies read their own part from these. When a program's time
is over it ends every process in the box, empties the box and says how the program ended. A copy that ran a program is never used
again. Python's own library alone is imported here, so that the start takes a few hundredths of a second.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from puna.verify.box import candidate, landlock, namespaces, seccomp, syscalls
from puna.verify.box.judge import PROGRAM_GONE, judge, write_verdict
from puna.verify.box.values import END

CONTROL = 0  # descriptor of the socket to the host, in the warm interpreter alone
MOVED = 200  # descriptors are first moved above this one, then into place
LINK, JOB = 3, 4  # descriptors in the copy for a program: the judge, and its own program
WARM = (
    "abc", "array", "ast", "bisect", "calendar", "cmath", "collections", "copy", "csv", "dataclasses", "datetime", "decimal",
    "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io", "itertools", "json", "linecache", "math", "numbers",
    "operator", "pprint", "queue", "random", "re", "statistics", "string", "struct", "textwrap", "threading", "time", "traceback",
    "typing", "unittest",
)  # fmt: skip
LAST_WAIT = 0.5  # seconds for a program to be seen ending, once its judge has lost it


@dataclass(frozen=True)
class Setup:
    """How the box is made, from the host: `walls` is namespaces, bwrap (they stand already) or rlimits (there are none)."""

    walls: str
    readable: tuple[str, ...]
    packages: tuple[str, ...]
    scratch: str
    disk: int
    proc: int


def main() -> None:
    """Build the box, serve the host, and in the copies run what there is to run."""
    control = socket.socket(fileno=os.dup(CONTROL))
    fields = json.loads(sys.argv[1])
    setup = Setup(**{**fields, "readable": tuple(fields["readable"]), "packages": tuple(fields["packages"])})
    try:
        server = Zygote(control, setup)
    except Exception as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}).encode())
        os._exit(1)
    control.send(json.dumps({"ready": True}).encode())
    _to_the_end(server.serve())


class Zygote:
    """The box from inside."""

    def __init__(self, control: socket.socket, setup: Setup):
        self.control, self.walls = control, setup.walls
        self.box = setup.scratch if setup.walls == "rlimits" else namespaces.BOX
        proc = setup.proc
        if setup.walls == "namespaces":
            proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
            namespaces.enter(setup.readable, setup.scratch, setup.disk)
        elif setup.walls == "bwrap":
            namespaces.mount_box(setup.disk)
        else:
            syscalls.prctl(syscalls.PR_SET_SUBREAPER, 1)
        namespaces.give_up_rights(proc if setup.walls != "rlimits" else -1)
        if proc >= 0:
            os.close(proc)
        self.others = 0
        if setup.walls == "rlimits":
            self.others = _tasks_of(os.getuid())
            if not os.access(os.__file__, os.R_OK):
                raise PermissionError(f"user {os.getuid()} cannot read Python's library at {os.__file__}")
        sys.path[:] = [*sys.path[1:], *setup.packages]  # the first entry is Puna's own
        for name in WARM:
            importlib.import_module(name)
        self.rules = -1
        if setup.walls != "rlimits":
            if landlock.version():
                self.rules = landlock.ruleset([*setup.readable, "/dev"], [self.box, *(f"/dev/{d}" for d in namespaces.DEVICES)])
            seccomp.install()
        self.empty_box()
        gc.collect()
        gc.freeze()

    def serve(self) -> Callable[[], None]:
        """Start programs until the host has gone; returns in the copies, with what they are to do."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.control, 1 << 16, 8)
            if not message:
                os._exit(0)
            if message == END:  # of a program that had ended by itself when the word came
                continue
            order = json.loads(message)
            children: list[int] = []
            link = socket.socketpair() if order["judged"] else None
            for role in ("program", "judge") if link else ("program",):
                pid = os.fork()
                if pid == 0:
                    return partial(self.play, role, order, descriptors, link)
                children.append(pid)
            for descriptor in descriptors:
                os.close(descriptor)
            for end in link or ():
                end.close()
            self.control.send(json.dumps({"status": self.wait(children)}).encode())

    def wait(self, children: list[int]) -> int | None:
        """Wait for the program, its judge or the host's word; then end everything. The program's exit code if it ended first."""
        handles = [os.pidfd_open(pid) for pid in children]
        ready, _, _ = select.select([handles[-1], self.control.fileno()], [], [])
        status: int | None = None
        if self.control.fileno() in ready:
            if not self.control.recv(16):
                os._exit(0)
        else:
            code = os.waitstatus_to_exitcode(os.waitpid(children[-1], 0)[1])
            if len(children) == 1:
                status = code
            elif code == PROGRAM_GONE and select.select([handles[0]], [], [], LAST_WAIT)[0]:
                status = os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
        for handle in handles:
            os.close(handle)
        self.end_all()
        self.empty_box()
        return status

    def end_all(self) -> None:
        """Kill every process in the box and wait until none is left."""
        while True:
            self.kill_all()
            try:
                while os.waitpid(-1, os.WNOHANG if self.walls == "rlimits" else 0)[0]:
                    pass
            except ChildProcessError:
                return

    def kill_all(self) -> None:
        if self.walls != "rlimits":
            if os.getpid() != 1:
                raise RuntimeError("the warm interpreter is not process 1 of its box")
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                return
        else:
            for pid in _descendants(os.getpid()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def empty_box(self) -> None:
        """Remove what a program left, names and times too; a box that cannot be emptied is given up."""
        Path(self.box).chmod(0o700)
        for entry in os.scandir(self.box):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, onerror=_open_up)
            else:
                Path(entry.path).unlink()
        os.utime(self.box, (0, 0))

    def play(self, role: str, order: dict[str, Any], descriptors: list[int], link: tuple[socket.socket, ...] | None) -> None:
        """Be the program, or its judge."""
        job, stdin, stdout, stderr, *judged = descriptors
        os.setsid()
        if link and role == "judge":
            _place([judged[0], None, None, link[1].fileno(), judged[1]])
            self.close_in(order, 5)
            _judge(socket.socket(fileno=LINK))
        _place([stdin, stdout, stderr, link[0].fileno() if link else None, job])
        content = _read(JOB)
        os.chdir(self.box)
        for name, data in content["files"].items():
            path = Path(self.box, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b64decode(data))
            if order["argv"]:
                path.chmod(0o700)  # it may be what a compiler made
        self.close_in(order, LINK + 1 if link else LINK)
        if order["argv"] or order["compile"]:
            _run_command(order)
        code = content["code"]
        if link:
            candidate.serve(code, socket.socket(fileno=LINK))
        else:
            candidate.run_alone(code)

    def close_in(self, order: dict[str, Any], first_free: int) -> None:
        """Close every other descriptor and every way out."""
        bounds = {name: tuple(pair) for name, pair in order["bounds"].items()}
        bounds["RLIMIT_NPROC"] = tuple(n + self.others for n in bounds["RLIMIT_NPROC"])
        if self.rules >= 0:
            landlock.enter(self.rules)
        os.closerange(first_free, 1024)
        for name, pair in bounds.items():
            resource.setrlimit(getattr(resource, name), pair)


def _open_up(function: Callable[..., Any], path: str, error: object) -> None:
    """Give a directory that its program closed its rights back, and remove it."""
    for folder in (str(Path(path).parent), path):
        Path(folder).chmod(0o700)
    shutil.rmtree(path)


def _place(wanted: list[int | None]) -> None:
    """Put descriptors at 0, 1, 2, ...; None is /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    high = [MOVED + i for i in range(len(wanted))]
    for target, source in zip(high, wanted, strict=True):
        os.dup2(null if source is None else source, target, inheritable=False)
    for target, source in enumerate(high):
        os.dup2(source, target, inheritable=target < LINK)


def _read(descriptor: int) -> Any:
    """JSON up to the end; a text file would cost half of what a small program does."""
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return json.loads(b"".join(parts).decode("ascii"))


def _judge(connection: socket.socket) -> None:
    order = _read(0)
    verdict, complete = judge(order, connection)
    write_verdict(JOB, json.dumps(verdict).encode())
    os._exit(0 if complete else PROGRAM_GONE)


def _run_command(order: dict[str, Any]) -> None:
    """Compile if the language wants it, then become the program, or, without one, write what is there now to stdout."""
    if order["libraries"]:
        os.environ["LD_LIBRARY_PATH"] = order["libraries"]
    if order["compile"]:
        try:
            done = subprocess.run(
                order["compile"], stdin=subprocess.DEVNULL, stdout=2, timeout=order["compile_seconds"], check=False
            )
        except subprocess.TimeoutExpired:
            sys.stderr.write("the compiler took too long\n")
            sys.stderr.flush()
            os._exit(1)
        if done.returncode:
            os._exit(1)
    if order["argv"]:
        os.execv(order["argv"][0], order["argv"])
    made = [Path(entry.path) for entry in os.scandir() if entry.is_file(follow_symlinks=False)]
    sys.stdout.write(json.dumps({path.name: b64encode(path.read_bytes()).decode() for path in made}))
    sys.stdout.flush()
    os._exit(0)


def _to_the_end(program: Callable[[], None]) -> None:
    """Run it and end as an interpreter does, but for the taking apart of modules, which would cost more than most programs."""
    code = 0
    try:
        program()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        code = 1
        candidate.show_error(error)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def _tasks_of(uid: int) -> int:
    """Threads of a user's processes, for the bound that counts them all."""
    total = 0
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and process.stat().st_uid == uid:
                total += len(list((process / "task").iterdir()))
        except OSError:  # it has ended meanwhile
            continue
    return total


def _descendants(pid: int) -> list[int]:
    """Every process below one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found
