"""What this machine has: cores this process may use, memory, disk, torch and its device. Everything read, nothing assumed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores this process may use: its affinity, cut by the container's CPU quota (rounded down, at least one)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _words(CGROUP / "cpu.max")
    if len(quota) == 2 and quota[0] != "max":
        affinity = min(affinity, max(1, int(quota[0]) // int(quota[1])))
    return max(1, affinity)


def memory_bytes() -> tuple[int, int]:
    """Total and available memory in bytes, cut by the container's limit."""
    lines = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in _text("/proc/meminfo").splitlines() if ":" in line}
    total, free = lines.get("MemTotal", 0), lines.get("MemAvailable", 0)
    limit, used = _words(CGROUP / "memory.max"), _words(CGROUP / "memory.current")
    if limit and limit[0].isdigit() and used and used[0].isdigit():
        total = min(total, int(limit[0]))
        free = min(free, max(0, int(limit[0]) - int(used[0])))
    return total, free


def disk_free_bytes(path: Path) -> int:
    """Free bytes on the file system that holds `path` or its nearest existing parent."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def machine_facts() -> dict[str, Any]:
    """Facts for a record: processor, cores, memory, system, versions. Imports nothing heavy."""
    names = [line.split(":", 1)[1].strip() for line in _text("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "memory_gb": round(memory_bytes()[0] / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions(("torch", "numpy", "puna")),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions by package name; `missing` for those not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def device_name() -> str:
    """The device torch would train on: `cpu`, or the first GPU's name."""
    import torch

    return f"cuda: {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "cpu"


def matmul_gflops(size: int = 384, seconds: float = 0.3, threads: int = 1) -> float:
    """Measured fp32 matrix product speed of `threads` threads, in GFLOP/s (2 n^3 operations a product, best of several)."""
    import torch

    a = torch.ones(size, size)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2 * size**3 / best / 1e9


def tree_rss_bytes(root: int) -> int:
    """Resident memory of a process and all its descendants, summed (pages they share count for each)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir() if Path("/proc/self").exists() else ():
        if entry.name.isdigit() and (stat := _text(entry / "stat")):
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    family = {root}
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in family} - family
        family |= children
        grown = bool(children)
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(words[1]) * page for pid in family if len(words := _words(Path(f"/proc/{pid}/statm"))) > 1)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _words(path: Path) -> list[str]:
    return _text(path).split()
