"""The box: namespaces of its own for processes, network, mounts and System V objects, a root directory built from read-only
pieces, and a user without any right.

As root the namespaces are made with root's rights, which are then given up for those of an unprivileged user; that user enters
a namespace of users of its own, so that the bound on processes counts this box alone. As any other user the namespace of users
comes first and gives the rights to make the others.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from puna.verify.box import syscalls as sys_

NOBODY = 65534
BOX = "/box"
DEVICES = ("null", "zero", "full", "random", "urandom")
MAX_FILES = 4096  # in the box


def enter(readable: Sequence[str], scratch: str, disk: int) -> None:
    """Put this process, as process 1, into a box that shows `readable` and an empty BOX of `disk` bytes, and nothing else.

    `scratch` is an empty directory to build the box on. The calling process stays outside and ends as the one inside does.
    """
    if os.getuid() != 0:
        uid, gid = os.getuid(), os.getgid()
        sys_.unshare(sys_.CLONE_NEWUSER)
        map_user("/proc/self", uid, gid)
    sys_.unshare(sys_.CLONE_NEWNS | sys_.CLONE_NEWPID | sys_.CLONE_NEWNET | sys_.CLONE_NEWIPC | sys_.CLONE_NEWUTS)
    child = os.fork()
    if child:
        _stand_by(child)
    build_root(readable, scratch, disk)


def _stand_by(child: int) -> None:
    """Hold nothing open and end with the box; if killed, take the box along."""
    os.closerange(0, 3)
    os.closerange(3, 1024)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def map_user(process: str, uid: int, gid: int) -> None:
    """Call the user of a new namespace NOBODY inside of it."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        Path(process, name).write_text(text)


def build_root(readable: Sequence[str], scratch: str, disk: int) -> None:
    """A root directory in memory with what is shown bound read-only at its own path; links stay links."""
    sys_.mount("none", "/", flags=sys_.MS_REC | sys_.MS_PRIVATE)
    sys_.mount("tmpfs", scratch, "tmpfs", sys_.MS_NOSUID | sys_.MS_NODEV, "size=1m,mode=755")
    for path in readable:
        inside = Path(scratch + path)
        inside.parent.mkdir(parents=True, exist_ok=True)
        if Path(path).is_symlink():
            inside.symlink_to(Path(path).readlink())
        else:
            _bind(path, inside, sys_.ATTR_RDONLY | sys_.ATTR_NOSUID | sys_.ATTR_NODEV)
    Path(scratch, "dev").mkdir()
    for name in DEVICES:
        _bind(f"/dev/{name}", Path(scratch, "dev", name), sys_.ATTR_NOSUID)
    Path(scratch, "dev", "shm").symlink_to(BOX)
    Path(scratch + BOX).mkdir()
    if not Path(scratch, "tmp").exists():
        Path(scratch, "tmp").symlink_to(BOX)
    sys_.pivot_root(scratch)
    mount_box(disk)
    sys_.seal_mount("/", sys_.ATTR_RDONLY, below=False)


def mount_box(disk: int) -> None:
    """An empty directory in memory, of bounded size, for the program to write in."""
    sys_.mount("tmpfs", BOX, "tmpfs", sys_.MS_NOSUID | sys_.MS_NODEV, f"size={disk},nr_inodes={MAX_FILES},mode=700")
    if os.getuid() == 0:
        os.chown(BOX, NOBODY, NOBODY)


def _bind(source: str, target: Path, attributes: int) -> None:
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.touch()
    sys_.mount(source, str(target), flags=sys_.MS_BIND | sys_.MS_REC)
    sys_.seal_mount(str(target), attributes)


def give_up_rights(proc: int) -> None:
    """Become NOBODY for good: no capability, no way to one, not to be traced, ended with the parent.

    `proc` is a descriptor of a /proc, or -1 where there is none: then, as root, the bound on processes counts all of NOBODY's.
    """
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        if proc >= 0:
            sys_.prctl(sys_.PR_SET_DUMPABLE, 1)  # else the new user does not own its own entry in /proc
            sys_.unshare(sys_.CLONE_NEWUSER)
            os.fchdir(proc)  # the box shows no /proc
            map_user("self", NOBODY, NOBODY)
            os.chdir("/")
    sys_.prctl(sys_.PR_SET_NO_NEW_PRIVS, 1)
    sys_.drop_capabilities()
    sys_.prctl(sys_.PR_SET_DUMPABLE, 0)
    sys_.prctl(sys_.PR_SET_PDEATHSIG, signal.SIGKILL)
