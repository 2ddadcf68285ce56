"""Two processes of which one has no picture: no hang, and the gradient of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from vision_ranks import artifacts, everything, session

from puna.core.errors import InputError
from puna.core.modules import load_stage
from puna.core.stage import local_context

pytestmark = pytest.mark.cores


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What two processes found, and what one does."""
    root = tmp_path_factory.mktemp("ranks")
    made = artifacts(root)
    (root / "two").mkdir()
    mp.spawn(session, args=(str(root / "two"), made), nprocs=2)
    (root / "one").mkdir()
    return [torch.load(root / "two" / f"found-{i}.pt", weights_only=True) for i in (0, 1)], everything(made, root / "one")


@pytest.mark.parametrize("case", ["captioned", "contrasted"])
def test_gradient_of_two_is_that_of_one(found: Any, case: str) -> None:
    both, alone = [part[case] for part in found[0]], found[1][case]
    assert both[0]["loss"] == pytest.approx(alone["loss"], rel=1e-6)
    for part in both:
        assert part["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            assert (part["gradients"][name] - gradient).norm() <= 1e-5 * gradient.norm().clamp(min=1e-2), name
    if case == "captioned":
        assert [part["media"] for part in both] == [[1], [0]] and alone["media"] == [1]


@pytest.mark.parametrize("stage", ["copies", "shards", "muon", "clips", "dpo", "reward"])
def test_stage_of_two_is_that_of_one(found: Any, stage: str) -> None:
    both, alone = [Path(part["out"][stage]) for part in found[0]], Path(found[1]["out"][stage])
    rows = [[json.loads(line) for line in (out / "metrics.jsonl").open()] for out in (both[0], alone)]
    assert len(rows[0]) == len(rows[1]) > 2
    for two, one in zip(*rows, strict=True):
        assert two.keys() == one.keys()
        for key, value in one.items():
            assert two[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-6)), key
    assert not (both[1] / "model.safetensors").exists()  # the first alone writes
    frozen = [json.loads((out / "summary.json").read_text())["frozen_text"] for out in (*both, alone)]
    assert frozen[0] == frozen[1] == frozen[2]
    weights = [load_file(out / name) for out in (both[0], alone) for name in ["model.safetensors"]]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[1].items():
        assert (weights[0][name] - weight).norm() <= 1e-2 * weight.norm().clamp(min=1e-2), name


def test_a_sharded_stage_goes_on_where_it_stopped(found: Any) -> None:
    whole, again = (Path(found[0][0]["out"][name]) for name in ("shards", "stopped"))
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name


def test_layouts_that_cut_the_model_are_refused(tmp_path: Path) -> None:
    stage = load_stage("vision.pretrain")
    ctx = local_context(tmp_path / "out")
    for layout in ({"tp": 2}, {"cp": 2}, {"pp": 2}):
        with pytest.raises(InputError, match="does not take") as error:
            stage.run(stage.Settings(parallel=layout), ctx)
        assert "takes dp" in str(error.value)
