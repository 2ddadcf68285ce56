"""A checkpoint converted as it streams by: a block of rows at a time, so memory does not depend on the model.

What is to be written is planned on the network without memory (`meta`): the same code that quantises a model in memory names the
tensors here, and the files equal those `save_model` writes, to the byte. Every finished file is entered in a journal with its
SHA-256: after a kill the same command checks what is there, keeps it, and goes on with the next file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from puna.core.errors import InputError, RunError
from puna.infer.fp8 import quantize_model
from puna.model.checkpoint import MAX_SHARD_BYTES, SCALE, build_model, shard_files, stored_state, write_index
from puna.model.cpu import keep_freed_memory
from puna.model.fp8_formats import FBGEMM
from puna.model.fp8_linear import ACTIVATION_BOUND, Fp8Linear, dequantize_rows, quantize_rows
from puna.model.llama import Llama
from puna.model.weight_file import WeightWriter, brought_to_disk, row_blocks, sha256_of
from puna.model.weight_source import DirectoryWeights, Weights, write_sums

JOURNAL = "convert.json"
FP8 = torch.float8_e4m3fn
REVISION = 1  # of the plan and the arithmetic: raised when the same job gives other bytes


@dataclass(frozen=True)
class Job:
    """`to`: hf, bf16 or fp8. `fp8_format`, `linears`: of fp8 (see `quantize_model`). `max_shard_bytes`: of an output file."""

    to: str
    fp8_format: str = FBGEMM
    linears: str = "ffn"
    max_shard_bytes: int = MAX_SHARD_BYTES


@dataclass(frozen=True)
class Plan:
    """What will be written: the network on `meta`, and its tensors by file name."""

    model: Llama
    files: dict[str, dict[str, Tensor]]

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensors in self.files.values() for tensor in tensors.values())


def make_plan(source: Weights, job: Job, where: Path) -> Plan:
    """Check that the tensors are those of the network and lay out the output.

    Raises InputError for tensors missing, surplus or of another shape, and for FP8 asked of what is FP8 (unless its linear layers
    stay and only the format changes).
    """
    state = dict(source.state)
    widened = state["model.norm.weight"].dtype if "model.norm.weight" in state else torch.bfloat16  # norms are never FP8
    again = job.to == "fp8" and source.bound is not None
    if again and (source.fp8_format == job.fp8_format or job.linears != "ffn"):
        raise InputError(f"this model is FP8 already ({source.fp8_format})", where=str(where),
                         fix="start from its BF16 or FP32 weights, or ask for another --format")  # fmt: skip
    if not again:
        for scale in [name for name in state if name.endswith(SCALE)]:
            weight = scale.removesuffix("_scale")
            if weight in state and state[weight].dtype == FP8:  # scales beside others are refused by build_model
                del state[scale]
                state[weight] = torch.empty(state[weight].shape, dtype=widened, device="meta")
    dtype = widened if job.to == "hf" else torch.bfloat16
    bound = source.bound or ACTIVATION_BOUND
    model = build_model(source.config, state, where, dtype=dtype, device="meta", activation_bound=bound)
    if job.to == "fp8" and not again:
        quantize_model(model, linears=job.linears)
    return Plan(model, shard_files(stored_state(model), job.max_shard_bytes))


def write_weights(
    source: Weights, plan: Plan, directory: Path, job: Job, say: Callable[[str], None] = lambda line: None
) -> dict[str, str]:
    """Write the planned files into `directory`, or those of them that are not there whole; returns SHA-256 by file name.

    The index and `SHA256SUMS` are written at the end. Raises InputError for damaged weights (which file, which tensor) and
    RunError for a disk without room.
    """
    directory.mkdir(parents=True, exist_ok=True)
    journal = Journal(directory, source, job)
    done = journal.kept(plan)
    if isinstance(source, DirectoryWeights) and not journal.verified:
        source.verify()
        journal.verified = True
    _check_room(plan, done, directory)
    keep_freed_memory()
    say(_plan_line(source, plan, done))
    with ThreadPoolExecutor(1) as finishing:  # a file reaches the disk and is hashed while the next one is written
        pending: tuple[str, Future[str]] | None = None
        for number, (name, tensors) in enumerate(plan.files.items(), start=1):
            if name in done:
                continue
            begun, size = time.monotonic(), sum(tensor.nbytes for tensor in tensors.values()) / 1e6
            partial = directory / f"{name}.part"
            with WeightWriter(partial, tensors) as writer:
                for tensor in tensors:
                    _write_tensor(source, tensor, tensors, writer)
            partial.rename(directory / name)
            rate = size / max(1e-3, time.monotonic() - begun)
            say(f"{number} of {len(plan.files)}: {name}, {size:,.1f} MB at {rate:,.0f} MB/s")
            if pending is not None:
                journal.enter(pending[0], pending[1].result())
            pending = name, finishing.submit(brought_to_disk, directory / name)
        if pending is not None:
            journal.enter(pending[0], pending[1].result())
    write_index(plan.files, directory)
    write_sums(directory, journal.files)
    return journal.files


class Journal:
    """Which files of a conversion are finished, on disk beside them; one of another job or of changed weights counts as none."""

    def __init__(self, directory: Path, source: Weights, job: Job):
        self.path = directory / JOURNAL
        described = json.dumps([REVISION, vars(job), source.identity()], sort_keys=True)
        self.job = hashlib.sha256(described.encode()).hexdigest()
        self.files: dict[str, str] = {}
        self.verified = False
        try:
            found = json.loads(self.path.read_text())
            if found["job"] == self.job:
                self.files, self.verified = dict(found["files"]), bool(found["verified"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none, or half of one: begin anew

    def kept(self, plan: Plan) -> set[str]:
        """Names of finished files whose bytes are still those entered; everything else in the directory is removed."""
        for name, digest in list(self.files.items()):
            path = self.path.parent / name
            if name not in plan.files or not path.is_file() or sha256_of(path) != digest:
                del self.files[name]
        for path in self.path.parent.iterdir():
            if path.name not in self.files and path != self.path:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return set(self.files)

    def enter(self, name: str, digest: str) -> None:
        """Record a finished file, at once or not at all."""
        self.files[name] = digest
        partial = self.path.with_suffix(".tmp")
        partial.write_text(json.dumps({"job": self.job, "verified": self.verified, "files": self.files}, indent=1))
        partial.replace(self.path)


def _write_tensor(source: Weights, name: str, due: dict[str, Tensor], writer: WeightWriter) -> None:
    """One planned tensor, block by block; the scales of a matrix quantised here are written with it."""
    scale, stored = f"{name}_scale", source.state.get(name)
    if stored is None:
        return  # a scale made here
    for first, last in row_blocks(stored):
        rows = source.rows(name, first, last)
        if due[name].dtype == FP8 and rows.dtype != FP8:
            rows, scales = quantize_rows(rows.to(torch.bfloat16))
            if not bool(scales.isfinite().all()):
                raise InputError(f"{name} holds values that are no finite numbers, and FP8 has none for them",
                                 where=source.place(name), fix="convert the checkpoint it was copied from")  # fmt: skip
            writer.put(scale, first, scales)
        elif rows.dtype == FP8 and due[name].dtype != FP8:
            rows = dequantize_rows(rows, source.rows(scale, first, last))
        writer.put(name, first, rows.to(due[name].dtype))


def _check_room(plan: Plan, done: set[str], directory: Path) -> None:
    need = sum(t.nbytes for name, tensors in plan.files.items() if name not in done for t in tensors.values())
    free = shutil.disk_usage(directory).free
    if need > free:
        raise RunError(f"the result needs {need / 1e6:,.0f} MB more and the disk has {free / 1e6:,.0f} MB", where=str(directory),
                       fix="free space, or write elsewhere; the same command continues")  # fmt: skip


def _plan_line(source: Weights, plan: Plan, done: set[str]) -> str:
    stored = {name: tensor for name, tensor in source.state.items() if not (source.config.tied and name == "lm_head.weight")}
    fp8 = sum(isinstance(module, Fp8Linear) for module in plan.model.modules())
    kept = f"; {len(done)} finished before are kept" if done else ""
    return (
        f"{sum(t.nbytes for t in stored.values()) / 1e6:,.1f} MB to {plan.bytes / 1e6:,.1f} MB in {len(plan.files)} files"
        f" ({fp8} matrices in FP8){kept}"
    )
