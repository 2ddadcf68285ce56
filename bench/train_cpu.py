"""Training on a CPU: Puna's loop beside Hugging Face's Trainer, litgpt's model and a plain PyTorch loop.

    python bench/train_cpu.py [--quick] [--check] [--case NAME ...] [--runs N] [--threads N]

Two small Llamas in fp32 with AdamW, clipping at 1: `tiny` (dim 256, 6 layers, vocabulary 4096, rows of 256, one document a row,
so that attention is plainly causal) and `embedded` (dim 128, 4 layers, vocabulary 1280, rows of 128 packed with short documents
that do not see each other; litgpt has no such mask and is left out). Puna reads its token stream while it trains; the others get
the same batches ready-made. Before anything is timed all sides train a few steps from the same weights; their losses must agree.

Each run is a process of its own, in turns; medians of its steps, then of the runs. With one thread CPU seconds are counted (the
machine may be shared), with more of them wall seconds. Memory is the peak of the process. The limit beside it is the rate of the
model's matrix products alone, by `torch.mm`; FLOPs of a token are 6 N + 12 L d S, attention in full. `puna_100x` reads a shard a
hundred times larger: the cost of a step must stay. `make bench-env` installs litgpt.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.model.attention import additive
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.plan.flops import training_flops_per_token
from puna.train.optim import OptimSettings
from puna.train.schedule import Batching, LearningRate, Schedule
from puna.train.stream import TokenStream

HERE = Path(__file__).resolve()
GOAL = {"over_hf": 1.5, "over_plain": 1.2}
AGREE, FLAT = 1e-4, 1.1  # difference of losses; cost of a step with 100 times the data
OPTIM = OptimSettings(name="adamw", lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, clip=1.0)
TOKENS, CHECK_STEPS = 400_000, 5


@dataclass(frozen=True)
class Case:
    """What is trained: a shape, the rows, how long documents are (one number: all), and how many steps are timed."""

    config: ModelConfig
    seq_len: int
    batch_tokens: int
    documents: tuple[int, int]
    steps: int
    warm: int


CASES = {
    "tiny": Case(ModelConfig(4096, 256, 6, 4, 2, 704, rope_theta=1e4, max_seq_len=256), 256, 2048, (256, 256), 8, 2),
    "embedded": Case(ModelConfig(1280, 128, 4, 4, 2, 352, rope_theta=1e4, max_seq_len=128), 128, 1024, (8, 40), 60, 5),
}


def shard(case: Case, tokens: int) -> SimpleNamespace:
    """Documents of random tokens, frequent ones first."""
    draw = np.random.default_rng(0)
    low, high = case.documents
    lengths = draw.integers(low, high + 1, tokens // ((low + high) // 2))
    ids = (case.config.vocab_size * draw.random(int(lengths.sum()), np.float32) ** 3).astype(np.uint32)
    return SimpleNamespace(tokens=ids, ends=np.cumsum(lengths))


def schedule(case: Case, steps: int) -> Schedule:
    batching = Batching(batch_tokens=case.batch_tokens, seq_len=case.seq_len)
    return Schedule(steps=steps, lr=LearningRate(shape="constant", warmup=0), batching=batching)


def stream(case: Case, steps: int, tokens: int = TOKENS) -> TokenStream:
    return TokenStream({"general": shard(case, tokens)}, {"general": 1.0}, schedule(case, steps), seed=1)


class Clock:
    """The start of every step: CPU and wall seconds; and the losses, where they are asked for."""

    def __init__(self, losses: bool):
        self.marks: list[tuple[float, float]] = []
        self.losses: list[float] | None = [] if losses else None

    def step(self) -> None:
        """A step begins."""
        self.marks.append((time.process_time(), time.perf_counter()))

    def loss(self, value: Tensor) -> None:
        if self.losses is not None:
            self.losses.append(float(value))


def puna(case: Case, steps: int, clock: Clock, tokens: int = TOKENS) -> None:
    """The loop and the stream of the package."""
    from puna.core.stage import local_context
    from puna.train.loop import train
    from puna.train.objectives import CrossEntropy

    batches = stream(case, steps, tokens)

    def read(step: int) -> list[Any]:
        clock.step()
        return batches(step)

    options = {"log_every": 10 if clock.losses is None else 1, "checkpoint_seconds": 1e9}
    with tempfile.TemporaryDirectory() as out:
        ctx = local_context(Path(out))
        result = train(Llama(case.config), CrossEntropy(), read, schedule(case, steps), OPTIM, ctx, **options)
    if clock.losses is not None:
        clock.losses += [row["loss"] for row in result.rows]


def puna_100x(case: Case, steps: int, clock: Clock) -> None:
    """The same with a hundred times the tokens."""
    puna(case, steps, clock, 100 * TOKENS)


def hf(case: Case, steps: int, clock: Clock) -> None:
    """Trainer with its default optimiser, LlamaForCausalLM with SDPA attention."""
    import transformers

    from puna.model.checkpoint import save_model

    rows = [
        {"input_ids": b.ids_BT[i], "position_ids": b.positions_BT[i], "labels": b.targets_BT[i], "shift_labels": b.targets_BT[i]}
        for b in ready(case, steps) for i in range(len(b.ids_BT))
    ]  # fmt: skip

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

        def compute_loss(self, *arguments: Any, **options: Any) -> Any:
            loss = super().compute_loss(*arguments, **options)
            clock.loss(loss)
            return loss

    class Marks(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.step()

    with tempfile.TemporaryDirectory() as out:
        save_model(Llama(case.config), out)
        model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="sdpa")
        settings = transformers.TrainingArguments(
            output_dir=out, per_device_train_batch_size=case.batch_tokens // case.seq_len, max_steps=steps,
            lr_scheduler_type="constant", learning_rate=OPTIM.lr, weight_decay=OPTIM.weight_decay, adam_epsilon=OPTIM.eps,
            adam_beta1=OPTIM.betas[0], adam_beta2=OPTIM.betas[1], max_grad_norm=OPTIM.clip, logging_steps=10, report_to=[],
            save_strategy="no", use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
        )  # fmt: skip
        InOrder(model=model, args=settings, train_dataset=rows, callbacks=[Marks()]).train()


def litgpt(case: Case, steps: int, clock: Clock) -> None:
    """litgpt's GPT class in the plain loop."""
    sys.path.append(str(HERE.parents[1] / ".bench-env/litgpt"))
    from litgpt.config import Config
    from litgpt.model import GPT

    c = case.config
    model = GPT(Config(
        block_size=case.seq_len, vocab_size=c.vocab_size, padded_vocab_size=c.vocab_size, n_layer=c.layers, n_head=c.heads,
        n_query_groups=c.kv_heads, n_embd=c.dim, head_size=c.head_size, rotary_percentage=1.0, parallel_residual=False,
        bias=False, norm_class_name="RMSNorm", norm_eps=c.norm_eps, mlp_class_name="LLaMAMLP", intermediate_size=c.ffn_dim,
        rope_base=int(c.rope_theta),
    ))  # fmt: skip
    ours = Llama(c).state_dict()
    names = {"lm_head": ["lm_head"], "transformer.wte": ["model.embed_tokens"], "transformer.ln_f": ["model.norm"]}
    parts = {"norm_1": ["input_layernorm"], "norm_2": ["post_attention_layernorm"], "attn.proj": ["self_attn.o_proj"],
             "attn.qkv": [f"self_attn.{x}_proj" for x in "qkv"], "mlp.fc_1": ["mlp.gate_proj"], "mlp.fc_2": ["mlp.up_proj"],
             "mlp.proj": ["mlp.down_proj"]}  # fmt: skip
    for i in range(c.layers):
        names |= {f"transformer.h.{i}.{to}": [f"model.layers.{i}.{part}" for part in some] for to, some in parts.items()}
    theirs = {f"{to}.weight": torch.cat([ours[f"{part}.weight"] for part in some]) for to, some in names.items()}
    model.load_state_dict(theirs)
    plain_loop(model, case, steps, clock)


def plain(case: Case, steps: int, clock: Clock) -> None:
    """A model of torch's modules in the plain loop."""
    model = PlainLlama(case.config)
    model.load_state_dict(dict(zip(model.state_dict(), Llama(case.config).state_dict().values(), strict=True)))
    plain_loop(model, case, steps, clock)


SIDES = {"puna": puna, "plain": plain, "hf": hf, "litgpt": litgpt, "puna_100x": puna_100x}


def ready(case: Case, steps: int) -> list[Any]:
    """The batches of all steps, made before the clock runs."""
    read = stream(case, steps)
    return [read(step)[0] for step in range(steps)]


def plain_loop(model: nn.Module, case: Case, steps: int, clock: Clock) -> None:
    """What a careful afternoon's training loop does."""
    masked = case.documents[0] != case.documents[1]
    decays = {True: OPTIM.weight_decay, False: 0.0}  # matrices and vectors
    groups = [{"params": [p for p in model.parameters() if (p.dim() > 1) == m], "weight_decay": d} for m, d in decays.items()]
    optimizer = torch.optim.AdamW(groups, lr=OPTIM.lr, betas=OPTIM.betas, eps=OPTIM.eps, foreach=True)
    for batch in ready(case, steps):
        clock.step()
        own = (batch.positions_BT, additive(batch.mask(), torch.float32)) if masked else ()
        loss = F.cross_entropy(model(batch.ids_BT, *own).flatten(0, 1), batch.targets_BT.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.loss(loss.detach())


class PlainLlama(nn.Module):
    """nanoGPT's manner with Llama's parts; parameters in the order of `puna.model.llama`."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.embed = nn.Embedding(c.vocab_size, c.dim)
        self.blocks = nn.ModuleList(PlainBlock(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.head = nn.Linear(c.dim, c.vocab_size, bias=False)
        angles = torch.arange(c.max_seq_len)[:, None] / c.rope_theta ** (torch.arange(0, c.head_size, 2) / c.head_size)
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)

    def forward(self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        where = slice(ids.shape[1]) if positions is None else positions
        cos, sin = self.cos[where].unsqueeze(-3), self.sin[where].unsqueeze(-3)
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return self.head(self.norm(x))


class PlainBlock(nn.Module):
    """Attention and feed-forward."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_size = c.heads, c.kv_heads, c.head_size
        self.q, self.k = (nn.Linear(c.dim, n * c.head_size, bias=False) for n in (c.heads, c.kv_heads))
        self.v = nn.Linear(c.dim, c.kv_heads * c.head_size, bias=False)
        self.o = nn.Linear(c.heads * c.head_size, c.dim, bias=False)
        self.gate, self.up = (nn.Linear(c.dim, c.ffn_dim, bias=False) for _ in range(2))
        self.down = nn.Linear(c.ffn_dim, c.dim, bias=False)
        self.norm_1, self.norm_2 = (nn.RMSNorm(c.dim, c.norm_eps) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        B, T, D = x.shape
        y = self.norm_1(x)
        q = self.q(y).view(B, T, self.heads, self.head_size).transpose(1, 2)
        k = self.k(y).view(B, T, self.kv_heads, self.head_size).transpose(1, 2)
        v = self.v(y).view(B, T, self.kv_heads, self.head_size).transpose(1, 2)
        q, k = (t * cos + torch.cat((-t.chunk(2, -1)[1], t.chunk(2, -1)[0]), -1) * sin for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(B, T, D))
        y = self.norm_2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def one_side(name: str, case: Case, steps: int, losses: bool) -> dict[str, Any]:
    """In a process of its own: seconds of a step after the warm-up, peak memory, losses if they are asked for."""
    clock = Clock(losses)
    SIDES[name](case, steps, clock)
    cpu, wall = np.diff(np.array(clock.marks)[case.warm :], axis=0).T if not losses else (np.zeros(1), np.zeros(1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu": float(np.median(cpu)), "wall": float(np.median(wall)), "peak_mb": peak, "losses": clock.losses}


def products(case: Case, seconds: float) -> dict[str, float]:
    """GFLOP/s of the step's matrix products alone: every weight forward, for its input and for itself."""
    c, n = case.config, case.batch_tokens
    matrices = [w.shape for name, w in Llama(c, seed=None).named_parameters() if w.dim() == 2 and "embed" not in name]
    operands = {s: (torch.randn(n, s[1]), torch.randn(s), torch.randn(n, s[0])) for s in set(matrices)}
    best, end = float("inf"), time.monotonic() + seconds
    while time.monotonic() < end or best == float("inf"):
        start = (time.process_time(), time.perf_counter())
        for found in matrices:
            x, w, g = operands[found]
            torch.mm(x, w.t()), torch.mm(g, w), torch.mm(g.t(), x)
        passed = (time.process_time() - start[0], time.perf_counter() - start[1])
        best = min(best, passed[torch.get_num_threads() > 1])
    return {"gflops": 6e-9 * n * sum(a * b for a, b in matrices) / best}


def apart(args: argparse.Namespace, case: str, side: str, *options: str) -> dict[str, Any]:
    """Run this file for one side and read its last line."""
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(HERE), "--side", side, "--case", case, "--threads", str(args.threads), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed on {case}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def agreement(args: argparse.Namespace, case: str, sides: list[str]) -> float:
    """Largest difference of a loss from ours over the first steps; ends the bench if it is too large."""
    losses = {side: apart(args, case, side, "--losses", "--steps", str(CHECK_STEPS))["losses"] for side in sides}
    far = {side: max(abs(a - b) for a, b in zip(losses["puna"], found, strict=True)) for side, found in losses.items()}
    print(f"{case}: first losses {[round(x, 5) for x in losses['puna']]}; farthest from them: "
          + ", ".join(f"{side} {value:.1e}" for side, value in far.items() if side != "puna"), flush=True)  # fmt: skip
    if max(far.values()) > AGREE:
        sys.exit(f"the sides do not compute the same: {far}")
    return max(far.values())


def compare(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """All sides of one case in turns."""
    case = CASES[name]
    sides = [s for s in SIDES if s != "litgpt" or (name == "tiny" and args.litgpt)]
    differ = agreement(args, name, [s for s in sides if s != "puna_100x"])
    steps = case.warm + max(4, case.steps // (2 if args.quick else 1)) + 1
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in [*sides, "products"]}
    for _ in range(args.runs):
        for side, found in runs.items():
            found.append(apart(args, name, side, "--steps", str(steps)))
    kind = "cpu" if args.threads == 1 else "wall"
    rate = max(found["gflops"] for found in runs.pop("products"))
    flops = training_flops_per_token(case.config, case.seq_len)
    table = {}
    for side, found in runs.items():
        seconds = statistics.median(run[kind] for run in found)
        best, peak = min(run[kind] for run in found), max(run["peak_mb"] for run in found)
        speed, share = case.batch_tokens / seconds, flops * case.batch_tokens * 1e-9 / seconds / rate
        table[side] = {"tokens_per_s": speed, "best_tokens_per_s": case.batch_tokens / best, "peak_mb": peak,
                       "share_of_products": share}  # fmt: skip
        print(f"{name:<9} {side:<10} {speed:8.0f} tokens/s   best {case.batch_tokens / best:8.0f}   {1e3 * seconds:7.1f} ms"
              f" a step   {peak:5.0f} MB   {share:.0%} of the rate of the products", flush=True)  # fmt: skip
    print(f"{name}: matrix products alone {rate:.1f} GFLOP/s, {flops / 1e6:.1f} MFLOP a token", flush=True)
    return {"sides": table, "gemm_gflops": rate, "loss_difference": differ}


def ratios_of(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Ours over each peer's tokens per second, our memory over theirs, and the cost of a step with 100 times the data."""
    ratios = {}
    for case, result in found.items():
        ours, others = result["sides"]["puna"], {side: it for side, it in result["sides"].items() if side != "puna"}
        for side, theirs in others.items():
            faster = ours["tokens_per_s"] / theirs["tokens_per_s"]
            ratios[f"{case}_step_cost_100x_data" if side == "puna_100x" else f"{case}_over_{side}"] = faster
        ratios |= {
            f"{case}_memory_over_{side}": ours["peak_mb"] / it["peak_mb"] for side, it in others.items() if side != "puna_100x"
        }
    return ratios


def missed(ratios: dict[str, float]) -> list[str]:
    """Goals that were not met."""
    most = {name: FLAT if "100x" in name else 1.0 for name in ratios if "100x" in name or "memory" in name}
    least = {f"{case}_{kind}": goal for case in CASES for kind, goal in GOAL.items()}
    found = [f"{name} {ratios[name]:.2f} < {goal}" for name, goal in least.items() if ratios.get(name, goal) < goal]
    return found + [f"{name} {ratios[name]:.2f} > {goal}" for name, goal in most.items() if ratios[name] > goal]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--case", choices=sorted(CASES), nargs="*", default=list(CASES))
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=[*SIDES, "products"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--losses", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.side:
        case = CASES[args.case[0]]
        print(json.dumps(products(case, 3.0) if args.side == "products" else one_side(args.side, case, args.steps, args.losses)))
        return
    args.runs = args.runs or (1 if args.quick else 5)
    args.litgpt = (HERE.parents[1] / ".bench-env/litgpt").is_dir()
    if not args.litgpt:
        print("litgpt is left out: `make bench-env` installs it")
    found = {name: compare(args, name) for name in args.case}
    ratios = ratios_of(found)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "accelerate")}
    print(json.dumps({"bench": "train_cpu", "ratios": ratios, "cases": found, "runs": args.runs, "threads": args.threads,
                      "machine": platform.machine(), "versions": versions}))  # fmt: skip
    if args.check and missed(ratios):
        sys.exit(f"missed: {'; '.join(missed(ratios))}")


if __name__ == "__main__":
    main()
