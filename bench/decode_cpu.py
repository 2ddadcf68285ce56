"""Decoding one token at a time on a CPU: Puna's native step beside llama.cpp and transformers, on one random 0.43B Llama.

    python bench/decode_cpu.py [--quick] [--check] [--threads N] [--llama-cpp-python SITE_DIRECTORY]

Every side gets the same weights (llama.cpp as GGUF in Q8_0 and BF16, Puna in BF16, in FP8 for the feed-forward matrices as the
paper has it, and in FP8 for all matrices) and the same prompt; their logits are compared before anything is timed. In each round
every side decodes the same number of tokens, token in, logits out, in an order that changes from round to round; best and median
of all tokens' seconds. The limit is a pure read of huge pages by the same threads in the same run: a step must read all weights
but the embedding once. Q8_0 has a scale for each 32 numbers and 8.5 bits a weight, FP8 one for each row and 8 bits, so that ratio
is not at equal accuracy.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import importlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers_cpu import SHAPE, LlamaCpp, all_fp8, random_model, write_gguf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GOAL = {
    "fp8_over_llama_q8_best": 1.3, "fp8_over_llama_q8_median": 1.3, "fp8_over_transformers": 5.0, "fp8_share_of_read": 0.75,
    "bf16_over_llama_bf16": 1.0,
}  # fmt: skip
PROMPT, PAGE, PAGES = 16, 16, 64
READ_BYTES = 512 << 20
MOST_ERROR = 0.05  # relative, of BF16 logits of two implementations


class Puna:
    """One packed model; `feed` gives the logits after some tokens that start at `position`."""

    def __init__(self, model: Any):
        import numpy as np
        import torch

        from puna.infer.cache import PagedCache
        from puna.infer.kernels.step import NativeModel, packed_of

        c = model.config
        cache = PagedCache(layers=c.layers, pages=PAGES, page_size=PAGE, kv_heads=c.kv_heads, head_dim=c.head_size,
                           dtype=torch.bfloat16, device=torch.device("cpu"))  # fmt: skip
        self.native, self.table = NativeModel(model, cache), np.arange(1, PAGES)[None]
        self.bytes = sum(packed.weight.numel() for packed in packed_of(self.native))

    def feed(self, tokens: list[int], position: int) -> Any:
        import numpy as np

        count = len(tokens)
        positions = np.arange(position, position + count)
        return self.native.logits(np.array(tokens), positions, np.zeros(count, np.int64), self.table, np.array([count - 1]))[0]


class OneSequence:
    """llama.cpp as one sequence."""

    def __init__(self, file: Path, threads: int, embedding_bytes: int):
        self.peer = LlamaCpp(file, threads, tokens=PAGE * PAGES)
        self.bytes = file.stat().st_size - embedding_bytes

    def feed(self, tokens: list[int], position: int) -> Any:
        count = len(tokens)
        if position == 0:
            self.peer.clear()
        return self.peer.decode(tokens, range(position, position + count), [0] * count, [count - 1])[0]


class Transformers:
    """transformers in BF16 with its dynamic cache, the forward pass alone (`generate` adds its own work to every token)."""

    def __init__(self, directory: Path):
        import torch
        import transformers

        self.torch, self.api = torch, transformers
        self.model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()

    def feed(self, tokens: list[int], position: int) -> Any:
        if position == 0:
            self.cache = self.api.DynamicCache()
        with self.torch.no_grad():
            out = self.model(self.torch.tensor([tokens]), past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return out.logits[0, -1]


class Read:
    """The pure read; one `feed` reads READ_BYTES."""

    def __init__(self, threads: int):
        from puna.infer.kernels.build import library
        from puna.infer.kernels.pack import Arena

        self.place, self.library, self.threads, self.bytes = Arena(READ_BYTES).take(READ_BYTES), library(), threads, READ_BYTES
        self.place.fill_(1)

    def feed(self, tokens: list[int], position: int) -> None:
        self.library.puna_read(ctypes.c_void_p(self.place.data_ptr()), ctypes.c_int64(READ_BYTES), self.threads)


def sides(threads: int, site: str | None, place: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """All sides by name, and the relative error of each one's logits against Puna's in BF16."""
    import torch

    from puna.infer.fp8 import quantize_model
    from puna.model.checkpoint import save_model

    model = random_model()
    ffn = copy.deepcopy(model)
    quantize_model(ffn)
    found = {"puna bf16": Puna(model), "puna fp8 ffn": Puna(ffn), "puna fp8": Puna(all_fp8(copy.deepcopy(model)))}
    save_model(model, place / "hf")
    found["transformers bf16"] = Transformers(place / "hf")
    if site:
        sys.path.append(site)
        for kind, bytes_of_32 in (("q8_0", 34), ("bf16", 64)):
            write_gguf(model, place / f"{kind}.gguf", kind)
            embedding = SHAPE["vocab_size"] * SHAPE["dim"] * bytes_of_32 // 32
            found[f"llama.cpp {kind}"] = OneSequence(place / f"{kind}.gguf", threads, embedding)
    prompt = prompt_ids()
    expected = torch.as_tensor(found["puna bf16"].feed(prompt, 0)).float().clone()
    errors = {name: float((torch.as_tensor(side.feed(prompt, 0)).float() - expected).norm() / expected.norm())
              for name, side in found.items()}  # fmt: skip
    worst = max(error for name, error in errors.items() if name.endswith("bf16"))
    if worst > MOST_ERROR:
        sys.exit(f"the sides do not compute the same: {errors}")
    return found | {"pure read": Read(threads)}, errors


def prompt_ids() -> list[int]:
    return [(7919 * i + 13) % SHAPE["vocab_size"] for i in range(PROMPT)]


def run_rounds(found: dict[str, Any], rounds: int, tokens: int) -> dict[str, list[float]]:
    """Seconds of every decoded token of every side; the order turns by one with every round."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            feed: Callable[[list[int], int], Any] = found[name].feed
            feed(prompt_ids(), 0)
            for i in range(tokens):
                start = time.perf_counter()
                feed([(31 * i + 5) % SHAPE["vocab_size"]], PROMPT + i)
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios_of(best: dict[str, float], median: dict[str, float], found: dict[str, Any]) -> dict[str, float]:
    """Ratios of speeds (and for the read, of bytes a second); `best` and `median` are seconds."""
    read = best["pure read"] / READ_BYTES
    ratios = {
        "fp8_over_transformers": median["transformers bf16"] / median["puna fp8"],
        "fp8_share_of_read": found["puna fp8"].bytes / best["puna fp8"] * read,
        "fp8_ffn_share_of_read": found["puna fp8 ffn"].bytes / best["puna fp8 ffn"] * read,
        "bf16_share_of_read": found["puna bf16"].bytes / best["puna bf16"] * read,
    }
    if "llama.cpp q8_0" in found:
        ratios |= {
            "fp8_over_llama_q8_best": best["llama.cpp q8_0"] / best["puna fp8"],
            "fp8_over_llama_q8_median": median["llama.cpp q8_0"] / median["puna fp8"],
            "fp8_ffn_over_llama_q8_median": median["llama.cpp q8_0"] / median["puna fp8 ffn"],
            "bf16_over_llama_bf16": median["llama.cpp bf16"] / median["puna bf16"],
            "bf16_over_llama_bf16_best": best["llama.cpp bf16"] / best["puna bf16"],
        }
    return {name: round(value, 3) for name, value in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--llama-cpp-python", metavar="SITE_DIRECTORY", help="where llama-cpp-python is installed")
    args = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as place:
        found, errors = sides(args.threads, args.llama_cpp_python, Path(place))
        seconds = run_rounds(found, 3 if args.quick else 12, 16 if args.quick else 32)
    best = {name: min(values) for name, values in seconds.items()}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, side in found.items():
        rate = f"{1 / best[name]:6.1f} best {1 / median[name]:6.1f} median a second"
        gigabytes = f"{side.bytes / best[name] / 1e9:6.1f} GB/s best" if hasattr(side, "bytes") else ""
        print(f"{name:<18} {rate} {gigabytes}" + (f"  logits differ by {errors[name]:.4f}" if name in errors else ""))
    ratios = ratios_of(best, median, found)
    missed = [name for name, goal in GOAL.items() if ratios.get(name, 0) < goal]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if args.llama_cpp_python:
        versions["llama-cpp-python"] = importlib.import_module("llama_cpp").__version__
    speeds = {name: [round(1 / best[name], 2), round(1 / median[name], 2)] for name in found}
    print(json.dumps({
        "bench": "decode_cpu", "ratios": ratios, "tokens_per_second": speeds, "goals": GOAL, "missed": missed,
        "read_gb_per_second": round(READ_BYTES / best["pure read"] / 1e9, 2), "threads": args.threads,
        "load": round(os.getloadavg()[0], 1),
        "machine": platform.machine(), "versions": versions,
    }))  # fmt: skip
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
