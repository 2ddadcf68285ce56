"""The three ways to build a box, strongest first, and how each is started.

bwrap        bubblewrap builds namespaces and root directory; the warm interpreter adds Landlock, seccomp and bounds
namespaces   the same walls built by Puna itself
rlimits      bounds on resources alone, no walls: only for who asks for it by name
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from puna.core.errors import InputError
from puna.verify.box import syscalls
from puna.verify.box.namespaces import BOX, DEVICES, NOBODY
from puna.verify.sandbox.languages import PATH, needed_directories
from puna.verify.sandbox.limits import Limits
from puna.verify.sandbox.worker import BoxError, Worker, scratch_directory

WALLED, UNWALLED = ("bwrap", "namespaces"), "rlimits"
TIERS = (*WALLED, UNWALLED)
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/ld.so.cache")
ROOT = str(Path(__file__).parents[3])  # where the package lies
INSIDE = "/puna"  # where bubblewrap puts it, for the warm interpreter alone
START = "import sys; sys.path.insert(0, sys.argv[2]); from puna.verify.box.zygote import main; main()"


def open_worker(tier: str, limits: Limits, packages: Sequence[str] = ()) -> Worker:
    """A box of a tier; BoxError where it cannot be built here."""
    readable = _readable(packages)
    scratch = scratch_directory()
    if tier == UNWALLED and os.getuid() == 0:
        os.chown(scratch, NOBODY, NOBODY)
    home = scratch if tier == UNWALLED else BOX
    environment = {"PATH": PATH, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    setup = {"walls": tier, "readable": readable, "packages": list(packages), "scratch": scratch, "disk": limits.disk, "proc": -1}
    if tier != "bwrap":
        return Worker(_python(setup), environment, scratch)
    program = shutil.which("bwrap")
    if program is None:
        shutil.rmtree(scratch)
        raise BoxError("bubblewrap is not installed")
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        return Worker([program, *_bwrap(readable), *_python({**setup, "proc": proc})], environment, scratch, (proc,))
    finally:
        os.close(proc)


def require_linux() -> None:
    """Raises InputError where none of the tiers can be."""
    if not syscalls.supported():
        raise InputError(
            "programs written by a model cannot be run safely on this system",
            where=f"{sys.platform} {syscalls.MACHINE}",
            fix="run it on Linux (x86_64 or aarch64), in a virtual machine or a container",
        )


def _readable(packages: Sequence[str]) -> list[str]:
    """Paths a box shows at their own place: the system's programs, Python's library, and what was asked for."""
    wanted = [*SYSTEM, os.path.realpath(sys.base_prefix), *needed_directories(), *packages]
    present = [path for path in dict.fromkeys(wanted) if Path(path).exists()]
    folders = [path for path in present if not Path(path).is_symlink()]
    return [path for path in present if not any(path != f and path.startswith(f + "/") for f in folders)]


def _python(setup: dict[str, object]) -> list[str]:
    interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    root = INSIDE if setup["walls"] == "bwrap" else ROOT
    return [interpreter, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", START, json.dumps(setup), root]


def _bwrap(readable: Sequence[str]) -> list[str]:
    """Arguments of bubblewrap. Its own user namespace is left out for root, whose rights the warm interpreter gives up itself."""
    arguments = [
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--die-with-parent",
        "--new-session",
        "--as-pid-1",
    ]
    if os.getuid() != 0:
        arguments += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-add", "CAP_SYS_ADMIN"]
        arguments += ["--cap-add", "CAP_SETPCAP"]
    for path in readable:
        link = Path(path).is_symlink()
        for parent in [*map(str, Path(path).parents)][-2::-1]:  # else only root could pass through them
            arguments += ["--perms", "0755", "--dir", parent]
        arguments += ["--symlink", str(Path(path).readlink()), path] if link else ["--ro-bind", path, path]
    arguments += ["--ro-bind", str(Path(ROOT, "puna")), f"{INSIDE}/puna"]
    arguments += [] if any(path.startswith("/tmp/") for path in readable) else ["--symlink", BOX, "/tmp"]
    arguments += ["--perms", "0755", "--dir", "/dev"]
    for name in DEVICES:
        arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    return [*arguments, "--dir", BOX, "--symlink", BOX, "/dev/shm", "--remount-ro", "/", "--chdir", "/", "--"]
