"""The sandbox as it is used: some boxes with warm interpreters, and programs sent through them."""

from __future__ import annotations

import json
import queue
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from puna.core.errors import InputError, RunError
from puna.verify.sandbox import tiers
from puna.verify.sandbox.languages import Language, languages
from puna.verify.sandbox.limits import Job, Limits, Outcome, TestResult
from puna.verify.sandbox.worker import BoxError, Worker

BUILT_BYTES = 16 * 2**20  # of what a compiler made, as text


class Sandbox:
    """Runs programs in `workers` boxes of one tier, each program in a fresh copy of a warm interpreter. A context manager.

    Args:
        tier: one of `tiers.TIERS`, as it is; by default the strongest that stops every attack of the self-test here.
        allow_unsandboxed: take the tier without walls if no other can be had, or if it is named.
        packages: directories that programs may import from beside Python's own library, read-only.

    Raises InputError where no tier stops every attack.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        workers: int = 2,
        tier: str | None = None,
        *,
        allow_unsandboxed: bool = False,
        packages: Sequence[str] = (),
    ):
        tiers.require_linux()
        self.limits, self.packages = limits or Limits(), tuple(packages)
        self.tier = tier or _chosen(allow_unsandboxed)
        if self.tier not in tiers.TIERS:
            raise InputError(f"there is no sandbox of tier '{tier}'", fix=f"use one of: {', '.join(tiers.TIERS)}")
        if self.tier == tiers.UNWALLED and not allow_unsandboxed:
            raise InputError(
                "this sandbox has no walls: programs can read and change what this user can, and reach the network",
                where=f"tier '{tier}'",
                fix="leave the tier to the self-test, or allow it in so many words: allow_unsandboxed=True",
            )
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._size = workers
        self._opener = ThreadPoolExecutor(1)  # a box ends with the thread that started it, so one that stays starts them all
        try:
            for _ in range(workers):
                self._idle.put(self._open())
        except BoxError as error:
            self.close()
            fix = "see which tiers work here: puna doctor"
            raise InputError(f"a sandbox of tier '{self.tier}' cannot be built here", where=str(error), fix=fix) from error

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End every box."""
        while not self._idle.empty():
            self._idle.get().close()
        self._opener.shutdown()

    def run_python(
        self,
        code: str,
        *,
        tests: str | Sequence[str] = (),
        stdin: str = "",
        files: Mapping[str, bytes] | None = None,
        entry_point: str = "",
    ) -> Outcome:
        """What came of a Python program: as a whole, or loaded and tested."""
        return self.run_job(Job(code, tests, stdin, files or {}, entry_point))

    def run(
        self,
        language: str,
        code: str,
        *,
        tests: str | Sequence[str] | Sequence[tuple[str, str]] = (),
        stdin: str = "",
        files: Mapping[str, bytes] | None = None,
    ) -> Outcome:
        """What came of a program in any of `languages()`; InputError for one that is not installed."""
        return self.run_job(Job(code, tests, stdin, files or {}, language=language))

    def map_python(self, jobs: Iterable[Job]) -> list[Outcome]:
        """Outcomes of many programs, in order, as many at a time as there are boxes; one with several inputs is compiled once."""
        listed = list(jobs)
        alike: dict[object, list[int]] = {}
        for i, job in enumerate(listed):
            compiled = not job.tests and job.language in languages() and languages()[job.language].compile
            key = (job.language, job.code, job.limits, *sorted(job.files.items())) if compiled else i
            alike.setdefault(key, []).append(i)
        with ThreadPoolExecutor(self._size) as threads:  # a job waits for an idle box
            found = threads.map(lambda places: self._alike([listed[i] for i in places]), alike.values())
            outcomes = {
                i: one for places, some in zip(alike.values(), found, strict=True) for i, one in zip(places, some, strict=True)
            }
        return [outcomes[i] for i in range(len(listed))]

    def run_job(self, job: Job) -> Outcome:
        """What came of one program. Its own `limits` hold instead of the sandbox's, but for `disk`."""
        language = _language(job)
        tests = [job.tests] if isinstance(job.tests, str) else list(job.tests)
        if tests and not isinstance(tests[0], str):
            return self._compared(job, [(str(stdin), str(stdout)) for stdin, stdout in tests], language)
        if tests and job.language != "python":
            raise InputError("tests of such a program are pairs (stdin, stdout)", where=job.language, fix='tests: [["1 2", "3"]]')
        return self._boxed(job, language)

    def _alike(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Outcomes of one job, or of several without tests that differ in their input alone."""
        if len(jobs) == 1:
            return [self.run_job(jobs[0])]
        built = self._built(jobs[0], _language(jobs[0]))
        if isinstance(built, Outcome):
            return [built] * len(jobs)
        return [self._boxed(replace(built[0], stdin=job.stdin), built[1]) for job in jobs]

    def _compared(self, job: Job, pairs: list[tuple[str, str]], language: Language) -> Outcome:
        """A whole program run once for each input until one output is wrong; the comparison is made out here."""
        built = self._built(job, language) if language.compile and len(pairs) > 1 else (job, language)
        results: list[TestResult] = []
        for stdin, wanted in pairs:
            if isinstance(built, Outcome):
                outcome = built
            else:
                outcome = self._boxed(replace(built[0], tests=(), stdin=stdin), built[1])
            held = outcome.passed and _lines(outcome.stdout) == _lines(wanted)
            results.append(TestResult(held, "" if held else f"{outcome.status}: {outcome.stdout[:200]!r}"))
            if not held:
                return replace(outcome, status="failed" if outcome.passed else outcome.status, results=tuple(results))
        return replace(outcome, results=tuple(results))

    def _built(self, job: Job, language: Language) -> tuple[Job, Language] | Outcome:
        """A job that brings what its compiler made, and its language without one; the outcome if it does not compile."""
        limits = job.limits or self.limits
        only = replace(job, tests=(), stdin="", limits=replace(limits, output=BUILT_BYTES))
        outcome = self._boxed(only, replace(language, argv=()))
        if outcome.status == "output":  # too large to carry: it is compiled for each input then
            return job, language
        if not outcome.passed:
            return replace(outcome, stderr=outcome.stderr[: limits.output])
        made = {name: b64decode(data) for name, data in json.loads(outcome.stdout).items()}
        return replace(job, files={**job.files, **made}), replace(language, compile=())

    def boxes(self) -> list[int]:
        """Process ids of the boxes that are idle."""
        return [worker.process.pid for worker in list(self._idle.queue)]

    def _boxed(self, job: Job, language: Language) -> Outcome:
        worker = self._idle.get()
        try:
            if worker.lost:
                worker = self._reopened()
            return worker.run(job, job.limits or self.limits, language)
        except BoxError as error:
            worker.close()
            return Outcome("killed", stderr=f"the box was lost: {error}")
        except BaseException:  # a program may still run in it
            worker.close()
            raise
        finally:
            self._idle.put(worker)  # one that was lost is replaced when its turn comes, else all who wait would wait for ever

    def _reopened(self) -> Worker:
        try:
            return self._open()
        except BoxError as error:
            raise RunError("a box of the sandbox was lost and cannot be built again", where=self.tier, fix=str(error)) from error

    def _open(self) -> Worker:
        return self._opener.submit(tiers.open_worker, self.tier, self.limits, self.packages).result()


def _language(job: Job) -> Language:
    """The language of a job; InputError for one that is not installed, and for files that would not lie beside the program."""
    known = languages()
    if job.language not in known:
        raise InputError(
            f"no compiler or interpreter for '{job.language}'", where="sandbox", fix=f"use one of: {', '.join(known)}"
        )
    for name in job.files:
        if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name:
            raise InputError("a file of a program must lie in its own directory", where=repr(name), fix="name it data/a.txt")
    return known[job.language]


def _chosen(allow_unsandboxed: bool) -> str:
    from puna.verify.sandbox.selftest import choose  # which attacks a sandbox, and so imports this file

    return choose(allow_unsandboxed)


def _lines(text: str) -> list[str]:
    """Lines without trailing white space, and without empty ones at the end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
