"""How long fine-tuning waits for its first step, and what memory it takes, with 20,000 and with 200,000 dialogs.

    python bench/sft_prepare.py [--quick] [--check] [--tokens N]

Dialogs are generated (two to eight messages of words, about --tokens tokens) and written as a tasks artifact would be; a process
for each size opens them as `post.sft` does and trains a tiny model. `first step` is from the opening of the files to the end of
the first optimiser step, `batch` until its rows are there, imports and the model left out (they do not depend on the rows).
Memory is resident and not mapped from files: before the files are opened, at its most until the last step, and at its most after
one whole epoch has been drawn, which encodes every row. `lists` is the same with every dialog encoded into lists first, at the
smaller size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

SECONDS, GROWTH_MB = 10.0, 64.0  # goals: to the first step of the larger size; memory that ten times the rows may add
SIZES = (20_000, 200_000)
LENGTH, BATCH_TOKENS, STEPS = 2048, 8192, 2
VOCABULARY = 2000


def words(draw: random.Random) -> list[str]:
    """Made-up words."""
    return ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(VOCABULARY)]


def write_dialogs(path: Path, count: int, tokens: int) -> None:
    """Rows of `puna.tokenizer.dialog.Dialog`."""
    draw = random.Random(1)
    known = words(draw)
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            turns = draw.randint(1, 4)
            per_message = max(4, int(tokens / (4 * turns) * draw.uniform(0.3, 1.7)))
            messages = [
                {"role": role, "content": " ".join(draw.choices(known, k=per_message))}
                for _ in range(turns)
                for role in ("user", "assistant")
            ]
            row = {"id": str(i), "messages": messages, "provenance": {"source": "bench", "licence": "CC0-1.0"}}
            file.write(json.dumps(row) + "\n")


def resident_mb() -> float:
    """Resident memory now, without what is mapped from files."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Peak:
    """The most resident memory seen, looked at whenever a batch is read."""

    def __init__(self, batches: Any):
        self.batches, self.mb = batches, 0.0
        self.asked: list[float] = []
        self.read: list[float] = []

    def __call__(self, step: int) -> Any:
        self.asked.append(time.perf_counter())
        found = self.batches(step)
        self.read.append(time.perf_counter())
        self.mb = max(self.mb, resident_mb())
        return found


def child(folder: Path, lists: bool) -> dict[str, float]:
    """Open, train, draw an epoch."""
    import torch

    from puna.core.stage import local_artifact, local_context
    from puna.model.config import ModelConfig
    from puna.model.llama import Llama
    from puna.post import sft
    from puna.post.examples import encode_dialogs, row_length
    from puna.tokenizer.bpe import Tokenizer
    from puna.tokenizer.dialog import Dialog, read_rows
    from puna.train.objectives import CrossEntropy
    from puna.train.packing import dialog_batches

    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(folder.parent / "tokenizer")
    config = ModelConfig(tokenizer.vocab_size, dim=32, layers=1, heads=2, kv_heads=1, ffn_dim=64, max_seq_len=LENGTH)
    model = Llama(config)
    tokenizer.encode_batch(["warm"])
    tasks = local_artifact(folder, "tasks")
    out = Path(tempfile.mkdtemp(dir=folder)) / "out"
    ctx = local_context(out, name="chat", inputs=[tasks], seed=1)
    settings = sft.Settings(steps=STEPS, batch_tokens=BATCH_TOKENS, length=None, checkpoint_seconds=1e9)
    before, start = resident_mb(), time.perf_counter()
    if lists:
        kept = encode_dialogs(tokenizer, read_rows(folder / "train.jsonl", Dialog), LENGTH)[0]
        longest = row_length(max(len(e.ids) for e in kept), LENGTH)
        batches = dialog_batches([(e.ids, e.loss_mask) for e in kept], longest, BATCH_TOKENS, 1)
    else:
        batches = sft.Pool(settings, ctx, tokenizer, LENGTH, tasks, tasks).batches(settings, ctx)
    peak = Peak(batches)
    sft.fit(model, CrossEntropy(), peak, settings, ctx)  # type: ignore[arg-type]
    waited = {"first_batch_s": peak.read[0] - start, "first_step_s": peak.asked[1] - start}
    found = {**waited, "before_mb": before, "peak_mb": peak.mb, "row_length": batches.length}
    start, step, drawn = time.perf_counter(), 0, 0
    while drawn < len(batches.examples):
        drawn += sum(int(batch.documents_BT.max()) + 1 for batch in peak(step))
        step += 1
    return {**found, "epoch_s": time.perf_counter() - start, "epoch_peak_mb": peak.mb, "steps": step}


def measure(folder: Path, lists: bool = False) -> dict[str, float]:
    """`child` in a process of its own."""
    command = [sys.executable, str(HERE), "--child", str(folder), *(["--lists"] if lists else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return json.loads(done.stdout.splitlines()[-1])


def told(name: str, row: dict[str, float]) -> dict[str, float]:
    """Print one measurement."""
    waited = f"batch after {row['first_batch_s']:.2f} s, first step after {row['first_step_s']:.2f} s"
    memory = f"{row['before_mb']:.0f} MB before, {row['peak_mb']:.0f} at step {STEPS}, {row['epoch_peak_mb']:.0f} after an epoch"
    print(f"{name:<13} {waited}, {memory} ({row['epoch_s']:.1f} s, rows of {row['row_length']})", flush=True)
    return row


def prepared(root: Path, count: int, tokens: int) -> Path:
    """A folder with the rows, and the tokenizer beside it."""
    from puna.tokenizer.bpe import Tokenizer

    folder = root / str(count)
    folder.mkdir(parents=True)
    write_dialogs(folder / "train.jsonl", count, tokens)
    if not (root / "tokenizer").exists():
        ranks = {bytes([byte]): byte for byte in range(256)}
        for word in words(random.Random(1)):
            for end in range(2, len(word) + 2):
                ranks.setdefault(f" {word}"[:end].encode(), len(ranks))
        Tokenizer.from_ranks(ranks).save(root / "tokenizer")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lists", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.lists)))
        return
    sizes = [size // 10 if args.quick else size for size in SIZES]
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as root:
        for size in sizes:
            folder = prepared(Path(root), size, args.tokens)
            found[str(size)] = told(str(size), measure(folder))
            if size == sizes[0]:
                found[f"{size} lists"] = told(f"{size} lists", measure(folder, lists=True))
    small, large = (found[str(size)] for size in sizes)
    growth = (large["epoch_peak_mb"] - large["before_mb"]) - (small["epoch_peak_mb"] - small["before_mb"])
    ratios = {"first_step_s": large["first_step_s"], "growth_mb": growth}
    limits = {"first_step_s": SECONDS, "growth_mb": GROWTH_MB}
    versions = {name: version(name) for name in ("torch", "tiktoken")}
    missed = [name for name, most in limits.items() if ratios[name] > most]
    print(json.dumps({"bench": "sft_prepare", "sizes": found, "ratios": ratios, "limits": limits,
                      "machine": f"{platform.machine()}, one core", "versions": versions}))  # fmt: skip
    if args.check and missed:
        sys.exit("missed: " + ", ".join(missed))


if __name__ == "__main__":
    main()
