"""Training state on disk: safetensors and JSON, written whole or not at all, checked when read.

A checkpoint is a directory `step-N`: written under another name, flushed, then renamed, so a killed process leaves the older one.
The JSON carries a digest of each file; a checkpoint that does not match is passed over for the next older (the lesson of restart
loops on a broken checkpoint). Where a model is laid out over processes, each writes its shares through torch's distributed
checkpoint in safetensors (so nothing is pickled), and any other layout, one process included, reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from puna.train.world import World

KEEP = 2  # checkpoints kept: the newest, and one to fall back on
RECORD = "state.json"
BLOCK = 1 << 24  # bytes hashed at a time


def write_state(folder: Path, step: int, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write `folder/step-N` from one process, atomically, and drop all but the newest two."""
    temporary = begin(folder, step)
    data = save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
    _flush(temporary / "state.safetensors", data)
    commit(folder, step, record, {"state.safetensors": hashlib.blake2b(data, digest_size=16).hexdigest()})


def begin(folder: Path, step: int) -> Path:
    """The empty directory in which the files of a checkpoint are written."""
    temporary = folder / f"step-{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def commit(folder: Path, step: int, record: dict[str, Any], digests: dict[str, str]) -> None:
    """Write the record of a checkpoint whose files are there, and give it its name."""
    temporary, final = folder / f"step-{step}.tmp", folder / f"step-{step}"
    _flush(temporary / RECORD, json.dumps({**record, "step": step, "files": digests}).encode())
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    for old in _found(folder)[KEEP:]:
        shutil.rmtree(old)


def newest(folder: Path, note: Callable[[str], None], world: World) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint in `folder` that is whole, with its record, the same on every process; None if there is none.

    Each process checks its share of the files; every broken checkpoint passed over is noted.
    """
    for path in _found(folder):
        record, wrong = _record(path), False
        if record is not None:
            shares = sorted(record["files"].items())[world.process :: world.processes]
            wrong = any(not (path / name).is_file() or file_digest(path / name) != digest for name, digest in shares)
        if not world.any(wrong or record is None) and record is not None:
            return path, record
        if world.process == 0:
            note(f"checkpoint {path.name} is damaged or cannot be read; trying an older one")
    return None


def kept_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder`, newest first: a run goes on from one of them."""
    return [int(path.name[5:]) for path in _found(folder)]


def read_tensors(path: Path, places: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Tensors of a checkpoint: all of them, whole; or those of `places`, read into it by this process's shares."""
    single = path / "state.safetensors"
    if places is None and single.exists():
        return load_file(single)
    from puna.train.parallel.sharded import read_shares, read_whole

    return read_whole(path) if places is None else read_shares(path, places)


def file_digest(path: Path) -> str:
    """Digest of a file, read in blocks."""
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def _record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((path / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("files"), dict) else None


def _found(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    paths: Iterable[Path] = (p for p in folder.glob("step-*") if p.name[5:].isdigit())
    return sorted(paths, key=lambda p: int(p.name[5:]), reverse=True)


def _flush(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
