"""Sampling many answers on a CPU: Puna's engine beside llama.cpp and transformers, on one random 0.43B Llama.

    python bench/batch_cpu.py [--quick] [--check] [--threads N] [--llama-cpp-python SITE_DIRECTORY]

64 sequences, 8 prompts with 8 answers each, prompts computed once where a side can. Puna runs its engine with scheduler and
sampler (temperature 1); llama.cpp gets its tokens given, without a sampler, in BF16 or Q8_0 and in batches of 16, 32 or 64
sequences, whichever is fastest at answers of 4 tokens; transformers' `generate` samples, in BF16 or FP32, whichever is faster at
one prompt.
Seconds from the first prompt token to the last answer's token, so tokens a second are those of whole jobs. Prefill: one prompt
of 512 tokens, logits after its last. Sharing: 16 samples of one token each from a prompt of 512, over the prefill of one. Every
round runs all sides, best and median of the rounds. The limit beside it is what the processor multiplies and adds in float32
(`torch.mm`, best of its sizes).
"""

from __future__ import annotations

import argparse
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
    "batch_bf16_over_llama": 1.2, "batch_int8_over_llama": 1.8, "batch_over_transformers": 2.0, "prefill_over_llama_bf16": 1.2,
    "one_over_sharing_16": 1 / 1.3,
}  # fmt: skip
PROMPTS, SAMPLES, PROMPT, LONG = 8, 8, 64, 512
BATCHES = (16, 32, 64)
LLAMA_PREFILL = "llama.cpp bf16"


def prompt_ids(number: int, length: int) -> list[int]:
    return [(7919 * i + 104729 * number + 13) % SHAPE["vocab_size"] for i in range(length)]


class Puna:
    """The engine over one model."""

    def __init__(self, model: Any, kernels: Any = "native"):
        from puna.infer.engine import Engine

        self.engine = Engine(model, stop_ids=(), kernels=kernels, prefix_cache=False)

    def generate(self, prompts: list[list[int]], samples: int, tokens: int) -> None:
        from puna.infer.engine import Request

        requests = [Request(p, n=samples, temperature=1.0, max_tokens=tokens, seed=i) for i, p in enumerate(prompts)]
        self.engine.generate(requests)


class Batches:
    """llama.cpp, all answers of `size` sequences at a time."""

    def __init__(self, peer: LlamaCpp, size: int):
        self.peer, self.size = peer, size

    def generate(self, prompts: list[list[int]], samples: int, tokens: int) -> None:
        together, at_once = max(1, self.size // samples), min(samples, self.size)
        for first in range(0, len(prompts), together):
            for _ in range(0, samples, at_once):
                self._answers(prompts[first : first + together], at_once, tokens)

    def _answers(self, prompts: list[list[int]], samples: int, tokens: int) -> None:
        self.peer.clear()
        length = len(prompts[0])
        for i, prompt in enumerate(prompts):
            self.peer.decode(prompt, range(length), [i * samples] * length, [length - 1])
            for copy in range(1, samples):
                self.peer.share(i * samples, i * samples + copy)
        rows = range(len(prompts) * samples)
        for step in range(tokens - 1):
            ids = [(31 * step + 7 * row) % SHAPE["vocab_size"] for row in rows]
            self.peer.decode(ids, [length + step] * len(rows), rows, rows)


class Transformers:
    def __init__(self, directory: Path, kind: str):
        import torch
        import transformers

        self.torch = torch
        self.model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, kind)).eval()

    def generate(self, prompts: list[list[int]], samples: int, tokens: int) -> None:
        ids = self.torch.tensor(prompts)
        with self.torch.no_grad():
            self.model.generate(
                ids, attention_mask=self.torch.ones_like(ids), do_sample=True, top_k=0, num_return_sequences=samples,
                max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0,
            )  # fmt: skip


def sides(threads: int, site: str | None, place: Path, turns: int) -> dict[str, Any]:
    """All sides by name, and of llama.cpp in BF16 the prefill alone; peers are chosen by so many turns."""
    from puna.model.checkpoint import save_model

    model = random_model()
    found: dict[str, Any] = {"puna bf16": Puna(model), "puna fp8": Puna(all_fp8(random_model()))}
    found["puna int8"] = Puna(model, "int8")
    save_model(model, place / "hf")
    prompts = [prompt_ids(i, PROMPT) for i in range(PROMPTS)]
    peers: dict[str, Any] = {f"transformers {kind}": Transformers(place / "hf", kind) for kind in ("float32", "bfloat16")}
    found |= [fastest(peers, lambda peer: peer.generate(prompts[:1], 1, 2), turns)]
    if site:
        sys.path.append(site)
        peers = {}
        for kind in ("bf16", "q8_0"):
            write_gguf(model, place / f"{kind}.gguf", kind)
            peer = LlamaCpp(place / f"{kind}.gguf", threads, tokens=16384, sequences=64)
            peers |= {f"llama.cpp {kind} {size}": Batches(peer, size) for size in BATCHES}
        found |= [fastest(peers, lambda peer: peer.generate(prompts, SAMPLES, 4), turns)]
        found[LLAMA_PREFILL] = peers["llama.cpp bf16 64"]
    return found


def fastest(sides: dict[str, Any], job: Callable[[Any], None], turns: int) -> tuple[str, Any]:
    """The side with the least seconds of some turns."""
    best, _ = measured(sides, job, turns)
    return min(sides.items(), key=lambda side: best[side[0]])


def measured(found: dict[str, Any], job: Callable[[Any], None], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Best and median seconds of a job of every side, the order turned by one with every round."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            job(found[name])
            seconds[name].append(time.perf_counter() - start)
    return {n: min(s) for n, s in seconds.items()}, {n: statistics.median(s) for n, s in seconds.items()}


def peak_flops() -> float:
    """Best float32 rate of a matrix product of PyTorch, FLOP/s."""
    import torch

    best = 0.0
    for size in (512, 1024, 2048):
        a, b = torch.randn(size, size), torch.randn(size, size)
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(a, b)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def ratios_of(batch: dict[str, float], prefill: dict[str, float], sharing: tuple[float, float]) -> dict[str, float]:
    """Ratios of speeds from seconds."""
    hf = min(batch[n] for n in batch if n.startswith("transformers"))
    ratios = {
        "batch_over_transformers": hf / batch["puna bf16"], "one_over_sharing_16": sharing[0] / sharing[1],
        "prefill_over_transformers": min(prefill[n] for n in prefill if n.startswith("transformers")) / prefill["puna bf16"],
    }  # fmt: skip
    llama = [batch[n] for n in batch if n.startswith("llama.cpp")]
    if llama:
        ratios["batch_bf16_over_llama"] = min(llama) / batch["puna bf16"]
        ratios["batch_fp8_over_llama"] = min(llama) / batch["puna fp8"]
        ratios["batch_int8_over_llama"] = min(llama) / batch["puna int8"]
        ratios["prefill_over_llama_bf16"] = prefill[LLAMA_PREFILL] / prefill["puna bf16"]
    return ratios


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
    rounds, answer = (1, 8) if args.quick else (3, 32)
    prompts = [prompt_ids(i, PROMPT) for i in range(PROMPTS)]
    with tempfile.TemporaryDirectory() as place:
        found = sides(args.threads, args.llama_cpp_python, Path(place), rounds)
        many = {name: side for name, side in found.items() if name != LLAMA_PREFILL}
        batch_best, batch = measured(many, lambda side: side.generate(prompts, SAMPLES, answer), rounds)
        _, prefill = measured(found, lambda side: side.generate([prompt_ids(0, LONG)], 1, 1), rounds + 2)
        turns = {"one": 1, "sixteen": 16}
        _, sharing = measured(turns, lambda samples: found["puna bf16"].generate([prompt_ids(0, LONG)], samples, 1), rounds + 2)
    ratios = {n: round(v, 3) for n, v in ratios_of(batch, prefill, (sharing["one"], sharing["sixteen"])).items()}
    tokens = PROMPTS * SAMPLES * answer
    for name in found:
        line = f"{name:<22}" + (
            f" {tokens / batch_best[name]:7.1f} best {tokens / batch[name]:7.1f} median answer tokens a second"
            if name in many
            else ""
        )
        print(f"{line}  {LONG / prefill[name]:7.1f} prompt tokens a second")
    missed = [name for name, goal in GOAL.items() if ratios.get(name, 0) < goal]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if args.llama_cpp_python:
        versions["llama-cpp-python"] = importlib.import_module("llama_cpp").__version__
    flops = 2 * sum(p.numel() for n, p in found["puna bf16"].engine.model.named_parameters() if "embed" not in n)
    peak = peak_flops()
    print(json.dumps({
        "bench": "batch_cpu", "ratios": ratios, "goals": {n: round(g, 3) for n, g in GOAL.items()}, "missed": missed,
        "answer_tokens_per_second": {n: [round(tokens / batch_best[n], 1), round(tokens / batch[n], 1)] for n in many},
        "prompt_tokens_per_second": {n: round(LONG / s, 1) for n, s in prefill.items()},
        "float32_gflops": round(peak / 1e9, 1), "limit_tokens_per_second_float32": round(peak / flops, 1),
        "level": importlib.import_module("puna.infer.kernels.build").levels()[0], "threads": args.threads,
        "load": round(os.getloadavg()[0], 1), "machine": platform.machine(), "versions": versions,
    }))  # fmt: skip
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
