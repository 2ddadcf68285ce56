"""Kill `puna up` with SIGKILL at random moments, start it again each time, and compare with a run nobody disturbed.

    python tests/end_to_end/kill_and_resume.py [--recipe recipes/cria.yaml] [--kills 20] [--seed 0] [--dir DIR] [KEY=VALUE ...]

Prints one line per kill and ends with the number of artifacts whose digests are equal; exits 1 if any differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def command(recipe: str, directory: Path, overrides: list[str]) -> list[str]:
    return [sys.executable, "-m", "puna", "up", recipe, "--dir", str(directory), "--no-page", *overrides]


def digests(directory: Path, *, skip: str = "report") -> dict[str, str]:
    """Digest of every artifact a run points at, by stage name."""
    found = {}
    for record in sorted(directory.glob("runs/*/*/artifact.json")):
        row = json.loads(record.read_text())
        found[row["name"]] = row["digest"]
    return {name: digest for name, digest in found.items() if name != skip} | {skip: found.get(skip, "")}


def undisturbed(recipe: str, directory: Path, overrides: list[str]) -> float:
    start = time.monotonic()
    subprocess.run(command(recipe, directory, overrides), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def disturbed(recipe: str, directory: Path, overrides: list[str], kills: int, seconds: float, seed: int) -> int:
    """Run to the end through `kills` SIGKILLs at random moments; returns how many hit a living run."""
    draw, hits = random.Random(seed), 0
    for number in range(kills):
        process = subprocess.Popen(command(recipe, directory, overrides), stdout=subprocess.DEVNULL, start_new_session=True)
        wait = draw.uniform(0.0, 2.0 * seconds / kills)
        try:
            process.wait(timeout=wait)
            print(f"kill {number + 1}: the run had ended before {wait:.1f} s", flush=True)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # the parent only: its workers must notice by themselves
            process.wait()
            hits += 1
            print(f"kill {number + 1}: SIGKILL after {wait:.1f} s", flush=True)
    undisturbed(recipe, directory, overrides)
    return hits


def compare(recipe: str, root: Path, overrides: list[str], kills: int, seed: int) -> list[str]:
    """Names of the stages whose artifacts differ between an undisturbed and a disturbed run."""
    seconds = undisturbed(recipe, root / "calm", overrides)
    print(f"undisturbed run: {seconds:.1f} s", flush=True)
    hits = disturbed(recipe, root / "rough", overrides, kills, seconds, seed)
    calm, rough = digests(root / "calm"), digests(root / "rough")
    different = [name for name in sorted(calm | rough) if calm.get(name) != rough.get(name)]
    equal = len(calm) - len(different)
    print(f"{hits} kills, {len(calm)} artifacts, {equal} equal; different: {different or 'none'}", flush=True)
    return different if calm else ["nothing was made"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/cria.yaml")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    root = args.dir or Path(tempfile.mkdtemp(prefix="puna-kill-"))
    sys.exit(1 if compare(args.recipe, root, args.overrides, args.kills, args.seed) else 0)


if __name__ == "__main__":
    main()
