"""A thousand requests of every kind say the same under every schedule: alone, batched, chunked, preempted, found in the cache."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from puna.infer.engine import Completion, Engine, Request
from puna.infer.kernels import build
from puna.infer.native import NativeSteps
from puna.infer.shaping import Shaping
from puna.model.config import ModelConfig
from puna.model.fp8_linear import Fp8Linear
from puna.model.llama import Llama

VOCAB, PAGE, COUNT = 64, 4, 1000
STOPS = (3, 50)
SCHEDULES = {
    "batched": {},
    "without a prefix cache": {"prefix_cache": False},
    "chunked": {"prefill_tokens": 7, "max_running": 40},
    "preempted": {"admission": "optimistic", "pages": 60, "max_running": 40},
    "preempted, nothing kept": {"admission": "optimistic", "pages": 60, "max_running": 40, "prefix_cache": False},
}

try:
    LEVELS = build.levels() if build.library() else []
except build.Unavailable:
    LEVELS = []


def small_model(dtype: torch.dtype, fp8: bool = False, layers: int = 2) -> Llama:
    """A model far from uniform, so that a decision can go wrong."""
    config = ModelConfig(vocab_size=VOCAB, dim=32, layers=layers, heads=2, kv_heads=1, ffn_dim=32, max_seq_len=64)
    model = Llama(config, seed=5).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.mul_(60 if "lm_head" in name else 1 if "embed" in name else 2)
    model.to(dtype)
    for layer in model.model.layers if fp8 else ():
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer.mlp, name, Fp8Linear.from_weight(getattr(layer.mlp, name).weight))
    return model


def shaping(rng: np.random.Generator) -> Shaping:
    if rng.random() < 0.8:
        return Shaping()
    return Shaping(
        top_k=int(rng.integers(0, 9)), min_p=float(rng.choice([0.0, 0.05])), presence_penalty=float(rng.choice([0.0, 0.4])),
        frequency_penalty=float(rng.choice([0.0, 0.3])), repetition_penalty=float(rng.choice([1.0, 1.2])),
        logit_bias={int(rng.integers(0, VOCAB)): 2.0},
    )  # fmt: skip


def thousand_requests() -> list[Request]:
    """Prompts of 1 to 28 tokens, of which some begin alike; one to three samples of mostly one to four tokens."""
    rng = np.random.default_rng(11)
    openings = [rng.integers(0, VOCAB, 16).tolist() for _ in range(5)]
    requests = []
    for seed in range(COUNT):
        shared = openings[int(rng.integers(0, 5))][: int(rng.integers(4, 17))] if rng.random() < 0.5 else []
        requests.append(Request(
            shared + rng.integers(0, VOCAB, int(rng.integers(1, 13))).tolist(), n=int(rng.choice([1, 1, 1, 1, 1, 1, 2, 3])),
            temperature=float(rng.choice([0.0, 0.7, 1.0])), top_p=float(rng.choice([1.0, 0.9])),
            max_tokens=int(rng.integers(1, 5)) if rng.random() < 0.98 else 24, seed=seed,
            stop_ids=(9,) if rng.random() < 0.3 else (), shaping=shaping(rng),
        ))  # fmt: skip
    return requests


REQUESTS = thousand_requests()


def native(level: str, fp8: bool) -> Callable[..., Engine]:
    model = small_model(torch.bfloat16, fp8)

    def engine(**settings) -> Engine:
        made = Engine(model, stop_ids=STOPS, page_size=PAGE, kernels="torch", **{"pages": 800} | settings)
        made.steps = NativeSteps(model, made.cache, level=level)
        return made

    return engine


def check(engine: Callable[..., Engine], same: Callable[[list, list], None], every: int = 1) -> None:
    requests, alone = REQUESTS[::every], engine(max_running=1, prefix_cache=False)
    expected = [alone.generate([request])[0] for request in requests]
    for name, settings in SCHEDULES.items():
        tried = engine(**settings)
        same(tried.generate(requests), expected)
        assert (tried.preemptions > 0) == ("preempted" in name)
        assert tried.pool.free == tried.pool.pages - 1 and not tried.pool.references.any()


def identical(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    """To the bit, log-probabilities included."""
    wrong = [index for index, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other]
    assert not wrong, f"{len(wrong)} of {len(found)}, the first {wrong[0]}: {found[wrong[0]]} and not {expected[wrong[0]]}"


def close(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    """Tokens the same, log-probabilities within float32 rounding of products of other shapes."""
    pairs = [pair for both in zip(found, expected, strict=True) for pair in zip(*both, strict=True)]
    assert [one.ids for one, _ in pairs] == [other.ids for _, other in pairs]
    assert max(abs(one.logprob - other.logprob) for one, other in pairs) < 1e-3


@pytest.mark.skipif(not LEVELS, reason="there is no C compiler")
@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
@pytest.mark.parametrize("level", LEVELS)
def test_native_steps_say_the_same_to_the_bit(level, fp8):
    check(native(level, fp8), identical, every=1 if level == LEVELS[0] else 5)


def test_pytorchs_steps_in_float32_say_the_same():
    model = small_model(torch.float32, layers=1)
    check(lambda **settings: Engine(model, stop_ids=STOPS, page_size=PAGE, **{"pages": 800} | settings), close)


def test_the_thousand_are_of_every_kind():
    assert isinstance(small_model(torch.bfloat16, fp8=True).model.layers[0].mlp.up_proj, Fp8Linear)
    assert not any(isinstance(module, Fp8Linear) for module in small_model(torch.bfloat16).modules())
    assert {request.temperature for request in REQUESTS} == {0.0, 0.7, 1.0} and len(REQUESTS) == COUNT
    assert sum(not request.shaping.plain for request in REQUESTS) > 150 and sum(request.n > 1 for request in REQUESTS) > 200
