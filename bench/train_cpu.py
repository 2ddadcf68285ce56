"""Training a tiny Llama on one core: Puna's loop beside Hugging Face's Trainer, litgpt's network and a plain PyTorch loop.

    python bench/train_cpu.py [--quick] [--check] [--shape cria|small] [--steps N] [--runs N] [--litgpt-python PYTHON]

All sides start from the same weights and read the same rows (AdamW, clipping at 1, one document a row), in fp32 and with products
in bf16 (weights in fp32: autocast, or what Puna has for it); the losses of their first steps must agree before anything is timed.
Each run is a process of its own, in turns; medians of the CPU time of the steps after the first ten, and the peak memory of the
process. A ratio is given for each precision, and for the faster of both on each side, to which the goals apply. The limit is the
model's FLOPs at the rate of this core's matrix products in that precision, measured in the same run. `flat` compares reading a
step's rows from 1x and from 100x the data.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

GOAL = {"hf_trainer": 1.5, "plain": 1.2, "litgpt": 1.2}
SHAPES = {
    "small": {"vocab_size": 4096, "dim": 256, "layers": 6, "heads": 8, "kv_heads": 4, "ffn_dim": 704},
    "cria": {"vocab_size": 1280, "dim": 96, "layers": 4, "heads": 4, "kv_heads": 2, "ffn_dim": 256},
}
ROWS, LENGTH, WARM = 8, 128, 10
LR, BETAS, DECAY = 1e-3, (0.9, 0.95), 0.1
FIRST = 3  # steps whose losses are compared


def config_of(shape: str) -> Any:
    from puna.model.config import ModelConfig

    return ModelConfig(**SHAPES[shape], rope_theta=10_000.0, max_seq_len=LENGTH)


def rows_of(shape: str, steps: int, step: int) -> Any:
    """Ids of one step, [ROWS, LENGTH + 1]; a language a model can learn: each token is a function of the one before, nearly."""
    import torch

    draw = torch.Generator().manual_seed(1000 + step)
    vocabulary = SHAPES[shape]["vocab_size"]
    noise = torch.randint(0, 7, (ROWS, LENGTH + 1), generator=draw)
    return (noise.cumsum(1) * 17 + torch.randint(0, vocabulary, (ROWS, 1), generator=draw)) % vocabulary


# ---- the sides: each trains for `steps` steps and returns losses and the seconds of every step


def puna(shape: str, steps: int, precision: str) -> tuple[list[float], list[float]]:
    """Puna's loop as stages use it, evaluation and checkpoints left out."""
    import torch

    from puna.core.stage import local_context
    from puna.model.llama import Llama
    from puna.train.loop import train
    from puna.train.objectives import CrossEntropy
    from puna.train.optim import OptimSettings
    from puna.train.packing import Batch
    from puna.train.schedule import LearningRate, Schedule

    model = Llama(config_of(shape), seed=0)
    marks: list[float] = []
    at = torch.arange(LENGTH).expand(ROWS, -1)

    def batches(step: int) -> list[Batch]:
        marks.append(time.process_time())
        ids = rows_of(shape, steps, step)
        return [Batch(ids[:, :-1], ids[:, 1:], at, torch.arange(ROWS)[:, None].expand(-1, LENGTH))]

    with tempfile.TemporaryDirectory() as out:
        result = train(model, CrossEntropy(), batches, Schedule(steps=steps, lr=LearningRate(shape="constant", warmup=0)),
                       OptimSettings(lr=LR, betas=BETAS, weight_decay=DECAY), local_context(Path(out) / "a"), log_every=1,
                       precision=precision,
                       checkpoint_seconds=1e9)  # fmt: skip
    return [row["loss"] for row in result.rows], differences([*marks, time.process_time()])


def plain(shape: str, steps: int, precision: str) -> tuple[list[float], list[float]]:
    """What one writes down first: the network module by module, AdamW, one loop."""
    import torch.nn.functional as F
    from plain_llama import PlainLlama

    from puna.model.llama import Llama

    model = PlainLlama(SHAPES[shape], LENGTH)
    model.load_state_dict(Llama(config_of(shape), seed=0).state_dict())
    return plain_loop(
        model, lambda logits, ids: F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()), shape, steps, precision
    )


def plain_loop(model: Any, loss_of: Any, shape: str, steps: int, precision: str) -> tuple[list[float], list[float]]:
    import torch

    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS)
    losses, marks = [], []
    for step in range(steps):
        marks.append(time.process_time())
        ids = rows_of(shape, steps, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(model(ids[:, :-1]), ids)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, differences([*marks, time.process_time()])


def hf_trainer(shape: str, steps: int, precision: str) -> tuple[list[float], list[float]]:
    """transformers' LlamaForCausalLM under its Trainer, nothing saved and nothing reported."""
    import torch
    from torch.utils.data import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from puna.model.llama import Llama

    config = config_of(shape)
    peer = LlamaForCausalLM(LlamaConfig(**config.to_hf(), attn_implementation="sdpa"))
    peer.load_state_dict(Llama(config, seed=0).state_dict())

    class Rows(Dataset):
        def __len__(self):
            return steps * ROWS

        def __getitem__(self, index):
            row = self.step(index // ROWS)[index % ROWS]
            return {"input_ids": row[:-1], "labels": row[:-1], "shift_labels": row[1:]}

        def step(self, step):
            if getattr(self, "number", None) != step:
                self.number, self.rows = step, rows_of(shape, steps, step)
            return self.rows

    class Clock(TrainerCallback):
        marks: list[float] = []
        losses: list[float] = []

        def on_step_begin(self, args, state, control, **others):
            self.marks.append(time.process_time())

        def on_log(self, args, state, control, logs=None, **others):
            if logs and "loss" in logs:
                self.losses.append(logs["loss"])

    class InOrder(Trainer):
        def _get_train_sampler(self, *others):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out, per_device_train_batch_size=ROWS, max_steps=steps, learning_rate=LR, weight_decay=DECAY,
            adam_beta1=BETAS[0], adam_beta2=BETAS[1], lr_scheduler_type="constant", max_grad_norm=1.0, logging_steps=1,
            save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, dataloader_num_workers=0,
            bf16=precision == "bf16",
            remove_unused_columns=False,
        )  # fmt: skip
        InOrder(model=peer, args=arguments, train_dataset=Rows(), callbacks=[clock]).train()
    return clock.losses, differences([*clock.marks, time.process_time()])


def litgpt(shape: str, steps: int, precision: str) -> tuple[list[float], list[float]]:
    """litgpt's GPT in the plain loop."""
    from litgpt import Config
    from litgpt.model import GPT
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.utils import chunked_cross_entropy

    from puna.model.llama import Llama

    sizes = SHAPES[shape]
    config = Config(
        name="tiny", block_size=LENGTH, vocab_size=sizes["vocab_size"], padded_vocab_size=sizes["vocab_size"],
        n_layer=sizes["layers"], n_head=sizes["heads"], n_query_groups=sizes["kv_heads"], n_embd=sizes["dim"],
        rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
        intermediate_size=sizes["ffn_dim"], norm_eps=1e-5, rope_base=10_000,
    )  # fmt: skip
    model = GPT(config)
    state: dict[str, Any] = {}
    copy_weights_hf_llama(config, {}, state, dict(Llama(config_of(shape), seed=0).state_dict()))
    model.load_state_dict(state)
    return plain_loop(model, lambda logits, ids: chunked_cross_entropy(logits, ids[:, 1:], chunk_size=0), shape, steps, precision)


PRECISIONS = ("fp32", "bf16")
SIDES = {"puna": puna, "hf_trainer": hf_trainer, "litgpt": litgpt, "plain": plain}


# ---- measuring


def differences(marks: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(marks)]


def side(name: str, precision: str, shape: str, steps: int) -> None:
    """Body of one process."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    losses, took = SIDES[name](shape, steps, precision)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"losses": losses, "seconds": took, "peak_mb": peak}))


def measured(python: str, name: str, precision: str, shape: str, steps: int) -> dict[str, Any]:
    command = [python, str(HERE), "--side", name, "--precision", precision, "--shape", shape, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode:
        sys.exit(f"{name} in {precision} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
    }


def product_rate(shape: str, precision: str) -> float:
    """GFLOP/s of one core at the network's matrix products between model and feed-forward width."""
    import torch

    torch.set_num_threads(1)
    sizes = SHAPES[shape]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, w = torch.randn(ROWS * LENGTH, sizes["dim"]).to(dtype), torch.randn(sizes["ffn_dim"], sizes["dim"]).to(dtype)
    best = 1e9
    for _ in range(50):
        start = time.process_time()
        torch.nn.functional.linear(x, w)
        best = min(best, time.process_time() - start)
    return 2 * x.numel() * len(w) / best / 1e9


def flat_cost() -> float:
    """Time of reading one step's rows from 100 times the data over that of the data itself."""
    import numpy as np

    from puna.train.schedule import Batching, Schedule
    from puna.train.stream import TokenStream

    class Shard:
        def __init__(self, documents: int):
            lengths = np.random.default_rng(0).integers(50, 400, documents)
            self.ends = np.cumsum(lengths)
            self.tokens = np.zeros(int(self.ends[-1]), np.uint32)

    found = []
    for documents in (2_000, 200_000):
        batching = Batching(batch_tokens=ROWS * LENGTH, seq_len=LENGTH)
        stream = TokenStream({"general": Shard(documents)}, {"general": 1.0}, Schedule(steps=10_000, batching=batching), seed=1)
        stream(0)
        start = time.process_time()
        for step in range(1, 300):
            stream(step)
        found.append(time.process_time() - start)
    return found[1] / found[0]


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All sides in turns; prints the table."""
    from puna.plan.flops import training_flops_per_token

    pythons = dict.fromkeys(SIDES, sys.executable) | {"litgpt": args.litgpt_python}
    names = [(name, precision) for precision in PRECISIONS for name in SIDES if pythons[name]]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(args.runs):
        for name, precision in names:
            runs[name, precision].append(measured(pythons[name], name, precision, args.shape, args.steps))
    first = runs["puna", "fp32"][0]["losses"]
    for name in names:
        apart = max(abs(a - b) for a, b in zip(first[:FIRST], runs[name][0]["losses"][:FIRST], strict=True))
        if apart > 2e-3:
            sys.exit(f"{' in '.join(name)} does not compute the same: its first losses are {apart:.4f} apart")
    step = {name: statistics.median(s for run in runs[name] for s in run["seconds"][WARM:]) for name in names}
    memory = {name: max(run["peak_mb"] for run in runs[name]) for name in names}
    flops = training_flops_per_token(config_of(args.shape), LENGTH)
    rates = {precision: product_rate(args.shape, precision) for precision in PRECISIONS}
    speed = {name: ROWS * LENGTH / seconds for name, seconds in step.items()}
    share = {name: speed[name] * flops / 1e9 / rates[name[1]] for name in names}
    for name in names:
        of_limit = f"{100 * share[name]:5.1f} % of the limit"
        print(f"{' '.join(name):16} {speed[name]:9.0f} tokens/s  {1e3 * step[name]:7.2f} ms  {of_limit}  {memory[name]:6.0f} MB")
    for precision, rate in rates.items():
        print(
            f"limit in {precision}    {1e9 * rate / flops:9.0f} tokens/s: {flops / 1e6:.1f} MFLOP a token at {rate:.0f} GFLOP/s"
        )
    flat = flat_cost()
    print(f"reading 100x the data costs {flat:.2f}x")
    flatly = {"tokens_per_s": speed, "share_of_limit": share, "peak_mb": memory}
    return {"bench": "train_cpu", "shape": args.shape, "ratios": ratios(step), "gflops": rates, "flat": flat,
            **{key: {" ".join(name): value for name, value in values.items()} for key, values in flatly.items()},
            "runs": args.runs, "steps": args.steps, "machine": f"{platform.machine()}, one core",
            "versions": versions()}  # fmt: skip


def ratios(step: dict[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    """By precision, and "fastest", the better of a side's precisions: seconds of each peer over Puna's."""
    peers = list(dict.fromkeys(name for name, _ in step if name != "puna"))
    found = {p: {peer: step[peer, p] / step["puna", p] for peer in peers} for p in PRECISIONS}
    best = {name: min(step[name, p] for p in PRECISIONS) for name in ("puna", *peers)}
    return found | {"fastest": {peer: best[peer] / best["puna"] for peer in peers}}


def versions() -> dict[str, str]:
    import importlib.metadata as metadata

    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("torch", "transformers", "accelerate")
    }


def missed(result: dict[str, Any]) -> list[str]:
    """Goals not met: a ratio too small, or memory above that of a side in the same precision."""
    fastest, memory = result["ratios"]["fastest"], result["peak_mb"]
    found = [f"{name} {fastest[name]:.2f} < {goal}" for name, goal in GOAL.items() if fastest.get(name, goal) < goal]
    more = [(name, p) for name in fastest for p in PRECISIONS if memory[f"puna {p}"] > memory[f"{name} {p}"]]
    return found + [f"memory in {p} is above that of {name}" for name, p in more]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="cria")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--litgpt-python", default="", help="an interpreter that imports litgpt; empty leaves it out")
    parser.add_argument("--side", choices=sorted(SIDES))
    parser.add_argument("--precision", choices=PRECISIONS)
    args = parser.parse_args()
    args.steps = args.steps or (30 if args.quick else 120)
    args.runs = args.runs or (1 if args.quick else 3)
    if args.side:
        side(args.side, args.precision, args.shape, args.steps)
        return
    result = compare(args)
    print(json.dumps(result))
    if args.check and missed(result):
        sys.exit(f"missed: {'; '.join(missed(result))}")


if __name__ == "__main__":
    main()
