"""Small models, data and optimisers shared by the loop's tests, importable by the processes they spawn."""

from pathlib import Path

import numpy as np
import torch

from puna.core.stage import local_context
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.train.loop import train
from puna.train.objectives import CrossEntropy
from puna.train.optim import Optimizer, OptimSettings
from puna.train.packing import dialog_batches
from puna.train.schedule import LearningRate, Schedule

SHAPE = ModelConfig(vocab_size=40, dim=24, layers=2, heads=2, kv_heads=1, ffn_dim=48, rope_theta=10_000.0, max_seq_len=64)


def examples(count=40, seed=0):
    """Dialogs of very unequal learnt lengths, so that a mean of means cannot pass for the mean."""
    draw = np.random.default_rng(seed)
    found = []
    for n in draw.integers(4, 30, count):
        learnt = int(draw.integers(1, n))
        found.append((draw.integers(0, 40, n).tolist(), [0] * (n - learnt) + [1] * learnt))
    return found


def batches(rank=0, world=1, micro_rows=None):
    return dialog_batches(examples(), 32, 256, seed=5, rank=rank, world=world, micro_rows=micro_rows)


class Recorder(Optimizer):
    """Keeps the gradients and never moves a weight."""

    def __init__(self, model):
        super().__init__([], dict(model.named_parameters()))
        self.seen = []

    def step(self, lr):
        self.seen.append({name: p.grad.clone() for name, p in self.named.items()})


def recorded_gradients(out: Path, steps=2, **cut):
    """(gradients of each step, metric rows) of a model that stands still."""
    model = Llama(SHAPE, seed=3)
    recorder = Recorder(model)
    ctx = local_context(out)
    result = train(model, CrossEntropy(), batches(**cut), Schedule(steps=steps), OptimSettings(clip=0.0), ctx,
                   optimizer=recorder, log_every=1)  # fmt: skip
    return recorder.seen, result.rows


def trained(out: Path, steps=8, stopping=None, report=None, name="muon", seed=3, **options):
    """A short real run; returns (model, result, context)."""
    model = Llama(SHAPE, seed=seed)
    ctx = local_context(out)
    ctx.stopping = stopping or ctx.stopping
    ctx.report = report or ctx.report
    cut = {key: options.pop(key) for key in ("rank", "world", "micro_rows") if key in options}
    schedule = Schedule(steps=steps, lr=LearningRate(shape="cosine", warmup=3, final=0.1))
    result = train(
        model, CrossEntropy(), batches(**cut), schedule, OptimSettings(name=name, lr=5e-3), ctx, **{"log_every": 3, **options}
    )
    return model, result, ctx


def two_ranks(rank: int, folder: str) -> None:
    """Everything one gloo session of two ranks is asked for; rank 0 leaves the answers in `folder`."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    cut = {"rank": rank, "world": 2}
    gradients, rows = recorded_gradients(Path(folder) / f"grads-{rank}", **cut)
    model, result, _ = trained(Path(folder) / f"run-{rank}", **cut)
    if rank == 0:
        weights = {n: p.detach() for n, p in model.named_parameters()}
        torch.save({"gradients": gradients, "rows": rows, "weights": weights, "run_rows": result.rows}, f"{folder}/answers.pt")
    dist.destroy_process_group()


def straggling(rank: int, folder: str) -> None:
    """Six steps in two processes; the second waits 20 ms for its data and computes 20 ms more in every step."""
    import time

    import torch.distributed as dist

    class Slow(CrossEntropy):
        def sums(self, model, batch):
            end = time.thread_time() + 0.02 * rank
            while time.thread_time() < end:
                pass
            return super().sums(model, batch)

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mine = batches(rank=rank, world=2)

    def read(step):
        time.sleep(0.02 * rank)
        return mine(step)

    model, ctx = Llama(SHAPE, seed=3), local_context(Path(folder) / f"out-{rank}")
    train(model, Slow(), read, Schedule(steps=6), OptimSettings(), ctx, log_every=3)
    dist.destroy_process_group()
