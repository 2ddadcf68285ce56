"""What the processes of the parallel tests do: one short run per layout, the same as one process does alone."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from loop_cases import examples

from puna.core.errors import Preempted
from puna.core.stage import local_context
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.train.corpus import held_losses
from puna.train.loop import train
from puna.train.objectives import CrossEntropy
from puna.train.optim import OptimSettings
from puna.train.packing import dialog_batches
from puna.train.parallel.layout import Layout
from puna.train.parallel.meshes import Meshes
from puna.train.parallel.placed import Placed
from puna.train.schedule import LearningRate, Schedule
from puna.train.shares import local
from puna.train.world import World

# 41 words of vocabulary divide by nothing
SHAPE = ModelConfig(vocab_size=41, dim=32, layers=8, heads=4, kv_heads=2, ffn_dim=64, rope_theta=10_000.0, max_seq_len=64)
LENGTH, BATCH = 32, 256

INTERLEAVED = {"schedule": "interleaved_1f1b", "virtual_stages": 2}
CASES: dict[int, dict[str, dict]] = {
    2: {
        "fsdp": {"dp": 2},
        "tensor and sequence parallel": {"tp": 2},
        "context parallel": {"cp": 2},
        "gpipe": {"pp": 2, "schedule": "gpipe"},
        "1f1b": {"pp": 2, "schedule": "1f1b"},
        "interleaved": {"pp": 2, **INTERLEAVED},
        "zero bubble": {"pp": 2, "schedule": "zbv_zero_bubble", "virtual_stages": 2},
        "lean ends": {"pp": 2, "lean_ends": True, **INTERLEAVED},
        "ends without layers": {"pp": 2, "lean_ends": True, "schedule": "interleaved_1f1b", "virtual_stages": 5},
        "recompute all": {"dp": 2, "recompute": "full"},
        "recompute some": {"tp": 2, "recompute": "selective"},
        "tied": {"tp": 2, "tied": True},
        "resumed, sharded": {"first": {"dp": 2}, "then": {"dp": 2}},
        "resumed, pipeline": {"first": {"pp": 2, **INTERLEAVED}, "then": {"pp": 2, **INTERLEAVED}},
        "resumed, other layout": {"first": {"pp": 2, **INTERLEAVED}, "then": {"tp": 2}},
    },
    4: {
        "hsdp": {"dp": 4, "replicate": 2},
        "fsdp x tp": {"dp": 2, "tp": 2},
        "fsdp x tp, muon": {"dp": 2, "tp": 2, "optim": "muon"},
        "pp x tp": {"pp": 2, "tp": 2},
        "cp x tp": {"cp": 2, "tp": 2},
        "pp x fsdp": {"pp": 2, "dp": 2, **INTERLEAVED},
        "resumed, fsdp x tp": {"first": {"dp": 2, "tp": 2}, "then": {"dp": 2, "tp": 2}},
        "resumed, fsdp x tp to hsdp": {"first": {"dp": 2, "tp": 2}, "then": {"dp": 4, "replicate": 2}},
    },
    8: {"4d": {"pp": 2, "cp": 2, "tp": 2, **INTERLEAVED}},
}


def run(out: Path, layout: Layout | None, *, steps: int = 3, optim: str = "adamw", tied: bool = False, stop: int | None = None,
        **options: Any) -> tuple[list[dict], dict[str, torch.Tensor], dict[str, torch.Tensor]]:  # fmt: skip
    """A short run in a layout (None: one process), or what a checkpoint in its scratch leaves of it.

    Returns its metric rows, the whole weights it ends with (on process 0), and this process's shares of weights and optimiser.
    """
    shape = replace(SHAPE, tied=tied)
    settings = OptimSettings(name=optim, lr=1e-2)
    schedule = Schedule(steps=steps, lr=LearningRate(shape="constant", warmup=0))
    model: Any = Llama(shape, seed=3) if layout is None else Placed(shape, Meshes.open(layout), seed=3)
    world = World.current()
    micro = 1 if layout is not None and layout.pp > 1 else 2
    batches = dialog_batches(examples(), LENGTH, BATCH, seed=5, rank=world.rank, world=world.size, micro_rows=micro)
    held = {"all": dialog_batches(examples(seed=9), LENGTH, 4 * LENGTH, seed=1)(0)[0]}
    asked = iter(range(steps + 1))
    ctx = local_context(out)
    ctx.stopping = lambda: stop is not None and next(asked) == stop
    result = train(model, CrossEntropy(), batches, schedule, settings, ctx, log_every=1,
                   evaluate=lambda model, step: held_losses(model, held), **options)  # fmt: skip
    shares = {f"optimizer/{name}": local(value).clone() for name, value in result.optimizer.state_tensors().items()}
    shares |= {name: local(weight).detach().clone() for name, weight in result.optimizer.named.items()}
    whole = {n: w.detach().clone() for n, w in model.named_parameters()} if layout is None else model.whole_weights()
    return result.rows, whole, shares


def compared(process: int, folder: Path, layout: Layout | None, **options: Any) -> dict[str, Any]:
    """What the test looks at of one case."""
    rows, weights, _ = run(folder / f"run-{process}", layout, **options)
    return {"rows": rows, "weights": weights}


def resumed(process: int, folder: Path, first: Layout, then: Layout) -> dict[str, Any]:
    """Six steps in one layout, against three, a stop, and three more in another (or the same)."""
    one, rest = folder / f"one-{process}", folder / f"two-{process}"
    rows, weights, shares = run(one, then, steps=6)
    scratch = local_context(folder / "two").scratch
    local_context(rest)
    own = rest.with_name(f"{rest.name}.scratch")
    own.rmdir()
    own.symlink_to(scratch)  # one scratch for all processes
    with contextlib.suppress(Preempted):
        run(rest, first, steps=6, stop=3)
    again, after, parts = run(rest, then, steps=6)
    return {"rows": rows, "again": again, "weights": weights, "after": after,
            "equal": all(torch.equal(shares[name], parts[name]) for name in shares)}  # fmt: skip


def session(process: int, processes: int, folder: str, cases: dict[str, dict]) -> None:
    """All cases of one number of processes; each process leaves its answers in `folder`."""
    torch.set_num_threads(1)
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{processes}", rank=process, world_size=processes)
    for name, case in cases.items():
        place = Path(folder) / name
        place.mkdir(exist_ok=True)
        if "first" in case:
            answer = resumed(process, place, Layout(**case["first"]), Layout(**case["then"]))
        else:
            options = {key: case[key] for key in case.keys() & {"optim", "tied"}}
            layout = Layout(**{key: value for key, value in case.items() if key not in options})
            answer = compared(process, place, layout, **options)
        torch.save(answer, place / f"answer-{process}.pt")
        dist.barrier()
    dist.destroy_process_group()
