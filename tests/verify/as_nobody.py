"""Runs a Python program as an unprivileged user, for tests started by root; where only root may read the interpreter, in a mount
namespace of its own that shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from puna.verify.box import syscalls
from puna.verify.box.namespaces import NOBODY

ROOT = Path(__file__).parents[2]


def run_as_nobody(code: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """What a program does that is started with another user's rights, Puna importable."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    command = [sys.executable, __file__, code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, cwd="/", check=False)


def _show_interpreter() -> None:
    """Put the interpreter alone where directories closed to others were."""
    prefix = Path(os.path.realpath(sys.base_prefix))
    closed = [folder for folder in (prefix, *prefix.parents) if not folder.stat().st_mode & 0o001]
    if not closed:
        return
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    kept = os.open(prefix, os.O_PATH | os.O_DIRECTORY)
    syscalls.mount("tmpfs", str(closed[-1]), "tmpfs", 0, "mode=755")
    prefix.mkdir(parents=True)
    syscalls.mount(f"/proc/self/fd/{kept}", str(prefix), flags=syscalls.MS_BIND | syscalls.MS_REC)


if __name__ == "__main__":
    interpreter = os.path.realpath(sys._base_executable)  # type: ignore[attr-defined]
    _show_interpreter()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execv(interpreter, [interpreter, "-c", *sys.argv[1:]])
