"""What a program may use, what is run, and what came of it: plain values that the parts of the sandbox pass to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

MB = 2**20
Status = Literal["passed", "failed", "error", "timeout", "memory", "killed", "output"]


@dataclass(frozen=True)
class Limits:
    """Bounds of one program with all the processes it starts.

    Attributes:
        seconds: wall-clock time; the seconds of processor time of each process are bounded by the same number, rounded up.
        memory: bytes of resident memory of all processes together, and bytes of address space of each.
        processes: processes and threads alive at once.
        file: bytes of one file; disk: bytes of all files; open_files: descriptors of one process.
        output: bytes of stdout and of stderr; a program that writes more is stopped.
        compile_seconds: wall-clock time on top, for a language that is compiled.
    """

    seconds: float = 5.0
    memory: int = 512 * MB
    processes: int = 64
    file: int = 32 * MB
    disk: int = 64 * MB
    open_files: int = 64
    output: int = MB
    compile_seconds: float = 20.0


@dataclass(frozen=True)
class Job:
    """One program and what it is tested with.

    Attributes:
        tests: Python texts, each run in order in one namespace that knows the program's names; or pairs (stdin, stdout) of whole
            programs, compared by their lines without trailing white space.
        entry_point: the function under test, where a test names it `candidate` or hands it to `check`; it may then be called as a
            built-in is.
        files: put into the working directory before the program starts.
        limits: in place of the sandbox's.
    """

    code: str
    tests: str | Sequence[str] | Sequence[tuple[str, str]] = ()
    stdin: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    entry_point: str = ""
    language: str = "python"
    limits: Limits | None = None


@dataclass(frozen=True)
class TestResult:
    """One test: whether it held, and if not what it said."""

    __test__ = False  # pytest collects classes of this name

    passed: bool
    error: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a program.

    Attributes:
        status: `passed` (every test held; without tests: it ended with code 0), `failed` (a test did not hold), `error` (it did
            not load, raised, or ended with another code), `timeout`, `memory`, `output` (a limit met), `killed` (by a signal).
        results: one per test that was run.
        returncode: of the program, negative for a signal; None where it still ran when its tests or its time were over.
        seconds: wall-clock time from its start.
    """

    status: Status
    results: tuple[TestResult, ...] = ()
    stdout: str = ""
    stderr: str = ""
    returncode: int | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all of it held."""
        return self.status == "passed"
