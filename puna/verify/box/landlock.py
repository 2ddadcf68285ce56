"""Landlock: which files a process and its children may reach, by the kernel and without any privilege (Linux 5.13).

One rule set is made in the warm interpreter; each program enters a domain of its own. Processes of one domain cannot trace, and
from Linux 6.12 cannot signal, those outside it, although they have the same user.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from puna.verify.box.syscalls import LANDLOCK_ADD, LANDLOCK_CREATE, LANDLOCK_RESTRICT, syscall

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
READ = EXECUTE | READ_FILE | READ_DIR
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15  # truncate and ioctl among them
RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights on files an ABI knows
OUT_OF_THE_WAY = 300  # the descriptor of the rules is at least this
TCP, SCOPES = 3, 3  # bind and connect; abstract sockets and signals


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """The kernel's Landlock ABI, 0 where there is none."""
    try:
        return syscall(LANDLOCK_CREATE, None, 0, 1)
    except OSError:
        return 0


def ruleset(readable: Iterable[str], writable: Iterable[str]) -> int:
    """A descriptor of rules: read and execute below `readable`, everything below `writable`; no TCP, no signals out."""
    abi = version()
    every = (1 << RIGHTS_BY_ABI.get(abi, 16)) - 1
    attributes = (ctypes.c_uint64 * 3)(every, TCP if abi >= 4 else 0, SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    made = syscall(LANDLOCK_CREATE, ctypes.byref(attributes), size, 0)
    rules = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY)
    os.close(made)
    for paths, rights in ((readable, READ), (writable, every)):
        for path in paths:
            _allow(rules, path, rights & every)
    return rules


def _allow(rules: int, path: str, rights: int) -> None:
    if not Path(path).exists():
        return
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(rights if Path(path).is_dir() else rights & FILE_RIGHTS, parent)
        syscall(LANDLOCK_ADD, rules, 1, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def enter(rules: int) -> None:
    """Put this process and all it will start under the rules, for good."""
    syscall(LANDLOCK_RESTRICT, rules, 0)
