"""Pages that later prompts find again: what is found, what is emptied first, and that no answer changes."""

import numpy as np
import pytest
import torch

from puna.core.errors import RunError
from puna.infer.engine import Engine, Request
from puna.infer.kernels import build
from puna.infer.pages import BlockPool, page_keys
from puna.model.config import ModelConfig
from puna.model.llama import Llama

CONFIG = ModelConfig(vocab_size=96, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=64, max_seq_len=128)


def model(seed: int = 3) -> Llama:
    made = Llama(CONFIG, seed=seed).eval()
    with torch.no_grad():
        made.lm_head.weight.mul_(40)
    return made


def counted(engine: Engine) -> list[int]:
    """The number of tokens of each call the engine makes from now on."""
    calls: list[int] = []
    compute = engine.steps.logits
    engine.steps.logits = lambda spans: (calls.append(len(spans.tokens)), compute(spans))[1]
    return calls


def ids(start: int, count: int) -> list[int]:
    return [(start + 7 * i) % 96 for i in range(count)]


def test_keys_tell_what_came_before():
    first, second = page_keys(np.arange(12), 4), page_keys(np.array([9, 1, 2, 3, *range(4, 12)]), 4)
    assert len(first) == 3 and not set(first) & set(second)
    assert page_keys(np.arange(11), 4) == first[:2] and page_keys(np.arange(12), 4, first[:1]) == first


def test_pages_are_emptied_longest_unused_first_and_from_the_end():
    pool, keys = BlockPool(6), page_keys(np.arange(12), 4)
    pages = pool.take(3)
    pool.name(keys, pages)
    pool.release(pages)
    assert pool.free == 5 and pool.find(keys).tolist() == pages.tolist()
    pool.take(3)  # two were empty, one is emptied: the last of the chain
    assert pool.find(keys).tolist() == pages[:2].tolist() and pool.free == 2
    pool.claim(pages[:1], 2)
    assert pool.free == 1 and pool.references[pages[0]] == 2
    pool.take(1)
    assert pool.find(keys).tolist() == pages[:1].tolist()
    pool.forget()
    assert not len(pool.find(keys))
    pool.release(np.repeat(pages[:1], 2))
    assert pool.free == 1


def test_a_second_prompt_computes_what_is_new_and_says_the_same():
    engine, plain = Engine(model(), stop_ids=(), page_size=8), Engine(model(), stop_ids=(), page_size=8, prefix_cache=False)
    asked = Request(ids(1, 40), n=2, temperature=1.0, max_tokens=6, seed=2)
    first = engine.generate([asked])
    calls = counted(engine)
    again = engine.generate([asked])
    assert calls[0] == 8  # 32 of 40 are known; the last page is computed for its logits
    assert [[c.ids for c in again[0]], [c.ids for c in first[0]]] == [[c.ids for c in plain.generate([asked])[0]]] * 2
    longer = Request(asked.prompt_ids[:35] + ids(60, 10), max_tokens=3)
    calls.clear()
    found = engine.generate([longer])
    assert calls[0] == 45 - 32 and found[0][0].ids == plain.generate([longer])[0][0].ids


def test_answers_are_found_by_the_next_turn():
    engine = Engine(model(), stop_ids=(), page_size=4)
    answer = engine.generate([Request(ids(5, 10), max_tokens=11)])[0][0].ids
    calls = counted(engine)
    engine.generate([Request(ids(5, 10) + answer + ids(9, 3), max_tokens=1)])
    assert calls == [24 - 20]  # 20 of the 21 tokens are in the cache, the last one written is not


def test_prompts_that_arrive_together_share_what_they_begin_with():
    requests = [Request(ids(2, 32) + ids(40 + i, 3), max_tokens=4) for i in range(6)]
    engine = Engine(model(), stop_ids=(), page_size=8)
    calls = counted(engine)
    found = engine.generate(requests)
    assert calls[0] == 35 + 5 * 3
    alone = Engine(model(), stop_ids=(), prefix_cache=False)
    assert [c[0].ids for c in found] == [alone.generate([request])[0][0].ids for request in requests]


def test_a_prompt_is_cancelled_while_others_wait_for_its_pages():
    engine = Engine(model(), stop_ids=(), page_size=8, prefill_tokens=16)
    first = engine.add(Request(ids(2, 60), max_tokens=4))
    second = Request([*ids(2, 50), 1], max_tokens=4)
    later = engine.add(second)
    engine.step()
    engine.cancel(first)
    written = [token.token_id for _ in range(20) if engine.busy for token in engine.step() if token.request_id == later]
    assert written == Engine(model(), stop_ids=()).generate([second])[0][0].ids
    assert engine.pool.free == engine.pool.pages - 1 and not engine.pool.references.any()


def test_a_model_that_was_trained_needs_to_be_forgotten():
    trained = model()
    engine, asked = Engine(trained, stop_ids=(), page_size=4), Request(ids(3, 33), max_tokens=8)
    before = engine.generate([asked])[0][0].ids
    with torch.no_grad():
        for weight in trained.model.layers[0].parameters():
            weight.add_(0.3)
    engine.forget()
    after = engine.generate([asked])[0][0].ids
    assert after == Engine(trained, stop_ids=()).generate([asked])[0][0].ids != before
    engine.add(asked)
    with pytest.raises(RunError, match="answering requests"):
        engine.forget()


def test_native_answers_are_the_same_to_the_bit():
    try:
        build.library()
    except build.Unavailable:
        pytest.skip("there is no C compiler")
    half = model().to(torch.bfloat16)
    requests = [Request(ids(i % 3, 20 + i), n=2, temperature=1.0, max_tokens=9, seed=i, logprobs=2) for i in range(20)]
    with_cache, without = (Engine(half, stop_ids=(), page_size=4, prefix_cache=kept) for kept in (True, False))
    expected = without.generate(requests)
    assert with_cache.generate(requests) == expected
    assert with_cache.generate(requests[::-1])[::-1] == expected
