"""Two processes train on speech as one does, though they have unequal shares of a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from speech_ranks import STAGES, artifacts, everything, session

from puna.core.errors import InputError
from puna.core.modules import load_stage
from puna.core.stage import local_context

pytestmark = pytest.mark.cores


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, str]], dict[str, str]]:
    """What two processes found, and what one does."""
    root = tmp_path_factory.mktemp("ranks")
    made = artifacts(root)
    (root / "two").mkdir()
    mp.spawn(session, args=(str(root / "two"), made), nprocs=2)
    (root / "one").mkdir()
    return [torch.load(root / "two" / f"found-{i}.pt", weights_only=True) for i in (0, 1)], everything(made, root / "one")


@pytest.mark.parametrize("name", STAGES)
def test_stage_of_two_is_that_of_one(found: Any, name: str) -> None:
    both, alone = [Path(part[name]) for part in found[0]], Path(found[1][name])
    rows = [[json.loads(line) for line in (out / "metrics.jsonl").open()] for out in (both[0], alone)]
    assert len(rows[0]) == len(rows[1]) == 4
    for two, one in zip(*rows, strict=True):
        assert two.keys() == one.keys()
        for key, value in one.items():
            assert two[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-6)), key
    file = "speech_encoder.safetensors" if name == "pretrain" else "speech_adapter.safetensors"
    assert not (both[1] / file).exists()  # the first alone writes
    weights = [load_file(out / file) for out in (both[0], alone)]
    assert weights[0].keys() == weights[1].keys()
    for key, weight in weights[1].items():
        assert (weights[0][key] - weight).norm() <= 1e-2 * weight.norm().clamp(min=1e-2), key
    if name != "pretrain":
        summaries = [json.loads((out / "summary.json").read_text()) for out in (*both, alone)]
        assert all(one["frozen_text"] == summaries[0]["frozen_text"] for one in summaries)
        assert all(one["dev"] == summaries[0]["dev"] for one in summaries)


@pytest.mark.parametrize("uses", ["speech.listen", "speech.pretrain"])
def test_layouts_that_cut_the_model_are_refused(uses: str, tmp_path: Path) -> None:
    stage = load_stage(uses)
    for layout in ({"tp": 2}, {"cp": 2}, {"pp": 2}, {"dp": 64}):
        with pytest.raises(InputError, match=r"does not take|cannot share"):
            stage.run(stage.Settings(parallel=layout), local_context(tmp_path / "out"))
