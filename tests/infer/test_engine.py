"""The engine against a plain loop that recomputes everything for every token, and against itself under other schedules."""

from itertools import chain

import numpy as np
import pytest
import torch

from puna.core.errors import InputError, RunError
from puna.infer.engine import Completion, Engine, Request
from puna.infer.sampler import choose, sample_keys, uniforms
from puna.model.config import ModelConfig
from puna.model.llama import Llama

VOCAB = 160
STOPS = (3, 50, 77, 120, 121)


@pytest.fixture(scope="module")
def model() -> Llama:
    return random_model(seed=3)


def random_model(seed: int, **changes) -> Llama:
    shape = {"vocab_size": VOCAB, "dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 64, "max_seq_len": 256}
    model = Llama(ModelConfig(**{**shape, **changes}), seed=seed).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.mul_(40 if "embed" in name or "lm_head" in name else 2)  # far from uniform: decisions that can go wrong
    return model


def mixed_requests(count: int, seed: int = 0, longest: int = 70) -> list[Request]:
    rng = np.random.default_rng(seed)
    return [
        Request(
            rng.integers(0, VOCAB, rng.integers(1, longest)).tolist(),
            n=int(rng.integers(1, 4)),
            temperature=float(rng.choice([0.0, 0.7, 1.0])),
            top_p=float(rng.choice([1.0, 0.9])),
            max_tokens=int(rng.integers(1, 40)),
            seed=int(rng.integers(0, 1 << 62)),
            stop_ids=(9,) if rng.random() < 0.3 else (),
        )
        for _ in range(count)
    ]


@torch.inference_mode()
def reference(model: Llama, request: Request, index: int) -> Completion:
    """One sample without cache, batch or pages."""
    ids, total = list(request.prompt_ids), 0.0
    key = sample_keys(request.seed, index, 1)
    for count in range(min(request.max_tokens, model.config.max_seq_len - len(request.prompt_ids))):
        logits = model(torch.tensor([ids]))[:, -1]
        uniform = uniforms(key, np.array([count]))
        token, logprob = choose(logits, np.float32([request.temperature]), np.float32([request.top_p]), uniform)
        total += logprob.item()
        if token.item() in STOPS + tuple(request.stop_ids):
            return Completion(ids[len(request.prompt_ids) :], True, token.item(), total)
        ids.append(token.item())
    return Completion(ids[len(request.prompt_ids) :], False, None, total)


def tokens(results: list[list[Completion]]) -> list:
    return [[(c.ids, c.finished, c.stop_id) for c in samples] for samples in results]


def test_engine_equals_the_loop_that_recomputes_everything(model):
    requests = mixed_requests(40)
    results = Engine(model, stop_ids=STOPS).generate(requests)
    expected = [[reference(model, request, i) for i in range(request.n)] for request in requests]
    assert tokens(results) == tokens(expected)
    pairs = list(zip(chain.from_iterable(results), chain.from_iterable(expected), strict=True))
    assert all(got.logprob == pytest.approx(want.logprob, abs=1e-4) for got, want in pairs)
    assert {got.finished for got, _ in pairs} == {True, False}


def test_tokens_do_not_depend_on_neighbours_chunks_pages_or_order(model):
    requests = mixed_requests(200, seed=1)
    together = tokens(Engine(model, stop_ids=STOPS).generate(requests))
    engine = Engine(model, stop_ids=STOPS)
    assert [tokens(engine.generate([request]))[0] for request in requests] == together
    chunked = Engine(model, stop_ids=STOPS, prefill_tokens=7, max_running=5)
    assert tokens(chunked.generate(requests)) == together
    small = Engine(model, stop_ids=STOPS, page_size=4, pages=80, max_running=9, prefill_tokens=33)
    assert tokens(small.generate(requests[::-1]))[::-1] == together
    assert small.pool.free == 79 and not small.pool.references.any()


def test_same_requests_same_bytes(model):
    requests = mixed_requests(30, seed=2)
    first, second = (Engine(model, stop_ids=STOPS).generate(requests) for _ in range(2))
    assert first == second  # log-probabilities included


def test_samples_differ_and_follow_the_seed(model):
    def draw(seed: int) -> list[list[int]]:
        request = Request([1, 2, 4], n=8, temperature=1.0, max_tokens=12, seed=seed)
        return [c.ids for c in Engine(model, stop_ids=()).generate([request])[0]]

    assert draw(5) == draw(5) != draw(6)
    assert len({tuple(ids) for ids in draw(5)}) == 8


def test_more_samples_than_rows(model):
    request = Request(list(range(1, 20)), n=23, temperature=1.0, max_tokens=9, seed=4)
    wide = Engine(model, stop_ids=STOPS).generate([request])
    narrow = Engine(model, stop_ids=STOPS, max_running=5).generate([request])
    assert tokens(wide) == tokens(narrow) and len(narrow[0]) == 23


def test_step_and_cancel(model):
    engine = Engine(model, stop_ids=(), prefill_tokens=64)
    keep = engine.add(Request([1, 2, 3], max_tokens=30))
    drop = engine.add(Request([4, 5, 6], n=2, max_tokens=30))
    late = engine.add(Request(list(range(100, 156)) * 3, max_tokens=3))
    written = [token for _ in range(3) for token in engine.step()]
    assert {token.request_id for token in written} == {keep, drop}
    engine.cancel(drop)
    engine.cancel(999)
    while engine.busy:
        written += engine.step()
    ids = [token.token_id for token in written if token.request_id == keep]
    assert ids == reference_ids(model, [1, 2, 3], 30)
    assert [t.finished for t in written if t.request_id == keep] == [False] * 29 + [True]
    assert sum(token.request_id == drop for token in written) < 12
    assert sum(token.request_id == late for token in written) == 3
    assert engine.pool.free == engine.pool.pages - 1


def test_cancel_while_the_prompt_is_computed(model):
    engine = Engine(model, stop_ids=(), prefill_tokens=8)
    engine.cancel(engine.add(Request([1] * 50)))
    assert not engine.busy
    request = engine.add(Request([1] * 50, n=3))
    engine.step()
    engine.cancel(request)
    assert not engine.busy and engine.pool.free == engine.pool.pages - 1


def reference_ids(model: Llama, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_answers_end_at_the_models_length(model):
    results = Engine(model, stop_ids=()).generate([Request([1] * 250, max_tokens=64)])
    assert len(results[0][0].ids) == 6 and not results[0][0].finished


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request([]), "at least one prompt token"),
        (Request([VOCAB]), "outside the vocabulary"),
        (Request([1], n=0), "n >= 1"),
        (Request([1], temperature=-1.0), "temperature >= 0"),
        (Request([1], top_p=0.0), "top_p <= 1"),
        (Request([1] * 256), "the model reads 256"),
    ],
)
def test_bad_requests(model, request_, words):
    with pytest.raises(InputError, match=words):
        Engine(model, stop_ids=()).generate([request_])


def test_too_small_a_cache_and_a_busy_engine(model):
    engine = Engine(model, stop_ids=(), pages=4)
    with pytest.raises(InputError, match="KV pages"):
        engine.add(Request([1] * 40, max_tokens=20))
    engine.add(Request([1], max_tokens=4))
    with pytest.raises(RunError, match="other requests"):
        engine.generate([])


def test_a_model_can_be_trained_after_it_answered():
    model = random_model(seed=1)
    Engine(model, stop_ids=()).generate([Request([1, 2, 3], max_tokens=4)])
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert model.lm_head.weight.grad.abs().sum() > 0


def test_progress_counts_samples(model):
    seen: list[tuple[int, int]] = []
    Engine(model, stop_ids=STOPS).generate(mixed_requests(10), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(r.n for r in mixed_requests(10))


def test_tied_single_head_model_without_groups():
    model = random_model(seed=8, tied=True, heads=2, kv_heads=2, layers=1)
    requests = mixed_requests(12, seed=9)
    expected = [[reference(model, request, i) for i in range(request.n)] for request in requests]
    assert tokens(Engine(model, stop_ids=STOPS, prefill_tokens=40).generate(requests)) == tokens(expected)
