"""Training state on disk: safetensors and JSON, written whole or not at all, checked when read.

A checkpoint is a directory `step-N`: written under another name, flushed, then renamed, so a killed process leaves the older one.
The JSON carries a digest of the tensors; one that does not match is passed over for the next older (the lesson of restart loops
on a broken checkpoint). Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

KEEP = 2  # checkpoints kept: the newest, and one to fall back on


def write_state(folder: Path, step: int, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write `folder/step-N` atomically and drop all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"step-{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    data = save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
    _flush(temporary / "state.safetensors", data)
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    _flush(temporary / "state.json", json.dumps({**record, "step": step, "tensors": digest}).encode())
    final = folder / f"step-{step}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    for old in _found(folder)[KEEP:]:
        shutil.rmtree(old)


def read_state(folder: Path, note: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint in `folder` that is whole, or None; every broken one passed over is noted."""
    for path in _found(folder):
        try:
            record = json.loads((path / "state.json").read_bytes())
            data = (path / "state.safetensors").read_bytes()
        except (OSError, ValueError):
            note(f"checkpoint {path.name} cannot be read; trying an older one")
            continue
        if hashlib.blake2b(data, digest_size=16).hexdigest() == record.get("tensors"):
            return load(data), record
        note(f"checkpoint {path.name} is damaged; trying an older one")
    return None


def _found(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    paths = [p for p in folder.glob("step-*") if p.name[5:].isdigit()]
    return sorted(paths, key=lambda p: int(p.name[5:]), reverse=True)


def _flush(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
