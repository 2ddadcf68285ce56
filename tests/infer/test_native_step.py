"""The native step at every level of this processor against the PyTorch network in float32, and how it is compiled."""

import copy
import subprocess
import sys
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from puna.core.errors import InputError
from puna.infer import native
from puna.infer.cache import PagedCache
from puna.infer.engine import Completion, Engine, Request
from puna.infer.kernels import build
from puna.infer.kernels.pack import Arena, Kind, pack, packed_bytes, quantized
from puna.infer.kernels.step import MAX_ROWS, NativeModel, why_not
from puna.infer.memory import HUGE
from puna.infer.native import NativeSteps
from puna.infer.torch_steps import TorchSteps
from puna.model.config import ModelConfig, RopeScaling
from puna.model.fp8_linear import Fp8Linear, dequantize_rows
from puna.model.llama import Llama

try:
    build.library()
except build.Unavailable:
    pytest.skip("there is no C compiler", allow_module_level=True)

VOCAB = 164  # no multiple of 8, as most sizes here are none of what the kernels pad to
LEVELS = build.levels()
SHAPES = {
    "odd": {"dim": 40, "layers": 3, "heads": 6, "kv_heads": 2, "head_dim": 10, "ffn_dim": 100},
    "groups of 5": {"dim": 64, "layers": 2, "heads": 10, "kv_heads": 2, "head_dim": 32, "ffn_dim": 200, "tied": True},
    "long": {"dim": 64, "layers": 2, "heads": 4, "kv_heads": 1, "ffn_dim": 128, "rope_scaling": RopeScaling()},
}
WEIGHTS = {"bf16": (), "fp8": ("proj", "lm_head"), "fp8 ffn": ("gate_proj", "up_proj", "down_proj")}


def random_model(shape: str = "odd", weights: str = "bf16", seed: int = 3) -> Llama:
    """A model in bfloat16 whose predictions are far from uniform and depend on its layers."""
    model = Llama(ModelConfig(vocab_size=VOCAB, max_seq_len=512, **SHAPES[shape]), seed=seed).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.mul_(20 if "lm_head" in name else 1 if "embed" in name else 2)
    model.to(torch.bfloat16)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.endswith(WEIGHTS[weights]) and not (model.config.tied and name == "lm_head"):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Fp8Linear.from_weight(module.weight))
    return model


def widened(model: Llama) -> Llama:
    """The same numbers in float32, without rounding of activations."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Fp8Linear):
            parent, _, child = name.rpartition(".")
            linear = nn.Linear(*reversed(module.weight.shape), bias=False)
            linear.weight.data = dequantize_rows(module.weight, module.weight_scale)
            setattr(model.get_submodule(parent), child, linear)
    return model.float()


def cache_of(model: Llama, pages: int = 64, page_size: int = 8) -> PagedCache:
    config = model.config
    return PagedCache(layers=config.layers, pages=pages, page_size=page_size, kv_heads=config.kv_heads,
                      head_dim=config.head_size, dtype=torch.bfloat16, device=torch.device("cpu"))  # fmt: skip


def engine_of(model: Llama, level: str | None, **settings) -> Engine:
    engine = Engine(model, stop_ids=(3, 50), kernels="torch", **settings)
    engine.steps = NativeSteps(model, engine.cache, level=level)
    return engine


def logits_of(model: NativeModel, ids: np.ndarray, pieces: list[int]) -> torch.Tensor:
    """Logits of every position, computed in pieces of the given lengths."""
    table, starts = np.arange(63, 0, -1)[None], np.cumsum([0, *pieces])
    parts = [
        model.logits(ids[a:b], np.arange(a, b), np.zeros(b - a, np.int64), table, np.arange(b - a)) for a, b in pairwise(starts)
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_the_networks_within_bf16_rounding(shape, weights, level):
    model = random_model(shape, weights)
    length = 300 if shape == "long" else 90
    ids = np.random.default_rng(1).integers(0, VOCAB, length)
    with torch.no_grad():
        expected = widened(model)(torch.from_numpy(ids)[None])[0]
    got = logits_of(NativeModel(model, cache_of(model), level=level), ids, [length])
    assert got.shape == expected.shape and got.dtype == torch.float32
    assert (got - expected).norm() / expected.norm() < 0.012
    rounded = copy.deepcopy(model) if weights == "bf16" else widened(model).to(torch.bfloat16)
    with torch.no_grad():
        torchs = rounded(torch.from_numpy(ids)[None])[0]
    assert (got - expected).norm() <= 1.1 * (torchs - expected).norm()  # no worse than PyTorch in bfloat16


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_row_is_the_same_to_the_bit_in_any_company(weights, level):
    model = random_model("odd", weights)
    ids = np.random.default_rng(2).integers(0, VOCAB, 96)
    runner = NativeModel(model, cache_of(model), level=level)
    whole = logits_of(runner, ids, [96])
    assert MAX_ROWS < 96
    for pieces in ([1] * 96, [2, 3, 4, 5, 6, 7, 69], [65, 31], [4] * 24):
        assert torch.equal(logits_of(runner, ids, pieces), whole)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_greedy_tokens_are_those_of_the_network(weights, level):
    model = random_model("odd", weights)
    prompts = [np.random.default_rng(i).integers(0, VOCAB, 5 + i).tolist() for i in range(6)]
    results = engine_of(model, level).generate([Request(p, max_tokens=16) for p in prompts])
    plain, same, total = widened(model), 0, 0
    for prompt, samples in zip(prompts, results, strict=True):
        ids = samples[0].ids
        with torch.no_grad():
            logits = plain(torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1]
        behind = logits.amax(-1) - logits.gather(-1, torch.tensor(ids)[:, None])[:, 0]
        assert (behind <= 0.03 * logits.std(-1)).all()  # where it chose another token, the two were equal up to rounding
        same, total = same + int((behind == 0).sum()), total + len(ids)
    assert total > 60 and same >= 0.95 * total


def requests(count: int) -> list[Request]:
    draw = np.random.default_rng(7)
    return [
        Request(draw.integers(0, VOCAB, draw.integers(1, 70)).tolist(), n=int(draw.integers(1, 4)), seed=i,
                temperature=float(draw.choice([0.0, 0.7, 1.0])), top_p=float(draw.choice([1.0, 0.9])),
                max_tokens=int(draw.integers(1, 30)))
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("weights", WEIGHTS)
def test_tokens_do_not_depend_on_neighbours_chunks_pages_or_order(weights):
    model, asked = random_model("odd", weights), requests(60)
    engine = Engine(model, stop_ids=(3, 50))
    assert isinstance(engine.steps, NativeSteps)
    together = tokens(engine.generate(asked))
    assert [tokens(engine.generate([request]))[0] for request in asked] == together
    assert tokens(engine_of(model, None, prefill_tokens=7, max_running=5).generate(asked)) == together
    small = engine_of(model, None, page_size=4, pages=80, max_running=9, prefill_tokens=33)
    assert tokens(small.generate(asked[::-1]))[::-1] == together
    assert {stop_id for samples in together for _, stop_id in samples} > {None}


def tokens(results: list[list[Completion]]) -> list:
    """Ids and stop tokens; log-probabilities are the sampler's, which sums them in another order in other batches."""
    return [[(c.ids, c.stop_id) for c in samples] for samples in results]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_8_bit_numbers_are_near_and_the_same_everywhere(shape, weights):
    model = random_model(shape, weights)
    ids = np.random.default_rng(1).integers(0, VOCAB, 90)
    with torch.no_grad():
        expected = widened(model)(torch.from_numpy(ids)[None])[0]
    for level in LEVELS:
        runner = NativeModel(model, cache_of(model), level=level, compute="int8")
        found = logits_of(runner, ids, [90])
        assert 0.005 < (found - expected).norm() / expected.norm() < 0.04
        for pieces in ([1] * 90, [2, 3, 4, 5, 6, 7, 63], [64, 26]):
            assert torch.equal(logits_of(runner, ids, pieces), found)


@pytest.mark.parametrize("compute", ["exact", "int8"])
def test_a_piece_of_a_prompt_without_logits(compute):
    model = random_model()
    ids, runner = np.random.default_rng(4).integers(0, VOCAB, 20), NativeModel(model, cache_of(model), compute=compute)
    whole, table, nobody = logits_of(runner, ids, [20]), np.arange(63, 0, -1)[None], np.zeros(0, np.int64)
    assert runner.logits(ids[:13], np.arange(13), np.zeros(13, np.int64), table, nobody).shape == (0, VOCAB)
    assert torch.equal(runner.logits(ids[13:], np.arange(13, 20), np.zeros(7, np.int64), table, np.arange(7)), whole[13:])


def test_a_product_of_8_bit_numbers_is_that_of_the_rounded_matrix():
    weight = torch.randn(24, 100, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    numbers, scale = quantized(weight)
    assert numbers.dtype == torch.int8 and int(numbers.abs().max()) == 127
    assert ((numbers * scale - weight.float()).abs() <= scale / 2 * 1.001).all()
    packed = pack(build.library(), [numbers], [scale], Arena(packed_bytes(24, 100, Kind.INT8)))
    rows = packed.weight.view(torch.int8).view(3, 2, 8, 64).transpose(1, 2).reshape(24, 128)
    assert torch.equal(rows[:, :100], numbers) and not rows[:, 100:].any()
    assert torch.equal(packed.scale, scale[:, 0])


def test_8_bits_are_never_chosen_unasked():
    model = random_model()
    exact, asked = (Engine(model, stop_ids=(), kernels=kernels).generate(requests(5)) for kernels in ("auto", "int8"))
    assert tokens(exact) == tokens(Engine(model, stop_ids=(), kernels="native").generate(requests(5)))
    assert tokens(exact) != tokens(asked)
    with pytest.raises(InputError, match="cannot run in the native kernels"):
        Engine(model.float(), stop_ids=(), kernels="int8")


def test_one_product_with_every_code_and_many_rows():
    codes = torch.arange(256, dtype=torch.uint8).repeat(3)[None].repeat(9, 1)
    codes[:, 0::127] = 0x38  # NaN codes and some others become 1
    weight = codes.masked_fill((codes & 0x7F) == 0x7F, 0x38).view(torch.float8_e4m3fn)
    packed = pack(build.library(), [weight], [torch.full((9, 1), 0.5)], Arena(packed_bytes(9, 768, Kind.FP8)))
    exact = weight.float()
    exact = exact.masked_fill(exact.abs() < 2**-6, 0.0)
    assert packed.rows == 16 and packed.columns == 768
    bits = packed.weight.view(2, 12, 8, 32, 2).permute(0, 2, 1, 4, 3).reshape(16, 768)
    assert torch.equal(bits.contiguous().view(torch.float8_e4m3fn).float()[:9].abs(), exact.abs())
    assert packed.scale is not None and packed.scale[:9].unique().tolist() == [0.5 * 2**20]


@pytest.mark.parametrize("in_turns", [False, True])
def test_packed_rows_of_two_matrices_and_huge_pages(in_turns):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(12, 70, generator=generator).to(torch.bfloat16) for _ in range(2))
    packed = pack(build.library(), [first, second], [], Arena(packed_bytes(32, 70, Kind.BF16)), in_turns=in_turns)
    rows = packed.weight.view(torch.bfloat16).view(-1, 2, 8, 64).transpose(1, 2).reshape(-1, 128)
    assert packed.rows == len(rows) == (32 if in_turns else 24) and packed.columns == 128
    expected = torch.zeros_like(rows)
    if in_turns:
        for at, part in ((0, first[:8]), (8, second[:8]), (16, first[8:]), (24, second[8:])):
            expected[at : at + len(part), :70] = part
    else:
        expected[:24, :70] = torch.cat((first, second))
    assert torch.equal(rows, expected)
    assert Arena(5).take(5).data_ptr() % HUGE == 0


def test_which_models():
    model = random_model()
    assert why_not(model) is None
    assert "float32" in (why_not(model.float()) or "")
    with pytest.raises(InputError, match="cannot run in the native kernels"):
        Engine(model.float(), stop_ids=(), kernels="native")
    assert isinstance(Engine(model.float(), stop_ids=()).steps, TorchSteps)
    mixed = random_model()
    mixed.model.layers[1].mlp.up_proj = Fp8Linear.from_weight(mixed.model.layers[1].mlp.up_proj.weight)
    assert "layer 1" in (why_not(mixed) or "")
    with pytest.raises(InputError, match="no kernels 'fast'"):
        Engine(model, stop_ids=(), kernels="fast")


def test_without_a_compiler_the_engine_says_so_once(monkeypatch, capsys, tmp_path):
    def missing(*_, **__):
        raise build.Unavailable("there is no C compiler", fix="install g++ or clang")

    with pytest.raises(build.Unavailable, match="no C compiler"):
        build.library(compiler=str(tmp_path / "absent"), folder=tmp_path)
    model = random_model()
    expected = Engine(model, stop_ids=(), kernels="torch").generate(requests(5))
    monkeypatch.setattr("puna.infer.kernels.step.library", missing)
    native.say_once.cache_clear()
    results = [Engine(model, stop_ids=()).generate(requests(5)) for _ in range(2)]
    assert results == [expected, expected]
    assert capsys.readouterr().err.count("no C compiler") == 1
    with pytest.raises(build.Unavailable):
        Engine(model, stop_ids=(), kernels="native")


def test_a_compiler_that_fails_and_an_absent_level(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'out of ideas' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(build.Unavailable, match="out of ideas"):
        build.library(compiler=str(broken), folder=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(build.Unavailable, match="no level"):
        build.library("avx1024")


def test_processes_that_compile_at_once(tmp_path):
    words = (
        "import sys, pathlib; from puna.infer.kernels.build import library; "
        "library('plain', folder=pathlib.Path(sys.argv[1])).puna_read; print('loaded')"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", words, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [process.communicate(timeout=120)[0] for process in running] == ["loaded\n"] * 3
    assert [file.suffix for file in tmp_path.iterdir()] == [".so"]


def test_the_sources_are_part_of_the_package():
    assert all((files("puna.infer.kernels") / name).is_file() for name in build.SOURCES)
