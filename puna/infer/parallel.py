"""One model answered by several processes (section 6.1): the same engine, on rank 0, over steps that all ranks compute.

    torchrun --nproc-per-node 4 -m puna serve MODEL --tensor 2 --pipeline 2

Every process runs the same command. Rank 0 gets the engine; the others compute their parts until it is done with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from puna.core.errors import InputError
from puna.infer.engine import Engine
from puna.infer.load import load_engine, stop_ids, stored_dtype
from puna.infer.rank_steps import RankSteps, say_failed, work
from puna.infer.shards import Layout, Place, load_stage
from puna.model.checkpoint import CONFIG, read_config
from puna.model.config import ModelConfig
from puna.tokenizer.bpe import Tokenizer

ONE = Layout()


def first_rank(layout: Layout) -> bool:
    """Whether this process has the engine, and with it whatever the model is for."""
    return layout.ranks == 1 or os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def opened(directory: str | Path, layout: Layout = ONE, **options: Any) -> Iterator[tuple[Engine, Tokenizer] | None]:
    """`load_engine`, or `shared_engine` for a layout of several ranks; `options` are those of both."""
    if layout.ranks > 1:
        if options.pop("opener", None) is not None:
            raise InputError("a model that sees is answered by one process", where="--tensor, --pipeline", fix="leave them out")
        if options.pop("draft", None) is not None:
            raise InputError("a model on several ranks has no draft", where="--draft", fix="leave it out")
        if options.pop("kernels", "auto") not in ("auto", "torch"):
            raise InputError("ranks compute with PyTorch", where="--kernels", fix="auto or torch, or one process")
        with shared_engine(directory, layout, **options) as found:
            yield found
    else:
        yield load_engine(directory, **options)


@contextlib.contextmanager
def shared_engine(
    directory: str | Path,
    layout: Layout,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    lora: Sequence[tuple[str | Path, float]] = (),
    **sizes: Any,
) -> Iterator[tuple[Engine, Tokenizer] | None]:
    """Engine and tokenizer of a model spread over the ranks of `layout`; every rank must come here.

    On rank 0 the engine works inside the `with` block. On the others the block is entered, with None, when rank 0 has left it.

    Args:
        dtype: of the weights that are not FP8; None as in `load_engine`.
        device: `cpu`, or `cuda` for the one of this process's local rank.
        lora: as in `load_engine`.
        sizes: `page_size`, `pages`, `max_running`, `prefill_tokens` of `Engine`.

    Raises:
        InputError: the model does not divide by the layout, or there are more or fewer processes than it has ranks.
        RunError: in calls of the engine, when a rank has ended or does not answer.
    """
    directory = Path(directory)
    layout.check(ModelConfig.from_hf(read_config(directory), where=str(directory / CONFIG)))
    with joined(layout, device) as place:
        try:
            dtype = dtype or (stored_dtype(directory) if device == "cpu" else torch.bfloat16)
            stage = load_stage(directory, place, dtype=dtype, lora=lora)
        except Exception as error:
            say_failed(place.rank, error)
            raise
        if place.rank:
            work(stage)
            yield None
            return
        tokenizer = Tokenizer.load(directory)
        engine = Engine(stage, stop_ids=stop_ids(directory) or tokenizer.stop_ids, **sizes)
        try:
            yield engine, tokenizer
        finally:
            assert isinstance(engine.steps, RankSteps)
            engine.steps.close()


@contextlib.contextmanager
def joined(layout: Layout, device: str = "cpu") -> Iterator[Place]:
    """Meet the other processes that torchrun has started (or use the process group there is), and take a place among them."""
    patience = timedelta(seconds=layout.seconds)
    started = not dist.is_initialized()
    if started:
        _check_started(layout)
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        if device != "cpu":
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend, timeout=patience)
    try:
        if dist.get_world_size() != layout.ranks:
            raise _other_number(layout, dist.get_world_size())
        rank = dist.get_rank()
        stages = [range(first, first + layout.tensor) for first in range(0, layout.ranks, layout.tensor)]
        groups = [dist.new_group(list(ranks), timeout=patience) for ranks in stages]
        talk, answers = dist.new_group(backend="gloo", timeout=patience), dist.new_group(timeout=patience)
        where = torch.device("cpu") if device == "cpu" else torch.device(device, torch.accelerator.current_device_index())
        yield Place(layout, rank, where, groups[rank // layout.tensor], talk, answers)
    finally:
        if started:
            dist.destroy_process_group()


def _check_started(layout: Layout) -> None:
    found = os.environ.get("WORLD_SIZE")
    if found is None or "RANK" not in os.environ:
        raise InputError(f"a model on {layout.ranks} ranks needs {layout.ranks} processes, and this is one",
                         where="--tensor, --pipeline", fix=f"torchrun --nproc-per-node {layout.ranks} -m puna ...")  # fmt: skip
    if int(found) != layout.ranks:
        raise _other_number(layout, int(found))


def _other_number(layout: Layout, found: int) -> InputError:
    return InputError(f"the layout has {layout.ranks} ranks and there are {found} processes", where="--tensor, --pipeline",
                      fix=f"torchrun --nproc-per-node {layout.ranks} -m puna ...")  # fmt: skip
