"""Which tier to use: the strongest that stops every attack, found out by attacking it.

What was found is kept for as long as the machine runs this kernel, this Python and this code (`~/.cache/puna`), since the attacks
take some seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from puna.core.errors import InputError
from puna.verify.box import syscalls
from puna.verify.sandbox import tiers
from puna.verify.sandbox.attacks import Attacked, attack

BOOT = Path("/proc/sys/kernel/random/boot_id")
CODE = (Path(__file__).parent, Path(syscalls.__file__).parent)  # the attacks and what starts a box, the box and its walls


@dataclass(frozen=True)
class Tested:
    """A tier and what came of the attacks on it; `why_not` says why there is no such box here."""

    tier: str
    attacks: tuple[Attacked, ...] = ()
    why_not: str = ""

    @property
    def holds(self) -> bool:
        """Whether it stops everything."""
        return bool(self.attacks) and all(one.stopped for one in self.attacks)

    def got_through(self) -> list[str]:
        """Names of the attacks that it does not stop."""
        return [one.name for one in self.attacks if not one.stopped]


def choose(allow_unsandboxed: bool = False) -> str:
    """The strongest tier that stops every attack; the one without walls only if that is allowed. InputError if none is left."""
    tiers.require_linux()
    found = []
    for tier in tiers.WALLED:
        found.append(tested(tier))
        if found[-1].holds:
            return tier
    if allow_unsandboxed:
        return tiers.UNWALLED
    said = "; ".join(f"{one.tier}: {one.why_not or 'does not stop ' + ', '.join(one.got_through())}" for one in found)
    raise InputError(
        "programs written by a model cannot be run safely here",
        where=said,
        fix="install bubblewrap, or allow namespaces of users (sysctl kernel.unprivileged_userns_clone=1, no profile of "
        "AppArmor or seccomp in the way); allow_unsandboxed runs them within bounds of time and memory alone: they can then "
        "read and change what this user can, reach the network and end this user's processes",
    )


def summary() -> dict[str, str]:
    """The tier that is used here, and of each tier what it stops, for people to read."""
    if not syscalls.supported():
        return {"tier": "none: it needs Linux on x86_64 or aarch64"}
    found = [tested(tier) for tier in tiers.WALLED]
    holding = [one.tier for one in found if one.holds]
    said = {"tier": holding[0] if holding else "none"}
    for one in found:
        attacks = len(one.attacks) - 1  # the first is the honest program
        stopped = f"stops all {attacks} attacks" if one.holds else f"lets {', '.join(one.got_through())} through"
        said[one.tier] = f"not here ({one.why_not})" if one.why_not else stopped
    return {**said, tiers.UNWALLED: "bounds alone, only if allowed by name"}


@cache
def tested(tier: str) -> Tested:
    """The attacks on a tier, run now or read from what this machine has found before."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "puna", f"sandbox-{tier}-{_circumstances(tier)}.json")
    try:
        kept = json.loads(path.read_text())
        return Tested(tier, tuple(Attacked(**one) for one in kept))
    except (OSError, ValueError, TypeError):
        pass
    try:
        found = Tested(tier, tuple(attack(tier)))
    except InputError as error:
        return Tested(tier, why_not=error.where or error.what)
    if found.holds or tier == tiers.UNWALLED:  # a failure may have been the moment's
        _keep(path, found)
    return found


def _keep(path: Path, found: Tested) -> None:
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps([asdict(one) for one in found.attacks]))
        partial.replace(path)
    except OSError:
        return  # a home that cannot be written to means that the attacks are run again


def _circumstances(tier: str) -> str:
    """A hash of what an answer depends on: kernel, start of the machine, user, Python, bubblewrap, and this code."""
    facts = [platform.platform(), platform.version(), str(os.getuid()), platform.python_version(), tier]
    facts.append(BOOT.read_text() if BOOT.exists() else "")
    if program := shutil.which("bwrap"):
        facts.append(str(Path(program).stat().st_mtime_ns))
    facts += [file.read_text() for folder in CODE for file in sorted(folder.glob("*.py"))]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
