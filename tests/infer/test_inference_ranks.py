"""A model on several ranks answers as on one (section 6.1): text, samples, log-probabilities; a rank that ends is named."""

import multiprocessing
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from puna.core.errors import InputError
from puna.infer.engine import Completion
from puna.infer.parallel import joined
from puna.infer.rank_steps import cut
from puna.infer.shards import Layout
from puna.infer.spans import Spans

sys.path.insert(0, str(Path(__file__).parent))
from rank_cases import CASES, CONFIG, SIZES, answers, directories, dying, session, write_models

pytestmark = pytest.mark.cores


multiprocessing.set_forkserver_preload(["puna.infer.parallel", "puna.infer.fp8"])  # importing torch is most of a start
NAMES = [(processes, name) for processes, cases in CASES.items() for name in cases]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """`alone(name)`: answers of a model in one process."""
    from puna.infer.load import load_engine

    found = {}

    def ask(name):
        if name not in found:
            directory, lora = directories(folder, name)
            engine, _ = load_engine(directory, lora=lora, **SIZES)
            found[name] = (
                answers(engine),
                sum(weight.nbytes for weight in engine.model.parameters()) + engine.cache.storage.nbytes,
            )
        return found[name]

    return ask


@pytest.fixture(scope="module")
def shared(folder):
    """`shared(processes, name)`: the same on ranks; a session runs when one of its cases is first asked for."""
    done = set()

    def ask(processes, name):
        if processes not in done:
            done.add(processes)
            mp.start_processes(session, args=(processes, str(folder)), nprocs=processes, start_method="forkserver")
        found = torch.load(folder / f"{name}.pt", weights_only=True)
        return found | {"answers": [[Completion(**c) for c in samples] for samples in found["answers"]]}

    return ask


@pytest.mark.parametrize(("processes", "name"), NAMES)
def test_ranks_say_what_one_says(processes, name, shared, alone):
    model, layout = CASES[processes][name]
    found, (expected, whole) = shared(processes, name), alone(model)
    assert [[c.ids for c in samples] for samples in found["answers"]] == [[c.ids for c in samples] for samples in expected]
    for got, want in zip(chain(*found["answers"]), chain(*expected), strict=True):
        assert got.logprob == pytest.approx(want.logprob, abs=2e-3) and got.stop_id == want.stop_id
    assert found["pages"] == 0
    assert found["bytes"] < (0.9 if model == "tied" and layout.tensor == 1 else 0.65 if processes == 2 else 0.4) * whole


def test_pieces_of_a_call_cover_it_in_order():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(1, 9, rng.integers(1, 6))
        starts, total = rng.integers(0, 5, len(sizes)), int(sizes.sum())
        table = np.arange(len(sizes) * 3).reshape(-1, 3)
        wanted = np.flatnonzero(rng.random(total) < 0.4)
        whole = Spans(rng.integers(0, 9, total), starts, sizes, table, wanted)
        parts = cut(whole, int(rng.integers(1, 6)))
        assert np.concatenate([part.tokens for part in parts]).tolist() == whole.tokens.tolist()
        assert np.concatenate([part.positions for part in parts]).tolist() == whole.positions.tolist()
        assert np.concatenate([part.table[part.sequence] for part in parts]).tolist() == table[whole.sequence].tolist()
        asked = np.concatenate([part.positions[part.wanted] for part in parts])
        assert asked.tolist() == whole.positions[wanted].tolist()
        assert max(len(part.tokens) for part in parts) <= min(len(part.tokens) for part in parts) + 1


@pytest.mark.parametrize(
    ("how", "words"),
    [("killed", "rank 1 ended or hangs without a word"), ("raises", "rank 1: RuntimeError: out of memory"), ("hangs", "rank 1")],
)
def test_a_rank_that_ends_is_named(how, words, folder):
    processes = [
        multiprocessing.get_context("forkserver").Process(target=dying, args=(rank, str(folder), how)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    processes[0].join(40)
    assert processes[0].exitcode == 0
    processes[1].kill()
    found = torch.load(folder / f"{how}.pt", weights_only=True)
    assert len(found["said"]) == 2 and all("no longer work together" in said and words in said for said in found["said"])
    assert found["seconds"] < 15


def test_a_rank_whose_rank_0_is_gone_ends(folder):
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=dying, args=(rank, str(folder), "deserted")) for rank in range(2)]
    for process in processes:
        process.start()
    processes[1].join(30)
    assert processes[1].exitcode == 0
    assert "rank 0 of the model is gone, and rank 1 ends with it" in torch.load(folder / "deserted.pt", weights_only=True)


@pytest.mark.parametrize(
    ("layout", "changed", "words"),
    [
        (Layout(tensor=8), {}, "8 tensor parallel ranks do not divide kv_heads 4"),
        (Layout(tensor=3), {}, "do not divide heads 8, kv_heads 4"),
        (Layout(pipeline=6), {}, "5 layers are too few for 6 stages"),
        (Layout(tensor=0), {}, "at least one rank"),
        (Layout(tensor=2), {"ffn_dim": 97}, "ffn_dim 97"),
    ],
)
def test_models_that_do_not_divide(layout, changed, words):
    with pytest.raises(InputError, match=words):
        layout.check(replace(CONFIG, **changed))


def test_one_process_is_told_how_to_be_many(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match="4 ranks needs 4 processes") as refused, joined(Layout(tensor=2, pipeline=2)):
        pass
    assert "torchrun --nproc-per-node 4" in refused.value.fix
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="4 ranks and there are 3 processes"), joined(Layout(tensor=2, pipeline=2)):
        pass
