"""Sampling n = 8 answers of shared prompts from a tiny random model: Puna's engine beside `transformers` generate, one thread.

    python bench/generate.py [--quick] [--check]

Runs are interleaved; medians and best of CPU seconds. The limit beside it is the same model's forward passes at full batch,
without any bookkeeping: what the network alone costs.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time

import torch

GOAL = {"puna_over_transformers": 1.0}
PROMPTS, SAMPLES, NEW_TOKENS = 64, 8, 24


def timed(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def forward_only(model, rows: int) -> None:
    ids = torch.zeros(rows, 1, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            model(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    import transformers

    from puna.infer.engine import Engine, Request
    from puna.model.checkpoint import save_model
    from puna.model.config import preset
    from puna.model.llama import Llama

    model = Llama(preset("cria-flagship").with_vocab(1280)).eval()
    draw = random.Random(0)
    prompts = [[draw.randrange(1000) for _ in range(32)] for _ in range(PROMPTS)]
    requests = [Request(p, n=SAMPLES, temperature=1.0, max_tokens=NEW_TOKENS, seed=i) for i, p in enumerate(prompts)]
    engine = Engine(model, stop_ids=())
    with tempfile.TemporaryDirectory() as place:
        save_model(model, place)
        peer = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    ids = torch.tensor(prompts)
    works = {
        "puna": lambda: engine.generate(requests),
        "transformers": lambda: peer.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, num_return_sequences=SAMPLES, max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS, pad_token_id=0),
        "network alone": lambda: forward_only(model, PROMPTS * SAMPLES),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(3 if args.quick else 9):
        for name, work in works.items():
            seconds[name].append(timed(work))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        rate = PROMPTS * SAMPLES / medians[name]
        print(f"{name:<14} median {medians[name]:.3f} s  best {min(values):.3f} s  {rate:8.0f} samples/s")
    ratios = {"puna_over_transformers": medians["transformers"] / medians["puna"]}
    limits = {"share_of_network_alone": medians["network alone"] / medians["puna"]}
    missed = [name for name, goal in GOAL.items() if ratios[name] < goal]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    result = {"bench": "generate", "ratios": ratios, "limits": limits, "machine": platform.machine(), "versions": versions}
    print(json.dumps(result))
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
