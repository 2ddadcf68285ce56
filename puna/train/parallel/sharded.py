"""Checkpoints of a model that is laid out over processes: each writes its shares while training goes on, any layout reads them.

torch's distributed checkpoint copies the shares to the CPU and writes them from a thread of its own, in safetensors with the
place of each share in the file's header. A checkpoint has its name only after every process wrote its files and they were hashed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from puna.train import state
from puna.train.world import World


class ShardedWriter:
    """Writes checkpoints of one run of the loop, one at a time, in the background."""

    def __init__(self, folder: Path, world: World, alive: Callable[[int, str], None]):
        self.folder, self.world, self.alive = folder, world, alive
        self.group = dist.new_group(backend="gloo", timeout=world.patience)  # its messages must not meet those of training
        self.pending: tuple[int, dict[str, Any], Any] | None = None

    def start(self, step: int, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Copy the shares and begin to write them; a checkpoint still under way is waited for."""
        self.finish()
        if self.world.process == 0:
            state.begin(self.folder, step)
        dist.barrier(group=self.group)
        shares = {name: tensor.detach().reshape(1) if tensor.dim() == 0 else tensor.detach() for name, tensor in tensors.items()}
        writer = HuggingFaceStorageWriter(str(self.folder / f"step-{step}.tmp"), save_distributed=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*experimental.*")
            future: Any = dcp.async_save(shares, storage_writer=writer, process_group=self.group)
        self.pending = step, record, future

    def finish_if_written(self) -> None:
        """Give the checkpoint under way its name if every process has written its shares; every process must call this."""
        if self.pending is not None and not self.world.any(not _future(self.pending[2]).done()):
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint under way, if there is one, and give it its name; every process must call this."""
        if self.pending is None:
            return
        step, record, future = self.pending
        self.pending = None
        _future(future).result()
        self.alive(step, "committing")
        dist.barrier(group=self.group)
        files = sorted((self.folder / f"step-{step}.tmp").glob("*.safetensors"))
        mine = {path.name: state.file_digest(path) for path in files[self.world.process :: self.world.processes]}
        found: list[dict[str, str]] = [{} for _ in range(self.world.processes)]
        dist.all_gather_object(found, mine, group=self.group)
        if self.world.process == 0:
            state.commit(self.folder, step, record, {name: digest for part in found for name, digest in part.items()})
        dist.barrier(group=self.group)


def _future(response: Any) -> Future[Any]:
    return response if isinstance(response, Future) else response.upload_completion


def read_shares(path: Path, places: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read this process's shares of the named tensors into `places`, whatever layout wrote them."""
    flat = {name: tensor.detach().reshape(1) if tensor.dim() == 0 else tensor.detach() for name, tensor in places.items()}
    dcp.load(flat, storage_reader=HuggingFaceStorageReader(str(path)))
    for name, tensor in places.items():
        if tensor.dim() == 0:
            tensor.detach().copy_(flat[name][0])
    return places


def read_whole(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, whole, in one process."""
    reader = HuggingFaceStorageReader(str(path))
    sizes = reader.read_metadata().state_dict_metadata
    whole = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in sizes.items()}  # type: ignore[union-attr]
    dcp.load(whole, storage_reader=reader, no_dist=True)
    return whole


def names_in(path: Path) -> set[str]:
    """Names of the tensors in a checkpoint."""
    found: set[str] = set()
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found |= set(opened.keys())
    return found
