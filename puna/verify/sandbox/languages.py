"""Languages a program may be written in: by the interpreters and compilers that are installed, the same in every box."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Language:
    """How a language is run.

    Attributes:
        source: the file a program is written to, empty for Python, which needs none.
        argv, compile: the command that runs it, and the one before that, if any.
        address_space: whether the bound on memory holds for addresses too; some runtimes reserve far more than they use.
        needs: directories beside /usr that it reads.
        libraries: where its programs find their own libraries; there is no /proc to tell them where they lie.
    """

    source: str = ""
    argv: tuple[str, ...] = ()
    compile: tuple[str, ...] = ()
    address_space: bool = True
    needs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


PYTHON = Language()
INTERPRETED: dict[str, tuple[str, str, tuple[str, ...]]] = {  # program, file, flags
    "bash": ("bash", "main.sh", ()),
    "perl": ("perl", "main.pl", ()),
    "ruby": ("ruby", "main.rb", ()),
    "php": ("php", "main.php", ()),
    "lua": ("lua", "main.lua", ()),
    "javascript": ("node", "main.js", ("--max-old-space-size=256",)),
}
COMPILED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "c": ("gcc", "main.c", ("-O1", "-std=gnu17", "-lm")),
    "cpp": ("g++", "main.cpp", ("-O1", "-std=gnu++17")),
}
RUST = ("-C", "link-arg=-fuse-ld=bfd")  # its own linker wants /proc
JAVA = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xmx256m", "-Xss8m")


@cache
def languages() -> dict[str, Language]:
    """The languages that can be run here, by name."""
    found = {"python": PYTHON}
    for name, (program, source, flags) in INTERPRETED.items():
        if path := _installed(program):
            found[name] = Language(source, (path, *flags, source), address_space=name != "javascript")
    for name, (program, source, flags) in COMPILED.items():
        if path := _installed(program):
            found[name] = Language(source, ("./main",), (path, source, "-o", "main", *flags))
    if (java := _installed("java")) and (javac := _installed("javac")):
        java, javac = os.path.realpath(java), os.path.realpath(javac)
        home = Path(java).parents[1]
        settings = tuple(str(p) for p in Path("/etc").glob("java*"))
        options, libraries = tuple(f"-J{flag}" for flag in JAVA), (f"{home}/lib", f"{home}/lib/server")
        found["java"] = Language("Main.java", (java, *JAVA, "Main"), (javac, *options, "Main.java"), False, settings, libraries)
    if sysroot := _rust():
        compiler = str(sysroot / "bin" / "rustc")
        build = (compiler, "-O", *RUST, "main.rs", "-o", "main")
        found["rust"] = Language("main.rs", ("./main",), build, False, (str(sysroot),), (f"{sysroot}/lib",))
    return found


def needed_directories(names: Sequence[str] = ()) -> list[str]:
    """What these languages, or all that are installed, read beside /usr."""
    return sorted({need for name, language in languages().items() if not names or name in names for need in language.needs})


def _installed(program: str) -> str | None:
    """A program under the directories that a box shows."""
    path = shutil.which(program, path=PATH)
    return path if path and os.path.realpath(path).startswith(("/usr/", "/bin/")) else None


def _rust() -> Path | None:
    """The toolchain behind rustc: what lies in the PATH may only choose among several."""
    rustc = shutil.which("rustc")
    if not rustc or not _installed("cc"):
        return None
    try:
        said = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(said.strip()) if Path(said.strip(), "bin", "rustc").is_file() else None
