"""One class tree for everything that can go wrong, printed as what / where / fix and never as a traceback.

Bad input exits with 2, a failed run with 1, a preempted one with 143 (the shell's code for SIGTERM).
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

FULL_DISK = ("No space left on device", "os error 28", "Disk quota exceeded")  # native libraries only say so in words


class PunaError(Exception):
    """A problem the user can act on.

    Args:
        what: one sentence, what is wrong.
        where: the file, row, key or stage concerned.
        fix: what to type or change next.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None):
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)

    def sentence(self) -> str:
        """The same on one line, for programs and web pages."""
        return self.what + (f" ({self.where})" if self.where else "") + (f": {self.fix}" if self.fix else "")

    def __reduce__(self) -> tuple:
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(cls: type[PunaError], what: str, where: str | None, fix: str | None) -> PunaError:
    return cls(what, where=where, fix=fix)


class InputError(PunaError):
    """Input the user gave is missing, broken or contradictory (exit code 2)."""


class RunError(PunaError):
    """A run started from good input and could not be finished (exit code 1)."""

    exit_code = 1


class Preempted(PunaError):
    """The process was asked to stop, saved its state and can be resumed (exit code 143)."""

    exit_code = 143


def resource_error(error: BaseException, path: Path | None = None) -> RunError | None:
    """A full disk or exhausted memory anywhere in the chain of causes, as a RunError; None for every other error.

    Args:
        path: what was being written, where that is known.
    """
    seen: BaseException | None = error
    while seen is not None:
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(words in str(seen) for words in FULL_DISK):
            folder = next((p for p in path.absolute().parents if p.is_dir()), None) if path else None
            return RunError(
                "the disk is full" + (f" ({shutil.disk_usage(folder).free // 2**20} MB left)" if folder else ""),
                where=str(folder) if folder else getattr(seen, "filename", None),
                fix="free space (puna gc removes what no run uses), or write elsewhere; the same command continues",
            )
        if isinstance(seen, MemoryError):
            return RunError(
                "the memory is exhausted", where=path.name if path else None, fix="use fewer --cores; the same command continues"
            )
        seen = seen.__cause__ or seen.__context__
    return None
