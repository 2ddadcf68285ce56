"""Arrays that take long to make and always come out the same, kept on disk between processes and mapped into memory.

They lie under `$XDG_CACHE_HOME/puna` (`~/.cache/puna`) and can be deleted at any time. A folder that cannot be written, or a file
that is not whole, costs the time of making the arrays again and nothing else.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from uuid import uuid4

import numpy as np
import xxhash

LEFT_S = 3600  # seconds after which a half-written folder is nobody's any more


def cached_arrays(
    name: str, version: str, names: Collection[str], make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `make()` returns, from disk where it is there.

    Args:
        name: of the folder; one name for one `make`.
        version: whatever the arrays depend on besides the code of `make`, and a number to count up when that changes.
        names: keys of what `make` returns.

    Returns:
        Arrays that may be changed; a change is seen by this process alone.
    """
    root = cache_root()
    folder = None if root is None else root / name / version
    found = None if folder is None else _load(folder, names)
    if found is None:
        found = {key: np.asarray(array) for key, array in make().items()}
        if folder is not None:
            _save(folder, found)
    return found


def digest_of(file: str) -> str:
    """Short hash of a module's source, for arrays that depend on all of it; give it `__file__`."""
    return xxhash.xxh3_64_hexdigest(Path(file).read_bytes())


def cache_root() -> Path | None:
    """Where everything that can be made again lies; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "puna"
    except RuntimeError:
        return None


def _load(folder: Path, names: Collection[str]) -> dict[str, np.ndarray] | None:
    try:
        mapped = {key: np.load(folder / f"{key}.npy", mmap_mode="c", allow_pickle=False) for key in names}
    except (OSError, ValueError, EOFError):
        return None
    return {key: array.view(np.ndarray) for key, array in mapped.items()}


def _save(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the folder beside its place and rename it there; of two processes either may win."""
    beside = folder.with_name(f"{folder.name}.{uuid4().hex}")
    try:
        (beside / "new").mkdir(parents=True)
        for left in folder.parent.glob("*.????????????????????????????????"):  # of a process that was killed here
            if time.time() - left.stat().st_mtime > LEFT_S:
                shutil.rmtree(left, ignore_errors=True)
        for key, array in arrays.items():
            np.save(beside / "new" / f"{key}.npy", array, allow_pickle=False)
        if folder.exists():  # broken, or it would have been read
            folder.rename(beside / "old")
        (beside / "new").rename(folder)
    except OSError:
        pass
    shutil.rmtree(beside, ignore_errors=True)
