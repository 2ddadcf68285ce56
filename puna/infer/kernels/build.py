"""The C source as a library of this machine: compiled on first use with the system's compiler and kept in the user's cache.

What is kept is named by the source, the compiler's version, the flags and the processor's abilities, so a change of any makes a
new file. Two processes may compile at once: each writes beside the place and renames. There is one library for each level of the
processor, best first; without a compiler there is none, and the engine computes with PyTorch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import torch

from puna.core.errors import RunError

SOURCES = ("step.c", "attention.h", "dot.h", "int8.h", "memory.h")
COMPILERS = ("g++", "gcc", "clang", "cc")
COMPILE_S = 120  # it takes two
# No -ffast-math: sums keep the order they are written in, and loading the library must not change the process's rounding of
# small numbers, which fast-math does.
FLAGS = ("-x", "c", "-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC")
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx2", "fma", "f16c")
LEVELS = {  # abilities as /proc/cpuinfo names them, and what they are called on the command line
    "avx512bf16": ("avx512_bf16", *_AVX512),
    "avx512": _AVX512,
    "avx2": ("avx2", "fma", "f16c"),
    "plain": (),
}


class Unavailable(RunError):
    """The kernels cannot be had on this machine; the reason is its text."""


def levels() -> list[str]:
    """The levels this processor has, best first; `plain` is any processor."""
    abilities = _abilities()
    return [level for level, needed in LEVELS.items() if abilities.issuperset(needed)]


@lru_cache(maxsize=16)
def library(level: str | None = None, *, compiler: str | None = None, folder: Path | None = None) -> ctypes.CDLL:
    """The loaded library, compiled now if it was not yet.

    Args:
        level: one of `levels()`; None is the best.
        compiler: path or name; None looks for the first of `COMPILERS`, or the one named in `CC`.
        folder: where libraries are kept; None is the user's cache.

    Raises `Unavailable` without a compiler, where compiling fails, and for a level the processor does not have.
    """
    level = level or levels()[0]
    if level not in levels():
        raise Unavailable(f"this processor has no level '{level}'", where=", ".join(levels()), fix="leave the level out")
    program = _compiler(compiler)
    flags = [*FLAGS, *(f"-m{name.replace('_', '')}" for name in LEVELS[level])]
    source = Path(__file__).parent
    words = [(source / name).read_bytes() for name in SOURCES] + [_version(program).encode(), " ".join(flags).encode()]
    name = f"{level}-{hashlib.sha256(b'|'.join([platform.machine().encode(), *words])).hexdigest()[:16]}.so"
    root = folder or _folder()
    if not (root / name).exists():
        _compile(program, flags, source / SOURCES[0], root / name)
    try:
        return ctypes.CDLL(str(root / name))
    except OSError as error:
        reason = f"the compiled kernels cannot be loaded ({error})"
        raise Unavailable(reason, where=str(root / name), fix="delete the file") from None


def _compile(program: str, flags: list[str], source: Path, target: Path) -> None:
    """Compile with OpenMP, without it where the compiler has none, and put the file into its place at once."""
    beside = target.with_name(f"{target.name}.{uuid4().hex}")
    message = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for threads in (["-fopenmp"], []):
            command = [program, *flags, *threads, str(source), "-o", str(beside), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_S)
            if done.returncode == 0:
                beside.replace(target)
                return
            message = message or done.stderr.strip().split("\n")[0]
    except (OSError, subprocess.TimeoutExpired) as error:
        message = str(error)
    finally:
        beside.unlink(missing_ok=True)
    raise Unavailable(f"the kernels could not be compiled: {message}", where=program)


def _compiler(wanted: str | None) -> str:
    wanted = wanted or os.environ.get("CC")
    for name in (wanted,) if wanted else COMPILERS:
        if found := shutil.which(name):
            return found
    raise Unavailable("there is no C compiler", where=wanted or ", ".join(COMPILERS), fix="install g++ or clang")


@lru_cache(maxsize=16)
def _version(program: str) -> str:
    try:
        return subprocess.run([program, "--version"], capture_output=True, text=True, timeout=COMPILE_S).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the compiler does not run: {error}", where=program) from None


@lru_cache(maxsize=1)
def _folder() -> Path:
    """The user's cache, or a folder of this process where that cannot be written."""
    from puna.core.cached import cache_root  # needs xxhash, which inference alone does without

    root = cache_root()
    try:
        if root is not None:
            (root / "kernels").mkdir(parents=True, exist_ok=True)
            if os.access(root / "kernels", os.W_OK):
                return root / "kernels"
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="puna-kernels-"))


@lru_cache(maxsize=1)
def _abilities() -> frozenset[str]:
    """What the processor can do, in the words of /proc/cpuinfo; where there is none, what PyTorch found out."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
    except OSError:
        found = torch.backends.cpu.get_cpu_capability()
        return frozenset({"AVX512": _AVX512, "AVX2": LEVELS["avx2"]}.get(found, ()))
