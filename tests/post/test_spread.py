"""Post-training in two processes is that of one: losses, figures, verdicts and weights of every stage (traps 1 and 2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from post_toys import finished, run_stage, tasks_artifact, toy_model, toy_tokenizer
from safetensors.torch import load_file
from spread_cases import CASES, artifacts, run, session

from puna.core.errors import InputError
from puna.core.graph import Source
from puna.infer.fp8 import quantize_model
from puna.model.checkpoint import save_model
from puna.model.llama import Llama
from puna.post import distil, dpo, rounds
from puna.train import pretrain
from puna.train.packing import Batch
from puna.train.ranks import device_of
from puna.train.world import World


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return artifacts(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def both(tmp_path_factory, made) -> Path:
    """The folder where two processes left what they made."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(session, args=(str(folder), made), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory, made):
    """`alone(case)`: what one process makes, and whether each batch that a model read had been moved to a device."""
    root, found = tmp_path_factory.mktemp("one"), {}

    def ask(case: str) -> tuple[Path, list[bool]]:
        if case not in found:
            with pytest.MonkeyPatch.context() as patch:
                moved = watch_batches(patch)
                found[case] = run(case, made, root / case), moved
        return found[case]

    return ask


def watch_batches(patch: pytest.MonkeyPatch) -> list[bool]:
    """From here on, a flag for each batch that a model reads; an engine's rows are its own business."""
    kept: dict[int, Batch] = {}  # alive, so that no other tensor gets the id
    flags: list[bool] = []
    move, hidden = Batch.to, Llama.hidden

    def noted(self: Batch, device: object) -> Batch:
        kept[id(self.ids_BT)] = self
        return move(self, device)

    def watched(self: Llama, ids_BT: torch.Tensor, *, cache: object = None, **others: object) -> torch.Tensor:
        if cache is None:
            flags.append(id(ids_BT) in kept)
        return hidden(self, ids_BT, cache=cache, **others)

    patch.setattr(Batch, "to", noted)
    patch.setattr(Llama, "hidden", watched)
    return flags


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]


def assert_close(found: object, expected: object, where: str = "") -> None:
    """Equal, numbers to 1e-5 (and 2e-6, for sums near zero)."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_close(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_close(found[i], value, f"{where}[{i}]")
    else:
        assert found == (pytest.approx(expected, rel=1e-5, abs=2e-6) if isinstance(expected, float) else expected), where


@pytest.mark.cores
@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_what_one_makes(case, alone, both):
    (one, _), first, second = alone(case), both / f"{case}-0", both / f"{case}-1"
    assert len(rows(one)) >= 2 and any(row.get("grad_norm", 0) > 1e-3 for row in rows(one))
    assert_close(rows(first), rows(one))
    summary, expected = (json.loads((out / "summary.json").read_text()) for out in (first, one))
    assert_close(summary, expected)
    written = sorted(str(path.relative_to(one)) for path in one.rglob("*.safetensors"))
    assert written and written == sorted(str(path.relative_to(first)) for path in first.rglob("*.safetensors"))
    for name in written:
        expected, found = load_file(one / name), load_file(first / name)
        told = (expected | found).keys() - {"bias"}  # of a reward head: it moves all scores alike, so it learns rounding errors
        assert all(torch.allclose(expected[key], found[key], rtol=0, atol=1e-4) for key in told), name
    assert not list(second.glob("*.safetensors")) and not (second / "metrics.jsonl").exists()


@pytest.mark.parametrize("case", CASES)
def test_every_batch_a_model_reads_was_moved_to_its_device(case, alone):
    _, moved = alone(case)
    assert len(moved) > 2 and all(moved)


def test_layouts_and_devices_that_a_stage_cannot_use_are_refused(made, tmp_path):
    inputs = [made["policy"], made["tasks"]]
    for stage, settings, where in (
        ("post.dpo", {"parallel": {"tp": 2}}, "parallel.tp"),
        ("post.grpo", {"parallel": {"recompute": "full"}}, "parallel.recompute"),
        ("post.sft", {"parallel": {"pp": 2}}, "parallel.pp"),
        ("post.sft", {"parallel": {"tp": 2}, "lora": {"rank": 2}}, "parallel.tp"),
        ("post.dpo", {"parallel": {"dp": 4}, "pairs_per_step": 3}, "parallel.dp"),
        ("post.dpo", {"device": "abacus"}, "device"),
    ):
        with pytest.raises(InputError) as error:
            run_stage(tmp_path, stage, "refused", inputs, **settings)
        assert error.value.where == where


def test_a_layout_that_a_sub_stage_cannot_take_is_refused_before_any_work():
    base, teacher, tasks = Source("base", "model"), Source("teacher", "model"), Source("tasks", "tasks")
    for stage, settings, axis in (
        (rounds, {"parallel": {"tp": 2}}, "tp"),
        (rounds, {"parallel": {"dp": 33}}, "dp"),  # a step of DPO and of a reward model reads 32 pairs
        (distil, {"parallel": {"tp": 2}}, "tp"),  # not of a student with a teacher
        (distil, {"parallel": {"compile": True}, "modes": ["on-policy"]}, "compile"),
        (distil, {"parallel": {"dp": 33}, "modes": ["preferences"]}, "dp"),
    ):
        with pytest.raises(InputError) as error:
            stage.expand("loop", stage.Settings(**settings), [base, *([teacher] if stage is distil else []), tasks])
        assert error.value.where == f"parallel.{axis}"
    for settings in ({"parallel": {"tp": 2}, "modes": ["verified"]}, {"parallel": {"dp": 33, "compile": True}}):
        entry = distil.expand("small", distil.Settings(**settings), [base, teacher, tasks])["small.gold"]
        assert entry["parallel"].items() >= settings["parallel"].items()


def test_what_is_shared_out_comes_back_in_order():
    def asked(process: int, count: int) -> list[int]:
        world = World(process=process, processes=3)
        with pytest.MonkeyPatch.context() as patch:  # the others find what they would find
            patch.setattr(World, "gather_json", lambda _, mine: [mine if p == process else squares(p, count) for p in range(3)])
            return world.shared(range(count), lambda items: [i * i for i in items])

    def squares(process: int, count: int) -> list[int]:
        return [i * i for i in range(count)[process::3]]

    assert all(asked(process, count) == [i * i for i in range(count)] for process in range(3) for count in (0, 2, 7))
    assert World().shared("abc", list) == ["a", "b", "c"]


def test_device_of_settings_is_found_where_each_stage_has_it():
    assert device_of(dpo.Settings(device="cuda")) == "cuda" and device_of(dpo.Settings()) == "cpu"
    assert device_of(pretrain.Settings(steps=1, watch={"device": "cuda"})) == "cuda"


def test_fp8_models_are_refused_unless_adapters_are_trained(tmp_path):
    model = toy_model(layers=3)
    quantize_model(model)
    save_model(model, tmp_path / "fp8", tokenizer=toy_tokenizer())
    fp8, tasks = finished(tmp_path / "fp8", "model", "fp8"), tasks_artifact(tmp_path / "tasks")
    for stage, settings, fix in (
        ("post.sft", {}, "lora"),
        ("post.grpo", {"max_tokens": 4}, "lora"),
        ("post.reward", {}, "puna convert"),
    ):
        with pytest.raises(InputError, match="FP8 model cannot be trained") as error:
            run_stage(tmp_path, stage, "refused", [fp8, tasks], **settings)
        assert fix in error.value.fix and "fp8" in error.value.where
    tuned = run_stage(tmp_path, "post.sft", "tuned", [fp8, tasks], steps=3, log_every=1, lora={"rank": 2}, dev=4, max_tokens=4)
    assert tuned.summary()["loss"] < tuned.summary()["first_loss"] and (tuned.path / "adapter").is_dir()


def test_graphs_hand_device_processes_and_adapters_to_what_trains():
    own = {"device": "cuda", "parallel": {"dp": 4}}
    base, teacher, tasks = Source("base", "model"), Source("teacher", "model"), Source("tasks", "tasks")
    loop = rounds.expand("chat", rounds.Settings(**own, lora={"rank": 3}), [base, tasks])
    herd = distil.expand("small", distil.Settings(**own), [base, teacher, tasks])
    training = [entry for graph in (loop, herd) for entry in list(graph.values())[:-1]
                if entry["uses"] in ("post.sft", "post.dpo", "post.reward", "post.logits", "post.online")]  # fmt: skip
    assert len(training) == 2 + 2 * 4 + 5
    assert all((entry["device"], entry["parallel"]["dp"]) == ("cuda", 4) for entry in training)
    adapted = {entry["uses"] for entry in loop.values() if (entry.get("lora") or {}).get("rank") == 3}
    assert adapted == {"post.sft", "post.dpo", "post.rounds"}
    assert rounds.Settings(**own).identity() == rounds.Settings().identity()
