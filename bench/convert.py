"""Conversion of a checkpoint of several files beside a plain copy of its bytes: speed, memory, and what the results compute.

    python bench/convert.py [--quick] [--check] [--threads N] [--dir DIR] [--compressed-tensors SITE_DIRECTORY]

A random Llama of 0.43B in BF16 becomes FP8 (`fbgemm_fp8` and compressed-tensors) and BF16, each time in a process of its own.
Seconds are those of `convert` alone, start-up and imports apart; the copy reads and writes the same files one after the other
and brings each to the disk, as conversion does. Every round runs all sides, and a share of the copy is the copy's median
seconds over those of a side, so bytes are counted as they are read. Memory is the peak of the process less its peak after the
imports, over the largest tensor. At the end transformers reads the BF16 directory, and that of compressed-tensors where the
package is installed (`fbgemm_fp8` needs a GPU there: its weights are compared with the other format's, byte by byte, and its
logits are Puna's); logits are compared with the source's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers_cpu import SHAPE

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIDES = {"fp8": ("fp8", "fbgemm_fp8"), "compressed": ("fp8", "compressed-tensors"), "bf16": ("bf16", "fbgemm_fp8")}
AT_LEAST = {f"{side}_share_of_copy": 0.5 for side in SIDES}
AT_MOST = {f"{side}_memory_over_largest": 2.0 for side in SIDES} | {
    "bf16_logits": 0.001, "fp8_logits": 0.1, "fp8_over_transformers_compressed": 0.05,
}  # fmt: skip
SHARD_BYTES = 200_000_000
CONVERT = """
import json, sys, time
from pathlib import Path
import torch
from puna.infer.convert import convert

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

torch.set_num_threads(int(sys.argv[5]))
start, begun = peak(), time.perf_counter()
convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], fp8_format=sys.argv[4], max_shard_bytes=int(sys.argv[6]))
print(json.dumps({"seconds": time.perf_counter() - begun, "start": start, "peak": peak()}))
"""


def write_source(directory: Path, layers: int) -> dict[str, int]:
    """The checkpoint; bytes of its files, of its largest tensor, and how many files there are."""
    import torch

    from puna.model.checkpoint import save_model
    from puna.model.config import ModelConfig
    from puna.model.llama import Llama

    model = Llama(ModelConfig(**(SHAPE | {"layers": layers})), seed=0).to(torch.bfloat16)
    save_model(model, directory, max_shard_bytes=SHARD_BYTES)
    for path in directory.glob("*.safetensors"):
        to_disk(path)  # or the first side waits for it
    sizes = [path.stat().st_size for path in directory.glob("*.safetensors")]
    return {"bytes": sum(sizes), "files": len(sizes), "largest": max(weight.nbytes for weight in model.parameters())}


def to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def copy(source: Path, directory: Path) -> float:
    """Seconds of a plain copy of the weights, each file brought to the disk."""
    directory.mkdir()
    begun = time.perf_counter()
    for path in sorted(source.glob("*.safetensors")):
        shutil.copyfile(path, directory / path.name)
        to_disk(directory / path.name)
    return time.perf_counter() - begun


def converted(source: Path, directory: Path, side: str, threads: int) -> dict[str, float]:
    """One conversion in a process of its own: seconds, and bytes of memory at the start and at most."""
    to, fp8_format = SIDES[side]
    command = [sys.executable, "-c", CONVERT, *map(str, (source, directory, to, fp8_format, threads, SHARD_BYTES))]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return json.loads(found.stdout)


def run_rounds(
    source: Path, place: Path, rounds: int, threads: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Seconds of every side and round, and the largest memory of each; the order turns by one with every round."""
    seconds: dict[str, list[float]] = {name: [] for name in ("copy", *SIDES)}
    memory: dict[str, dict[str, float]] = {}
    names = list(seconds)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            shutil.rmtree(place / name, ignore_errors=True)
            if name == "copy":
                seconds[name].append(copy(source, place / name))
                continue
            found = converted(source, place / name, name, threads)
            seconds[name].append(found.pop("seconds"))
            memory[name] = max(memory.get(name, found), found, key=lambda m: m["peak"] - m["start"])
    return seconds, memory


def difference(logits: Any, due: Any) -> float:
    return float((logits.float() - due.float()).norm() / due.float().norm())


def checked_logits(source: Path, place: Path) -> dict[str, float]:
    """Relative differences of logits: of what was converted from the source, and of transformers from Puna."""
    import torch
    import transformers

    from puna.model.checkpoint import load_model

    ids = torch.tensor([[(7919 * i + 13) % SHAPE["vocab_size"] for i in range(24)]])

    def theirs(name: str, **settings: Any) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(place / name, **settings).eval()(ids).logits

    sums = [(place / name / "SHA256SUMS").read_text() for name in ("fp8", "compressed")]
    if sums[0] != sums[1]:
        sys.exit("the two FP8 formats hold different weights")
    with torch.no_grad():
        due = load_model(source).eval()(ids)
        found = {"bf16_logits": difference(theirs("bf16", dtype=torch.float32), due)}
        fp8 = load_model(place / "fp8").eval()(ids)
        found["fp8_logits"] = difference(fp8, due)
        if importlib.util.find_spec("compressed_tensors"):
            found["fp8_over_transformers_compressed"] = difference(theirs("compressed"), fp8)
    return found


def measured(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Everything the last line says but goals and machine."""
    source = place / "source"
    of = write_source(source, 6 if args.quick else SHAPE["layers"])
    copy(source, place / "warm")  # the source is in the page cache for all
    shutil.rmtree(place / "warm")
    seconds, memory = run_rounds(source, place, 1 if args.quick else 3, args.threads)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {f"{name}_share_of_copy": median["copy"] / median[name] for name in SIDES}
    ratios |= {f"{name}_memory_over_largest": (m["peak"] - m["start"]) / of["largest"] for name, m in memory.items()}
    ratios |= checked_logits(source, place)
    megabytes = of["bytes"] / 1e6
    return {
        "ratios": {name: round(value, 4) for name, value in ratios.items()},
        "seconds": {name: [round(min(s), 3), round(median[name], 3)] for name, s in seconds.items()},
        "mb_per_second": {name: [round(megabytes / min(s)), round(megabytes / median[name])] for name, s in seconds.items()},
        "memory_mb": {name: {key: round(value / 1e6, 1) for key, value in found.items()} for name, found in memory.items()},
        "source": {"mb": round(megabytes, 1), "files": of["files"], "largest_tensor_mb": round(of["largest"] / 1e6, 1)},
        "rounds": len(seconds["copy"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dir", help="where the temporary folder is made: its disk is what is measured")
    parser.add_argument("--compressed-tensors", metavar="SITE_DIRECTORY", help="where compressed-tensors is installed")
    args = parser.parse_args()
    if args.compressed_tensors:
        sys.path.append(args.compressed_tensors)
    with tempfile.TemporaryDirectory(dir=args.dir) as place:
        found = measured(args, Path(place))
    ratios = found["ratios"]
    for name, (best, median) in found["mb_per_second"].items():
        share = f"  {ratios[f'{name}_share_of_copy']:.2f} of the copy" if name in SIDES else ""
        tensors = f"  {ratios[f'{name}_memory_over_largest']:.2f} largest tensors of memory" if name in SIDES else ""
        print(f"{name:<11} {best:6} best {median:6} median MB/s{share}{tensors}")
    missed = [name for name, goal in AT_LEAST.items() if ratios[name] < goal]
    missed += [name for name, goal in AT_MOST.items() if ratios.get(name, 0) >= goal]
    packages = ("torch", "transformers", *(["compressed_tensors"] if "fp8_over_transformers_compressed" in ratios else []))
    print(json.dumps({
        "bench": "convert", **found, "goals": {"at_least": AT_LEAST, "below": AT_MOST}, "missed": missed, "threads": args.threads,
        "load": round(os.getloadavg()[0], 1), "machine": platform.machine(),
        "versions": {name: importlib.import_module(name).__version__ for name in packages},
    }))  # fmt: skip
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
