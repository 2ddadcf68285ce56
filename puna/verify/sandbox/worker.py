"""One box from outside: start its warm interpreter, hand it a program, read what comes out, and stop it at a bound.

Every program gets pipes of its own. What it writes is read up to the bound and no further; its processes' memory is summed from
/proc while it runs; at the deadline the box is told to end everything. A box that does not answer then is killed and replaced.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.core.errors import RunError
from puna.verify.box.values import END
from puna.verify.sandbox.languages import Language
from puna.verify.sandbox.limits import Job, Limits, Outcome, Status, TestResult

FIRST_LOOK, NEXT_LOOK = 0.02, 0.02  # seconds between looks at the memory in use
GRACE = 5.0  # seconds for the box to end what is in it
START = 20.0  # seconds for a box to be built
VERDICT_BYTES = 16 * 2**20
CHUNK = 1 << 16
OWN_PROCESSES = 3  # of the box, beside the program's


class BoxError(Exception):
    """The box could not be built, or does not answer."""


@dataclass
class _Stream:
    """One pipe while a program runs: bytes to be written to it, or bytes read from it up to a bound."""

    descriptor: int
    bound: int = 0
    data: bytearray = field(default_factory=bytearray)


class Worker:
    """A box with a warm interpreter. `command` starts it, with `environment` alone and the descriptors `passed`.

    `keep` says that programs run in `scratch` itself, which then goes with the box.
    """

    def __init__(
        self, command: list[str], environment: dict[str, str], scratch: str, passed: tuple[int, ...] = (), keep: bool = False
    ):
        self.scratch = scratch
        self.control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with inside:
            self.process = subprocess.Popen(
                command,
                stdin=inside.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                pass_fds=passed,
                cwd="/",
            )
        self.control.settimeout(START)
        try:
            answer = json.loads(self.control.recv(CHUNK) or b"{}")
        except (OSError, ValueError):
            answer = {}
        if not answer.get("ready"):
            self.process.kill()
            said = self.process.communicate()[1].decode("utf-8", "replace").strip()
            self.close()
            raise BoxError(answer.get("error") or said[-300:] or "it ended without a word")
        if not keep:
            Path(scratch).rmdir()  # the box has its own root by now; a process that is killed leaves nothing behind

    @property
    def lost(self) -> bool:
        """Whether the box has ended, whatever ended it."""
        return self.process.poll() is not None

    def close(self) -> None:
        """End the box and remove what it was built on."""
        self.control.close()
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            for pid in (*children_of(self.process.pid), self.process.pid):  # process 1 of the box takes all in it along
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def run(self, job: Job, limits: Limits, language: Language) -> Outcome:
        """What came of one program; BoxError where the box is lost with it."""
        tests = [job.tests] if isinstance(job.tests, str) else list(job.tests)
        return _Run(self, job, limits, language, [str(test) for test in tests]).outcome()


class _Run:
    def __init__(self, worker: Worker, job: Job, limits: Limits, language: Language, tests: list[str]):
        self.worker, self.limits, self.language, self.tests = worker, limits, language, tests
        self.word = secrets.token_hex(16)
        self.selector = selectors.DefaultSelector()
        self.inputs: dict[int, _Stream] = {}
        self.outputs: dict[str, _Stream] = {}
        self.broken: Status | None = None
        files = {name: b64encode(data).decode() for name, data in job.files.items()}
        if language.source:
            files[language.source] = b64encode(job.code.encode("utf-8", "surrogatepass")).decode()
        ends = [
            self._feed(json.dumps({"code": job.code, "files": files}).encode()),
            self._feed(job.stdin.encode("utf-8", "replace")),
        ]
        ends += [self._read(name, limits.output) for name in ("stdout", "stderr")]
        if tests:
            order = {"word": self.word, "tests": tests, "entry_point": job.entry_point}
            ends += [self._feed(json.dumps(order).encode()), self._read("verdict", VERDICT_BYTES)]
        self.start = time.monotonic()
        try:
            socket.send_fds(worker.control, [json.dumps(self._order(bool(tests))).encode()], ends)
        except OSError as error:
            self._close()
            raise BoxError(f"it is gone: {error}") from error
        finally:
            for end in ends:
                os.close(end)

    def _feed(self, data: bytes) -> int:
        inside, outside = os.pipe()
        os.set_blocking(outside, False)
        self.inputs[outside] = _Stream(outside, data=bytearray(data))
        self._write(self.inputs[outside], register=True)
        return inside

    def _read(self, name: str, bound: int) -> int:
        outside, inside = os.pipe()
        os.set_blocking(outside, False)
        self.outputs[name] = _Stream(outside, bound)
        self.selector.register(outside, selectors.EVENT_READ, name)
        return inside

    def _order(self, judged: bool) -> dict[str, Any]:
        limits, compiled = self.limits, bool(self.language.compile)
        cpu = int(limits.seconds + (limits.compile_seconds if compiled else 0)) + 1
        bounds = {
            "RLIMIT_CPU": (cpu, cpu + 1),
            "RLIMIT_FSIZE": (limits.file, limits.file),
            "RLIMIT_NPROC": (limits.processes + OWN_PROCESSES,) * 2,
            "RLIMIT_NOFILE": (limits.open_files, limits.open_files),
            "RLIMIT_CORE": (0, 0),
        }
        if self.language.address_space:
            bounds["RLIMIT_AS"] = (limits.memory, limits.memory)
        language = self.language
        command = {"argv": language.argv, "compile": language.compile, "compile_seconds": limits.compile_seconds}
        command["libraries"] = ":".join(language.libraries)
        return {"judged": judged, "bounds": bounds, **command}

    def outcome(self) -> Outcome:
        """Read until the box says that it has ended the program."""
        try:
            answer = self._follow()
            seconds = time.monotonic() - self.start
            self._drain()
        finally:
            self._close()
        return self._concluded(answer["status"], seconds)

    def _close(self) -> None:
        for stream in (*self.inputs.values(), *self.outputs.values()):
            os.close(stream.descriptor)
        self.selector.close()

    def _follow(self) -> dict[str, Any]:
        control = self.worker.control
        self.selector.register(control, selectors.EVENT_READ, "control")
        allowed = self.limits.seconds + (self.limits.compile_seconds if self.language.compile else 0)
        deadline, look = self.start + allowed, self.start + FIRST_LOOK
        while True:
            now = time.monotonic()
            if now >= deadline and self.broken:
                raise BoxError("it does not end what is in it")
            if now >= deadline:
                deadline = self._break("timeout")
            elif now >= look and not self.broken:
                look = now + NEXT_LOOK
                if memory_of(self.worker.process.pid) > self.limits.memory:
                    deadline = self._break("memory")
            for key, _ in self.selector.select(max(0.0, min(deadline, look if not self.broken else deadline) - now)):
                if key.data == "control":
                    return self._answer()
                if key.data == "input":
                    self._write(self.inputs[key.fd])
                elif self._take(self.outputs[key.data]) and not self.broken:
                    deadline = self._break("output")

    def _answer(self) -> dict[str, Any]:
        try:
            return json.loads(self.worker.control.recv(CHUNK))
        except (OSError, ValueError) as error:
            raise BoxError("it ended with the program") from error

    def _break(self, why: Status) -> float:
        """Have the box end everything; when that must be done."""
        self.broken = why
        try:
            self.worker.control.send(END)
        except OSError as error:
            raise BoxError("it is gone") from error
        return time.monotonic() + GRACE

    def _write(self, stream: _Stream, register: bool = False) -> None:
        try:
            while stream.data:
                del stream.data[: os.write(stream.descriptor, stream.data[:CHUNK])]
        except BlockingIOError:
            if register:
                self.selector.register(stream.descriptor, selectors.EVENT_WRITE, "input")
            return
        except BrokenPipeError:
            pass
        if not register:
            self.selector.unregister(stream.descriptor)
        del self.inputs[stream.descriptor]
        os.close(stream.descriptor)

    def _take(self, stream: _Stream) -> bool:
        """Read what is there; whether it is more than may be."""
        try:
            part = os.read(stream.descriptor, CHUNK)
        except BlockingIOError:
            return False
        if not part:
            self.selector.unregister(stream.descriptor)
        stream.data += part[: max(0, stream.bound - len(stream.data) + 1)]
        if len(stream.data) > stream.bound:
            del stream.data[stream.bound :]
            return True
        return False

    def _drain(self) -> None:
        """What was written before the end and not yet read."""
        for stream in self.outputs.values():
            while True:
                try:
                    part = os.read(stream.descriptor, CHUNK)
                except BlockingIOError:
                    break
                if not part:
                    break
                if len(stream.data) + len(part) > stream.bound:
                    self.broken = self.broken or "output"
                stream.data += part[: stream.bound - len(stream.data)]

    def _concluded(self, code: int | None, seconds: float) -> Outcome:
        texts = [self.outputs[name].data.decode("utf-8", "replace") for name in ("stdout", "stderr")]
        verdict = self._verdict()
        results = tuple(TestResult(bool(held), str(said)) for held, said in verdict.get("results", ()))
        if verdict.get("error") and not texts[1]:
            texts[1] = verdict["error"]
        status = self.broken or self._status(code, verdict, results, texts[1])
        return Outcome(status, results, texts[0], texts[1], None if self.broken else code, seconds)

    def _status(self, code: int | None, verdict: dict[str, Any], results: tuple[TestResult, ...], stderr: str) -> Status:
        if self.tests and verdict.get("loaded") and results and all(result.passed for result in results):
            return "passed"
        if verdict.get("memory") or stderr.rstrip().rpartition("\n")[2].startswith("MemoryError"):
            return "memory"
        if code is not None and code < 0:
            return "timeout" if code == -24 else "killed"  # SIGXCPU: its processor time was over
        if self.tests:
            return "failed" if verdict.get("loaded") else "error"
        return "passed" if code == 0 else "error"

    def _verdict(self) -> dict[str, Any]:
        if not self.tests:
            return {}
        try:
            verdict = json.loads(self.outputs["verdict"].data)
        except ValueError:
            return {}
        return verdict if isinstance(verdict, dict) and secrets.compare_digest(str(verdict.get("word")), self.word) else {}


def memory_of(pid: int) -> int:
    """Bytes that a process and all below it hold: own, shared and huge pages and page tables, not the files they have mapped."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:", "HugetlbPages:", "VmPTE:")):
                total += int(line.split()[1]) * 1024
    except OSError:
        return 0
    return total + sum(map(memory_of, children_of(pid)))


def children_of(pid: int) -> list[int]:
    """Processes that a process has started and not yet waited for."""
    try:
        return [int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]
    except OSError:
        return []


def scratch_directory() -> str:
    """An empty directory to build a box on."""
    try:
        return tempfile.mkdtemp(prefix="puna-sandbox-")
    except OSError as error:
        raise RunError(
            "no temporary directory can be made for the sandbox", where=tempfile.gettempdir(), fix=str(error)
        ) from error
