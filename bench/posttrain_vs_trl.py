"""Post-training on one core: Puna's SFT, DPO and rejection sampling beside TRL's trainers and transformers' `generate`.

    python bench/posttrain_vs_trl.py [--quick] [--check] [--shape tiny|small] [--rounds N] [--data FOLDER]

Both sides read one random Llama and one tokenizer, which is trained on the dialogs, in Hugging Face's layout, and the same rows
of ../shared/data: instructions and Open-Assistant dialogs (the last answer learnt), its ranked answers as pairs, GSM8K's
questions to sample on. Each job is a process of its own, in turns; TRL runs in several ways that its documentation and a
processor allow, and the fastest counts; SFT is also held to TRL's packing, as both can pack. Real tokens a second of CPU time,
padding left out, best and median; the loss of TRL's first rows must be that of Puna's objective. The limit is the model's FLOPs
at the rate of this core's matrix products, measured in the same run. `posttrain_sides.py` says what is inside the clock. Memory
is the peak of the process; TRL's is that of the way compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from posttrain_sides import LENGTH, SIDES, Job, peak_mb

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

GOAL = {"sft": 2.0, "dpo": 2.0, "sample": 5.0, "sft_memory": 1.0, "dpo_memory": 1.0, "sample_memory": 1.0}
SHAPES = {
    "tiny": {"vocab_size": 2048, "dim": 128, "layers": 4, "heads": 4, "kv_heads": 2, "ffn_dim": 352},
    "small": {"vocab_size": 4096, "dim": 256, "layers": 6, "heads": 8, "kv_heads": 4, "ffn_dim": 704},
}
DATA = HERE.parents[2] / "shared" / "data"
DIALOGS = ("instr_mix/dolly_hhrlhf_train_small.jsonl", "oasst_trees/en_60_tree.jsonl")
QUESTIONS = "gsm8k/train.jsonl"
SIDE_NAMES = ("puna", "trl")
APART = 1e-4  # most that the two losses may differ
WAYS = {
    ("puna", "sft"): ("fp32", "bf16"), ("puna", "dpo"): ("fp32",), ("puna", "sample"): ("fp32", "bf16"),
    ("trl", "sft"): ("packed 1 fp32", "padded 4 fp32", "padded 4 bf16"),
    ("trl", "dpo"): ("2", "4"), ("trl", "sample"): ("8 fp32", "24 fp32", "8 bf16"),
}  # fmt: skip
QUICK = {
    **WAYS,
    ("puna", "sft"): ("fp32",),
    ("trl", "sft"): ("packed 1 fp32", "padded 4 fp32"),
    ("trl", "dpo"): ("2",),
    ("puna", "sample"): ("bf16",),
    ("trl", "sample"): ("8 fp32",),
}


def prepare(root: Path, shape: dict[str, int], data: Path, job: Job) -> dict[str, float]:
    """Model, tokenizer, tasks and the rows as TRL takes them, under `root`; returns tokens of dialogs and pairs."""
    from puna.core.stage import local_context
    from puna.model.checkpoint import save_model
    from puna.model.config import ModelConfig
    from puna.model.llama import Llama
    from puna.post import collect
    from puna.post.examples import encode_dialogs, encode_preferences
    from puna.tokenizer.bpe import Tokenizer
    from puna.tokenizer.dialog import Dialog, Preference, read_rows, write_rows
    from puna.tokenizer.merging import train_ranks
    from puna.tokenizer.pieces import count_texts
    from puna.tokenizer.special import SLOTS

    tasks = root / "tasks"
    sources = [{"path": str(data / name)} for name in DIALOGS]
    questions = {"path": str(data / QUESTIONS), "gold": 0, "prompts": job.prompts, "dev": 1, "test": 0}
    collect.run(collect.Settings(sources=[*sources, questions]), local_context(tasks, name="tasks", seed=1))
    dialogs = [last_learnt(row) for row in read_rows(tasks / "train.jsonl", Dialog) if row.messages[-1].role == "assistant"]
    texts = (message.content for row in dialogs for message in row.messages)
    tokenizer = Tokenizer.from_ranks(train_ranks(count_texts(texts), shape["vocab_size"] - SLOTS).ranks)
    fit = [(row, kept[0]) for row in dialogs if (kept := encode_dialogs(tokenizer, [row], LENGTH)[0])]
    rows = read_rows(tasks / "preferences.jsonl", Preference)
    pairs = [(row, kept[0]) for row in rows if (kept := encode_preferences(tokenizer, [row], LENGTH, ranks=2).rows)][: job.pairs]
    write_rows(tasks / "train.jsonl", [row for row, _ in fit])
    write_rows(tasks / "preferences.jsonl", [row for row, _ in pairs])
    save_model(Llama(ModelConfig(**shape, rope_theta=10_000.0, max_seq_len=LENGTH), seed=0), root / "base", tokenizer=tokenizer)
    lines = [{"prompt": plain(row.messages[:-1]), "completion": plain(row.messages[-1:])} for row, _ in fit]
    (root / "sft.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "pairs.jsonl").write_text("".join(json.dumps(pair(row)) + "\n" for row, _ in pairs))
    return {
        "dialogs": len(fit),
        "dialog_tokens": sum(len(encoded.ids) for _, encoded in fit),
        "pairs": len(pairs),
        "pair_tokens": sum(len(answer.ids) for _, ranked in pairs for answer in ranked.answers),
    }


def last_learnt(dialog: Any) -> Any:
    """The dialog with its last message alone to be learnt, as TRL's prompts and completions have it."""
    *before, last = dialog.messages
    return dialog.model_copy(update={"messages": [*(m.model_copy(update={"train": False}) for m in before), last]})


def plain(messages: Any) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def pair(row: Any) -> dict[str, Any]:
    """A preference as TRL reads it: the best answer and the worst."""
    chosen, rejected = (plain(row.candidates[row.ranking[i]].messages) for i in (0, -1))
    return {"prompt": plain(row.context), "chosen": chosen, "rejected": rejected}


def child(root: Path, name: str, way: str, job: Job) -> dict[str, Any]:
    """One job in this process, on one thread."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = SIDES[name](root, job, way)
    return {"peak_mb": peak_mb(), **found}


def measured(root: Path, name: str, way: str, job: Job) -> dict[str, Any]:
    """`child` in a process of its own, with a folder of its own to write to."""
    with tempfile.TemporaryDirectory() as out:
        place = Path(out)
        for path in root.iterdir():
            (place / path.name).symlink_to(path)
        command = [sys.executable, str(HERE), "--child", name, "--way", way, "--root", out, "--job", json.dumps(asdict(job))]
        quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "",
                 "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": f"{out}/cache"}  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | quiet)
    if done.returncode:
        sys.exit(f"{name}, {way}, failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found.get("apart", 0.0) > APART:
        sys.exit(f"{name}, {way}, does not compute the same: its loss is {found['apart']:.6f} from Puna's")
    return found


def seconds_of(run: dict[str, Any], sizes: dict[str, float], clock: int) -> float:
    """Seconds a token, the share of the reference pass included; clock 0 is the processor's, 1 the wall's."""
    return run["seconds"][clock] + (run["reference"][clock] / sizes["pair_tokens"] if "reference" in run else 0.0)


def product_gflops(shape: dict[str, int]) -> float:
    """GFLOP/s of this core at the network's products between model and feed-forward width, fp32."""
    import time

    import torch

    torch.set_num_threads(1)
    x, w = torch.randn(LENGTH, shape["dim"]), torch.randn(shape["ffn_dim"], shape["dim"])
    best = 1e9
    for _ in range(100):
        start = time.process_time()
        torch.nn.functional.linear(x, w)
        best = min(best, time.process_time() - start)
    return 2 * x.numel() * len(w) / best / 1e9


def limits(shape: dict[str, int], sizes: dict[str, float], gflops: float) -> dict[str, float]:
    """Tokens a second if this core did nothing but the model's products: training, DPO with its reference, drawing.

    Attention counts at the mean length of the documents; where nothing is learnt the output matrix counts all the same.
    """
    from puna.model.config import ModelConfig
    from puna.plan.flops import training_flops_per_token

    config = ModelConfig(**shape, max_seq_len=LENGTH)
    sft = training_flops_per_token(config, round(sizes["dialog_tokens"] / sizes["dialogs"]))
    dpo = training_flops_per_token(config, round(sizes["pair_tokens"] / sizes["pairs"] / 2))
    flops = {"sft": sft, "dpo": 4 / 3 * dpo, "sample": sft / 3}  # a training step is three forward passes
    return {job: gflops * 1e9 / count for job, count in flops.items()}


def compare(args: argparse.Namespace, job: Job) -> dict[str, Any]:
    """All jobs in turns; prints the table."""
    shape, runs = SHAPES[args.shape], {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sizes = prepare(root, shape, args.data, job)
        ways = QUICK if args.quick else WAYS
        for _ in range(args.rounds):
            for (side, what), several in ways.items():
                for way in several:
                    found = measured(root, f"{side} {what}", way, job)
                    runs.setdefault((side, what, way), []).append(found)
                    speed = f"{1 / seconds_of(found, sizes, 0):.0f} tokens/s of CPU time, {found['peak_mb']:.0f} MB"
                    print(f"{what} {side} {way}: {speed}", file=sys.stderr, flush=True)
    gflops = product_gflops(shape)
    most = limits(shape, sizes, gflops)
    table = {key: row_of(found, sizes) for key, found in runs.items()}
    for (side, what, way), row in table.items():
        speed = f"{row['best']:7.0f} best {row['median']:7.0f} median tokens/s of CPU time, {row['wall']:6.0f} by the wall"
        share = f"{100 * row['median'] / most[what]:5.1f} % of the limit"
        print(f"{what:7}{side:5}{way:15} {speed} {share} {row['peak_mb']:6.0f} MB")
    print(f"limit: {', '.join(f'{what} {value:.0f}' for what, value in most.items())} tokens/s at {gflops:.0f} GFLOP/s in fp32")
    return {"bench": "posttrain_vs_trl", "shape": args.shape, "ratios": ratios(table), "goals": GOAL, "limits": most,
            "gflops": gflops, "sizes": sizes, "job": asdict(job), "rounds": args.rounds,
            "rows": {" ".join(key): row for key, row in table.items()}, "load": round(os.getloadavg()[0], 1),
            "machine": f"{platform.machine()}, one core",
            "versions": {name: version(name) for name in ("torch", "transformers", "trl", "accelerate", "datasets")}}  # fmt: skip


def row_of(runs: list[dict[str, Any]], sizes: dict[str, float]) -> dict[str, float]:
    """Best and median tokens a second of CPU time, median by the wall, and the largest peak."""
    by_cpu, by_wall = ([1 / seconds_of(run, sizes, clock) for run in runs] for clock in (0, 1))
    peak = max(run["peak_mb"] for run in runs)
    return {"best": max(by_cpu), "median": statistics.median(by_cpu), "wall": statistics.median(by_wall), "peak_mb": peak}


def ratios(table: dict[tuple[str, str, str], dict[str, float]]) -> dict[str, float]:
    """Speed over TRL's fastest way, of SFT in fp32 over its packing; memory of that way over ours.

    `sft_fastest` is SFT's over all of TRL's ways, padded ones and bf16 included, of our fastest.
    """
    found = {}
    for what in ("sft", "dpo", "sample"):
        rows = {side: {way: row for (one, job, way), row in table.items() if (one, job) == (side, what)} for side in SIDE_NAMES}
        fastest = {side: max(some.values(), key=lambda row: row["median"]) for side, some in rows.items()}
        ours, theirs = (rows["puna"]["fp32"], rows["trl"]["packed 1 fp32"]) if what == "sft" else fastest.values()
        found[what] = ours["median"] / theirs["median"]
        found[f"{what}_memory"] = theirs["peak_mb"] / ours["peak_mb"]
        if what == "sft":
            found["sft_fastest"] = fastest["puna"]["median"] / fastest["trl"]["median"]
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--child", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.root, args.child, args.way, Job(**json.loads(args.job)))))
        return
    if not (args.data / QUESTIONS).is_file():
        print(f"{args.data} is not here: nothing is compared")
        return
    args.rounds = args.rounds or (1 if args.quick else 2)
    result = compare(args, Job(batch_tokens=2048, pairs=16, pairs_per_step=4, prompts=8) if args.quick else Job())
    print(json.dumps(result))
    missed = [f"{name} {result['ratios'][name]:.2f} < {goal}" for name, goal in GOAL.items() if result["ratios"][name] < goal]
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
