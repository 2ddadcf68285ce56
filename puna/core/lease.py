"""Who may write: a lock file that says who holds it, and frees itself when the holder is gone.

The lock proper is `flock`, which the kernel drops when the last process holding it has died, kill -9 included. The file
also carries who holds it and is touched as a heartbeat, which is what a person needs to read and what decides on file
systems whose locks survive a dead machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from puna.core.errors import InputError

BEAT_S = 10.0  # a heartbeat this often
STALE_S = 90.0  # without one for this long the holder is taken to be gone (Marin uses 30 and 90)
OTHER_RUN = "wait for it or stop it; another `name=...` gives a run of its own"


class Lease:
    """An exclusive hold on a path. `take` returns False while another process has it."""

    def __init__(self, path: Path):
        self.path = path
        self._handle: int | None = None
        self._beaten = 0.0

    def take(self) -> bool:
        """Try once. A holder on another machine whose heartbeat is stale loses the lease."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        if not self._lock(handle):
            os.close(handle)
            holder = self.holder()
            if holder.get("host") in (None, socket.gethostname()) or time.time() - self._seen() < STALE_S:
                return False
            self.path.unlink(missing_ok=True)
            return self.take()
        if not _same_file(handle, self.path):  # the holder removed the file between open and lock
            os.close(handle)
            return self.take()
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}).encode(), 0)
        self._handle = handle
        return True

    def take_or_refuse(self, what: str, patience_s: float = 3.0, fix: str = OTHER_RUN) -> None:
        """Take the lease or raise InputError naming the holder; waits a moment for one that is just ending."""
        until = time.monotonic() + patience_s
        while not self.take():
            if time.monotonic() > until:
                holder = self.holder()
                raise InputError(
                    f"{what} is in use by process {holder.get('pid', '?')} on {holder.get('host', 'this machine')} "
                    f"(last sign of life {max(0.0, time.time() - self._seen()):.0f} s ago)",
                    where=str(self.path),
                    fix=fix,
                )
            time.sleep(0.1)

    @contextmanager
    def held(self, what: str, *, fix: str, patience_s: float = 1.0) -> Iterator[None]:
        """Hold the lease for a block of work without a loop to beat in: a thread beats. Refuses as `take_or_refuse` does."""
        self.take_or_refuse(what, patience_s, fix)
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_S):
                with suppress(FileNotFoundError):  # removed by hand: flock still holds
                    os.utime(self.path)

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            self.free()

    def beat(self) -> None:
        """Say that the holder lives; cheap enough for every turn of a loop."""
        if self._handle is not None and time.monotonic() - self._beaten > BEAT_S:
            os.utime(self.path)
            self._beaten = time.monotonic()

    def free(self, *, remove: bool = True) -> None:
        """Give the lease back."""
        if self._handle is not None:
            if remove:
                self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    def holder(self) -> dict[str, Any]:
        """What the holder wrote, empty when nobody did."""
        try:
            return json.loads(self.path.read_text() or "{}")
        except (OSError, json.JSONDecodeError):
            return {}

    def _seen(self) -> float:
        try:
            return self.path.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @staticmethod
    def _lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False


def is_held(path: Path) -> bool:
    """Whether some process holds the lease at `path` now."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not Lease._lock(handle)
    finally:
        os.close(handle)


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
