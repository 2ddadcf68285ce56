"""The attack script: what a hostile program would try, run against a box of a tier, each with a look from outside whether it
worked.

A tier is offered only if it stops all of it (`puna.verify.sandbox.selftest`). Attacks on the kernel itself are not tried: what
stands between a program and a hole in it is the system-call filter alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from puna.verify.box.namespaces import MAX_FILES
from puna.verify.sandbox.forgeries import FORGERIES, TESTS
from puna.verify.sandbox.limits import MB, Job, Limits, Outcome
from puna.verify.sandbox.pool import Sandbox
from puna.verify.sandbox.worker import memory_of

LIMITS = Limits(seconds=5.0, memory=192 * MB, processes=16, file=4 * MB, disk=8 * MB, output=64 * 1024)
BRIEF = replace(LIMITS, seconds=0.5)  # for what would never end
SECRET = "puna-secret-7f3a"
SLACK = 6.0  # seconds past the deadline on a busy machine
TRY = """
import atexit, os, socket, sys, time
def attempt(name, action):
    try: print("GOT", name, str(action())[:200], flush=True)
    except Exception: pass
atexit.register(print, "END")
"""


@dataclass(frozen=True)
class Attacked:
    """One attack: whether it was stopped, and what was seen if not."""

    name: str
    stopped: bool
    seen: str = ""


def attack(tier: str) -> list[Attacked]:
    """Every attack on one box of a tier, and first an honest program that must work. InputError where there is no such box."""
    with Sandbox(LIMITS, workers=1, tier=tier, allow_unsandboxed=True) as sandbox:
        checks: dict[str, Callable[[Sandbox], str]] = {
            "honest program": _honest, "files": _files, "environment": _environment, "network": _network, "signals": _signals,
            "privileges": _privileges, "fork bomb": _fork_bomb, "memory": _memory, "disk": _disk, "output flood": _flood,
            "forged results": _forged, "timeouts": _timeouts, "survivors": _survivors, "traces left": _left,
        }  # fmt: skip
        found = [(name, check(sandbox)) for name, check in checks.items()]
    return [Attacked(name, not seen, seen) for name, seen in found]


def _got(outcome: Outcome) -> str:
    """What a program reports to have reached; one that did not come to its end has not been stopped but has failed."""
    lines = outcome.stdout.splitlines()
    if "END" not in lines:
        return f"the attack did not run: {outcome.status} {outcome.stderr[-200:]}"
    return "; ".join(line for line in lines if line.startswith("GOT"))


def _brief(sandbox: Sandbox, code: str, tests: tuple[str, ...] = ()) -> Outcome:
    return sandbox.run_job(Job(code, tests, limits=BRIEF))


def _honest(sandbox: Sandbox) -> str:
    code = """
import json, os
def f(x):
    open("a", "w").write("b")
    return json.loads("[1]")[0] + x + len(os.listdir("."))
"""
    outcome = sandbox.run_python(code, tests=["assert f(1) == 3"])
    return "" if outcome.passed else f"{outcome.status}: {outcome.results} {outcome.stderr[-200:]}"


@contextmanager
def _planted() -> Iterator[Path]:
    """A file outside that anyone may read, in a directory anyone may write."""
    with tempfile.TemporaryDirectory(prefix="puna-attack-") as folder:
        Path(folder).chmod(0o777)
        secret = Path(folder, "secret")
        secret.write_text(SECRET)
        secret.chmod(0o666)
        yield secret


def _files(sandbox: Sandbox) -> str:
    with _planted() as secret:
        home = str(Path.home())
        code = f"""{TRY}
attempt("a file outside", lambda: open({str(secret)!r}).read())
attempt("writing outside", lambda: open({str(secret.parent / "new")!r}, "w").write("x"))
attempt("changing a file outside", lambda: open({str(secret)!r}, "a").write("x"))
attempt("passwords", lambda: open("/etc/passwd").read(9))
attempt("home", lambda: os.listdir({home!r}) if not sys.prefix.startswith({home!r}) else 1 / 0)
attempt("a device", lambda: open("/dev/kmsg").read(1))
attempt("a link out", lambda: (os.symlink({str(secret)!r}, "l"), open("l").read()))
attempt("a hard link out", lambda: (os.link({str(secret)!r}, "h"), open("h").read()))
attempt("the process list", lambda: open("/proc/1/cmdline").read() + open("/proc/meminfo").read(9))
attempt("system settings", lambda: open("/proc/sys/kernel/core_pattern").read() + str(os.listdir("/sys/kernel")))
attempt("the system's programs", lambda: open("/usr/bin/puna-x", "w"))
"""
        outcome = sandbox.run_python(code)
        changed = secret.read_text() != SECRET or (secret.parent / "new").exists()
        return _got(outcome) + (" a file outside was changed" if changed else "")


def _environment(sandbox: Sandbox) -> str:
    os.environ["PUNA_SANDBOX_SECRET"] = SECRET
    try:
        with Sandbox(sandbox.limits, workers=1, tier=sandbox.tier, allow_unsandboxed=True) as fresh:
            code = """
import os, glob
said = repr(dict(os.environ))
for name in glob.glob("/proc/[0-9]*/environ"):
    try: said += open(name).read()
    except OSError: pass
print("GOT" if "puna-" + "secret" in said else "nothing")
print("END")
"""
            return _got(fresh.run_python(code))
    finally:
        del os.environ["PUNA_SANDBOX_SECRET"]


def _network(sandbox: Sandbox) -> str:
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind(f"\0puna-attack-{os.getpid()}")
        local.listen()
        code = f"""{TRY}
attempt("TCP", lambda: socket.create_connection(("127.0.0.1", {tcp.getsockname()[1]}), 1))
attempt("UDP", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)))
attempt("a name", lambda: socket.getaddrinfo("localhost", 80) and socket.create_connection(("localhost", 80), 1))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("a server", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("local", lambda: socket.socket(socket.AF_UNIX).connect("\\0puna-attack-{os.getpid()}"))
"""
        outcome = sandbox.run_python(code)
        for server in (tcp, local):
            server.settimeout(0.05)
            try:
                server.accept()[0].close()
                return f"a connection arrived; {_got(outcome)}"
            except TimeoutError:
                continue
        return _got(outcome)


def _signals(sandbox: Sandbox) -> str:
    victim = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        code = f"""{TRY}
import signal
for pid in ({victim.pid}, {os.getpid()}, 1, os.getppid()):
    attempt(f"a signal to {{pid}}", lambda: os.kill(pid, 0) if pid > 1 else 1 / 0)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        try: os.kill(pid, number) if pid not in (os.getpid(), {os.getpid()}) else None
        except OSError: pass
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, {victim.pid}, 19))
"""
        outcome = sandbox.run_python(code)
        again = sandbox.run_python("print(1)")
        dead = victim.poll() is not None
        return _got(outcome) + (" a process outside was ended" if dead else "") + ("" if again.passed else " the box was broken")
    finally:
        victim.kill()
        victim.wait()


def _privileges(sandbox: Sandbox) -> str:
    code = f"""{TRY}
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) != 0: raise OSError(name)
    return "done"
attempt("root", lambda: os.setuid(0) or "root")
attempt("being root", lambda: "root" if os.getuid() == 0 else 1 / 0)
attempt("a namespace", lambda: call("unshare", 0x10000000))
attempt("a mount", lambda: call("mount", b"none", b"/box", b"tmpfs", 0, None))
attempt("tracing", lambda: call("ptrace", 16, os.getppid(), None, None))
attempt("a changed root", lambda: os.chroot("."))
attempt("a higher bound", lambda: __import__("resource").setrlimit(7, (4096, 4096)))
attempt("memory without a name", lambda: os.memfd_create("x"))
attempt("the box's priority", lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19))
attempt("the box's processors", lambda: os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0)))
attempt("a device node", lambda: os.mknod("d", 0o60666, 0xfe00))
"""
    return _got(sandbox.run_python(code))


def _fork_bomb(sandbox: Sandbox) -> str:
    counted = sandbox.run_python(
        "import os, time\nn = 0\nwhile n < 2000:\n    try: pid = os.fork()\n    except OSError: break\n"
        "    if pid == 0: time.sleep(60); os._exit(0)\n    n += 1\nprint('forked', n)"
    )
    words = counted.stdout.split()
    many = int(words[-1]) if words else LIMITS.processes
    started = time.monotonic()
    bomb = _brief(sandbox, "import os\nwhile True:\n    try:\n        os.fork(); os.setsid()\n    except OSError: pass")
    late = time.monotonic() - started > BRIEF.seconds + SLACK
    after = sandbox.run_python("print(1)")
    found = [f"{many} processes" if many > LIMITS.processes + 3 else "", "it went on" if late or bomb.passed else ""]
    return "; ".join(filter(None, [*found, "" if after.passed else f"the box did not recover: {after}"]))


def _memory(sandbox: Sandbox) -> str:
    alone = sandbox.run_python("x = bytearray(4 << 30)")
    step = sandbox.run_python("x = []\nwhile True: x.append(bytearray(1 << 22))")
    code = """
import mmap, os, time
for i in range(8):
    if os.fork() == 0: break
kept = mmap.mmap(-1, 128 << 20)
for i in range(0, 128 << 20, 4096): kept[i] = 1
time.sleep(60)
"""
    together = sandbox.run_python(code)
    found = {"at once": alone, "step by step": step, "by many processes": together}
    return "; ".join(f"{name}: {o.status}" for name, o in found.items() if o.status not in ("memory", "killed"))


def _disk(sandbox: Sandbox) -> str:
    code = """
import os
wrote = names = 0
for i in range(6):
    try:
        with open(str(i), "wb", 0) as file:
            for _ in range(8): wrote += file.write(bytes(1 << 20))
    except OSError: continue
try:
    for i in range(9000):
        open(f"n{i}", "w").close(); names += 1
except OSError: pass
print(wrote, max(os.path.getsize(name) for name in os.listdir(".")), names)
"""
    outcome = sandbox.run_python(code)
    if not outcome.stdout:
        return f"the attack did not run: {outcome.status} {outcome.stderr[-200:]}"
    wrote, largest, names = map(int, outcome.stdout.split())
    checks = {"bytes in all": wrote > LIMITS.disk, "bytes in one file": largest > LIMITS.file, "files": names > MAX_FILES}
    return "; ".join(f"{name}: {outcome.stdout.strip()}" for name, broken in checks.items() if broken)


def _flood(sandbox: Sandbox) -> str:
    for descriptor in (1, 2):
        outcome = sandbox.run_python(f"import os\nwhile True: os.write({descriptor}, b'x' * 65536)")
        if outcome.status != "output" or max(len(outcome.stdout), len(outcome.stderr)) > LIMITS.output:
            return f"{outcome.status}, {len(outcome.stdout)} characters"
    return ""


def _forged(sandbox: Sandbox) -> str:
    passed = [name for name, code in FORGERIES.items() if _any_passed(sandbox.run_python(code, tests=TESTS))]
    return "; ".join(passed)


def _any_passed(outcome: Outcome) -> bool:
    return outcome.passed or any(result.passed for result in outcome.results)


def _timeouts(sandbox: Sandbox) -> str:
    code = """
import signal, threading, time
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
threading.Thread(target=lambda: time.sleep(600)).start()
"""
    found = []
    for name, end in (("asleep", "time.sleep(600)"), ("busy", "while True: pass")):
        outcome = _brief(sandbox, code + end)
        if outcome.status != "timeout" or outcome.seconds > BRIEF.seconds + SLACK:
            found.append(f"{name}: {outcome.status} after {outcome.seconds:.1f} s")
    judged = _brief(sandbox, "def f(x):\n    while True: pass", TESTS)
    return "; ".join([*found, *([] if judged.status == "timeout" else [f"when called: {judged.status}"])])


def _survivors(sandbox: Sandbox) -> str:
    code = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            kept = bytearray(20 << 20)
            while True: time.sleep(0.01)
        os._exit(0)
"""
    outcome = sandbox.run_python(code)
    (box,) = sandbox.boxes()
    left = memory_of(box)
    return "" if outcome.passed and left < 60 * MB else f"{outcome.status}, {left // MB} MB are in use after it ended"


def _left(sandbox: Sandbox) -> str:
    leave = f"""{TRY}
import ctypes
open("left", "w").write("x"); os.mkdir("d"); open("d/e", "w").close(); os.chmod("d", 0)
for action in (lambda: os.setxattr(".", "user.left", b"x"), lambda: os.utime(".", (5, 5)), lambda: os.chmod(".", 0o755),
               lambda: open("/dev/shm/left", "w"), lambda: ctypes.CDLL(None).shmget(77, 4096, 0o1666)):
    try: action()
    except OSError: pass
"""
    look = f"""{TRY}
import ctypes
attempt("a file", lambda: os.listdir(".")[0])
attempt("an attribute", lambda: os.getxattr(".", "user.left"))
attempt("a time", lambda: os.stat(".").st_atime == 5 or 1 / 0)
attempt("a mode", lambda: oct(os.stat(".").st_mode) if os.stat(".").st_mode & 0o77 else 1 / 0)
attempt("shared memory", lambda: ctypes.CDLL(None).shmget(77, 4096, 0o666) >= 0 or 1 / 0)
attempt("shared files", lambda: open("/dev/shm/left"))
attempt("removing them", lambda: os.unlink("/dev/shm/left"))
ctypes.CDLL(None).shmctl(ctypes.CDLL(None).shmget(77, 4096, 0o666), 0, None)
"""
    sandbox.run_python(leave)
    return _got(sandbox.run_python(look))
