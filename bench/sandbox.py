"""Small programs a second through the sandbox's warm pool, beside a fresh interpreter for each, on two cores.

    python bench/sandbox.py [--quick] [--check]

Each tier that can be had here runs the same small program, as a whole and with three tests judged from another process. The
peer starts `python -I -S -c PROGRAM` by `subprocess.run` from two threads, without walls or bounds. The limit beside them is
the rate at which two processes fork and wait for a child that ends at once. Runs are interleaved; medians and best of wall and
processor time, children included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from puna.core.errors import InputError
from puna.verify.sandbox import Job, Limits, Sandbox, tiers
from puna.verify.sandbox.worker import children_of

GOAL = {"hundreds_a_second": 1.0, "judged_hundreds_a_second": 1.0, "over_subprocess": 1.0}
CODE = "def f(x):\n    return x + 1\nprint(f(1))"
TESTS = ("assert f(1) == 2", "assert f(-1) == 0", "assert f(10 ** 6) == 1000001")
CORES = 2


def fresh_interpreters(count: int) -> None:
    """The peer."""

    def one(_: int) -> None:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", CODE], capture_output=True, check=True)
        assert done.stdout == b"2\n"

    with ThreadPoolExecutor(CORES) as threads:
        list(threads.map(one, range(count)))


def forks(count: int) -> None:
    """The limit: two interpreters that do nothing but fork."""
    script = (
        f"import os\nfor _ in range({count // CORES}):\n    pid = os.fork()\n    if not pid: os._exit(0)\n    os.waitpid(pid, 0)"
    )
    for process in [subprocess.Popen([sys.executable, "-I", "-S", "-c", script]) for _ in range(CORES)]:
        assert process.wait() == 0


def pooled(sandbox: Sandbox, tests: tuple[str, ...]) -> Callable[[int], None]:
    """Programs through a pool."""

    def run(count: int) -> None:
        outcomes = sandbox.map_python([Job(CODE, tests)] * count)
        assert all(outcome.passed for outcome in outcomes)

    return run


def processor_seconds(pids: list[int]) -> float:
    """Of this process and its ended children, and of processes that go on, with all below them."""
    used = sum(os.times()[:4])
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        used += processor_seconds(children_of(pid)) - sum(os.times()[:4])
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    count, rounds = (60, 3) if args.quick else (400, 7)
    works: dict[str, tuple[Callable[[int], None], list[int]]] = {"subprocess": (fresh_interpreters, []), "forks": (forks, [])}
    with ExitStack() as stack:
        for tier in tiers.TIERS:
            try:
                sandbox = stack.enter_context(Sandbox(Limits(seconds=30), CORES, tier, allow_unsandboxed=True))
            except InputError as error:
                print(f"no {tier} here: {error.where}")
                continue
            works[tier] = (pooled(sandbox, ()), sandbox.boxes())
            works[f"{tier}, judged"] = (pooled(sandbox, TESTS), sandbox.boxes())
        rates = measure(works, count, rounds)
    walled = [tier for tier in tiers.WALLED if tier in rates]
    if not walled:
        sys.exit("no tier with walls can be had here")
    ratios = {
        "hundreds_a_second": min(rates[tier] for tier in walled) / 100,
        "judged_hundreds_a_second": min(rates[f"{tier}, judged"] for tier in walled) / 100,
        "over_subprocess": min(rates[tier] for tier in walled) / rates["subprocess"],
        **{f"{name} a second": rate for name, rate in rates.items()},
    }
    limits = {"share_of_forks": min(rates[tier] for tier in walled) / rates["forks"]}
    versions = {"python": platform.python_version(), "kernel": platform.release()}
    found = {"bench": "sandbox", "ratios": ratios, "limits": limits, "machine": platform.machine(), "versions": versions}
    print(json.dumps({**found, "cores": os.cpu_count()}))
    missed = [name for name, goal in GOAL.items() if ratios[name] < goal]
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


def measure(works: dict[str, tuple[Callable[[int], None], list[int]]], count: int, rounds: int) -> dict[str, float]:
    """Interleaved runs of `count` programs each; prints a table and returns the best rates by wall-clock time."""
    wall: dict[str, list[float]] = {name: [] for name in works}
    used: dict[str, list[float]] = {name: [] for name in works}
    for work, _ in works.values():
        work(4)
    for _ in range(rounds):
        for name, (work, boxes) in works.items():
            before, start = processor_seconds(boxes), time.perf_counter()
            work(count)
            wall[name].append((time.perf_counter() - start) / count)
            used[name].append((processor_seconds(boxes) - before) / count)
    print(f"{'':22}{'a second':>10}{'median':>10}{'ms of processor time each':>28}")
    for name in works:
        best, median = 1 / min(wall[name]), 1 / statistics.median(wall[name])
        print(f"{name:22}{best:10.0f}{median:10.0f}{1000 * statistics.median(used[name]):28.1f}")
    return {name: 1 / min(times) for name, times in wall.items()}


if __name__ == "__main__":
    main()
