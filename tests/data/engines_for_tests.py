"""Back ends as tests need them: a Slurm that runs an array job's tasks one after the other, and whether Ray is there."""

from __future__ import annotations

import importlib.util
import os
import stat
from pathlib import Path

import pytest

FAKE_SBATCH = """#!/bin/sh
# runs an array job's tasks one after the other
for word; do script="$word"; done
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$script")
for task in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$task bash "$script" || exit 1; done
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scheduler that does everything at once, first on PATH."""
    path = tmp_path / "bin" / "sbatch"
    path.parent.mkdir()
    path.write_text(FAKE_SBATCH)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def needs_ray() -> None:
    """Skip without Ray. It is not imported: how it finds its address is settled before its first import."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: its engine is not tested")
