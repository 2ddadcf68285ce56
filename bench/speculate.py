"""Speculative decoding on a herd: the flagship alone, with the student as its draft, and with look-up in the prompt.

    python bench/speculate.py [--quick] [--check] [--run runs/cria] [--target flagship-chat] [--draft student-chat]

Held-out tasks of a finished run, one answer at a time (batch 1, where guesses can pay), greedy and sampled. Every way must give
the same tokens, else the bench ends with an error. Acceptance is the share of guessed tokens that were written; calls are those
of the target. Best and median of interleaved rounds. The herd's models are small: a call costs the same few hundred
microseconds of bookkeeping whatever the model's size, so the ratio of calls says what a larger model would gain, and the
seconds what this one does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GUESSES, ANSWER = 4, 48


def answers(engine: Any, requests: list[Any]) -> tuple[list[list[int]], float]:
    """The tokens of each request, answered one after the other, and the seconds."""
    start = time.perf_counter()
    ids = [engine.generate([request])[0][0].ids for request in requests]
    return ids, time.perf_counter() - start


def counted(engine: Any) -> list[int]:
    """Count the calls of the target from now on."""
    calls, logits = [0], engine.steps.logits

    def count(spans: Any) -> Any:
        calls[0] += 1
        return logits(spans)

    engine.steps.logits = count
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true", help="the same as without: texts that differ always end it")
    parser.add_argument("--run", type=Path, default=Path("runs/cria"))
    parser.add_argument("--target", default="flagship-chat")
    parser.add_argument("--draft", default="student-chat")
    args = parser.parse_args()
    if not args.run.is_dir():
        print(f"{args.run} is no finished run: make demo writes one", file=sys.stderr)
        return
    import torch

    from puna.core.explain import pointed
    from puna.infer.engine import Request
    from puna.infer.load import load_engine
    from puna.infer.speculate import PromptLookup
    from puna.tokenizer.chat import render
    from puna.tokenizer.dialog import Task, read_rows

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    made = pointed(args.run)
    tasks = next(artifact.path for artifact in made.values() if artifact.kind == "tasks")
    rows = list(read_rows(tasks / "test.jsonl", Task))[: 20 if args.quick else 150]
    ways = {"alone": None, "draft model": made[args.draft].path, "look-up": PromptLookup()}
    result: dict[str, Any] = {}
    for temperature in (0.0, 1.0):
        engines, tokens, seconds = {}, {}, {name: [] for name in ways}
        for name, draft in ways.items():
            engines[name], tokenizer = load_engine(made[args.target].path, draft=draft, guesses=GUESSES, prefix_cache=False)
        prompts = [render(tokenizer, task.prompt, generation_prompt=True).ids for task in rows]
        requests = [Request(p, temperature=temperature, max_tokens=ANSWER, seed=i) for i, p in enumerate(prompts)]
        for _ in range(1 if args.quick else 3):
            for name, engine in engines.items():
                tokens[name], spent = answers(engine, requests)
                seconds[name].append(spent)
        if any(ids != tokens["alone"] for ids in tokens.values()):
            sys.exit(f"at temperature {temperature} guesses changed the text")
        written = sum(map(len, tokens["alone"]))
        for name, engine in engines.items():
            guessed, accepted = engine.guessed, engine.accepted
            calls = counted(engine)
            answers(engine, requests)
            found = {
                "acceptance": round(accepted / guessed, 3) if guessed else None, "calls_per_token": round(calls[0] / written, 3),
                "speed_up_best": round(min(seconds["alone"]) / min(seconds[name]), 3),
                "speed_up_median": round(statistics.median(seconds["alone"]) / statistics.median(seconds[name]), 3),
            }  # fmt: skip
            result[f"{name} at {temperature}"] = found
            print(f"{name:<12} temperature {temperature}: {found}")
    print(json.dumps({
        "bench": "speculate", "answers": len(rows), "guesses": GUESSES, "target": args.target, "draft": args.draft,
        "same_text": True, "found": result, "load": round(os.getloadavg()[0], 1), "machine": platform.machine(),
        "versions": {"torch": torch.__version__},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
