"""One class tree for everything that can go wrong, printed as what / where / fix and never as a traceback.

Bad input exits with 2, a failed run with 1, a preempted one with 143 (the shell's code for SIGTERM).
"""

from __future__ import annotations


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
