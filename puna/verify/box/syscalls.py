"""Linux system calls that Python has no function for, by number through ctypes: the walls of the sandbox need no library.

Numbers are those of the kernel's tables (`asm/unistd_64.h` for x86_64, `asm-generic/unistd.h` for aarch64); calls added since
2019 have one number everywhere.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

MACHINE = platform.machine()
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x1000, 0x4000, 0x40000, 0x2, 0x4
MNT_DETACH = 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 36, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SECCOMP = {"x86_64": 317, "aarch64": 277}
MOUNT_SETATTR, LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 442, 444, 445, 446
LAST_CAPABILITY = 63  # of the two 32-bit words the kernel keeps; those it does not know are refused and that is no harm
CAPABILITY_VERSION = 0x20080522


def supported() -> bool:
    """Whether this is Linux on a processor whose numbers are known here."""
    return sys.platform == "linux" and MACHINE in SECCOMP


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: object) -> int:
    """The call's result; OSError with its errno."""
    libc = _libc()
    libc.syscall.restype = ctypes.c_long
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(libc.syscall(ctypes.c_long(number), *plain))


def prctl(option: int, value: int = 0) -> None:
    """prctl with one argument."""
    _checked(_libc().prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    _checked(_libc().unshare(flags))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    texts = [text.encode() if text else None for text in (source, target, kind)]
    _checked(_libc().mount(*texts, ctypes.c_ulong(flags), data.encode() if data else None))


def seal_mount(path: str, attributes: int, *, below: bool = True) -> None:
    """Set attributes of a mount, and of all below it, beside those it has (a plain remount would have to repeat these)."""
    attr = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    syscall(MOUNT_SETATTR, AT_FDCWD, path.encode(), AT_RECURSIVE if below else 0, ctypes.byref(attr), ctypes.sizeof(attr))


def pivot_root(new_root: str) -> None:
    """Make `new_root`, a mount, the root, and let go of the old one."""
    os.chdir(new_root)
    syscall(PIVOT_ROOT[MACHINE], b".", b".")  # the old root lies on top of the new one, where "." still is
    _checked(_libc().umount2(b".", MNT_DETACH))
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability, and with them any way to get one back through a program."""
    libc = _libc()
    for capability in range(LAST_CAPABILITY + 1):
        libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    header, none = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    _checked(libc.capset(header, none))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
