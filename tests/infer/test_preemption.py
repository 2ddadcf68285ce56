"""Optimistic admission: who makes room, that everyone comes to an end, and that nothing they say changes."""

from itertools import chain

import numpy as np
import pytest
import torch

from puna.core.errors import InputError
from puna.infer.engine import Engine, Request
from puna.infer.pages import BlockPool
from puna.infer.scheduler import Scheduler
from puna.infer.shaping import Shaping
from puna.model.config import ModelConfig
from puna.model.llama import Llama


@pytest.fixture(scope="module")
def model() -> Llama:
    config = ModelConfig(vocab_size=96, dim=32, layers=1, heads=4, kv_heads=2, ffn_dim=64, max_seq_len=256)
    made = Llama(config, seed=3).eval()
    with torch.no_grad():
        made.lm_head.weight.mul_(40)
    return made


def test_the_latest_makes_room_and_comes_back_where_it_was(model):
    engine = Engine(model, stop_ids=(), page_size=4, pages=13, admission="optimistic")
    old, young = Request([1, 2, 3], max_tokens=30, seed=1, temperature=1.0), Request([4, 5, 6, 7, 8], max_tokens=28, seed=2)
    first, second = engine.add(old), engine.add(young)
    written: dict[int, list[int]] = {first: [], second: []}
    waited = False
    while engine.busy:
        for token in engine.step():
            written[token.request_id].append(token.token_id)
        waited |= [group.request for group in engine.scheduler.waiting] == [second]
        assert first in engine.running.request or len(written[first]) == 30  # the oldest never waits
    alone = Engine(model, stop_ids=()).generate([old, young])
    assert waited and engine.preemptions >= 1
    assert [written[first], written[second]] == [samples[0].ids for samples in alone]
    assert engine.pool.free == 12 and not engine.pool.references.any()


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_samples_penalties_and_logprobs_survive(model, prefix_cache):
    rng = np.random.default_rng(4)
    requests = [
        Request(rng.integers(0, 96, 9).tolist(), n=3, temperature=0.9, top_p=0.95, max_tokens=25, seed=i, logprobs=3 * (i % 2),
                prompt_logprobs=i % 3 == 0, shaping=Shaping(frequency_penalty=0.5) if i % 2 else Shaping())
        for i in range(8)
    ]  # fmt: skip
    tight = Engine(model, stop_ids=(9,), page_size=4, pages=32, admission="optimistic", prefix_cache=prefix_cache)
    found, expected = tight.generate(requests), Engine(model, stop_ids=(9,)).generate(requests)
    assert tight.preemptions > 5
    for one, other in zip(chain.from_iterable(found), chain.from_iterable(expected), strict=True):
        assert (one.ids, one.stop_id) == (other.ids, other.stop_id) and one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert (one.token_logprobs is None) == (other.token_logprobs is None)
        assert one.token_logprobs is None or one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-3)
        assert one.alternatives is None or [[t for t, _ in a] for a in one.alternatives] == [
            [t for t, _ in a] for a in other.alternatives
        ]
        assert (one.prompt_logprobs is None) == (other.prompt_logprobs is None)
        assert one.prompt_logprobs is None or one.prompt_logprobs[1:] == pytest.approx(other.prompt_logprobs[1:], abs=1e-4)


def test_more_run_at_once_than_by_reservation(model):
    requests = [Request([i, i + 1], max_tokens=200) for i in range(20)]
    most = {}
    for admission in ("reserve", "optimistic"):
        engine = Engine(model, stop_ids=(), page_size=4, pages=101, admission=admission)
        for request in requests:
            engine.add(request)
        engine.step()
        most[admission] = len(engine.running)
    assert most == {"reserve": 1, "optimistic": 20}


def test_cancelling_one_that_made_room(model):
    engine = Engine(model, stop_ids=(), page_size=4, pages=13, admission="optimistic")
    engine.add(Request([1, 2, 3], max_tokens=30))
    second = engine.add(Request([4, 5, 6], max_tokens=30))
    while not engine.preemptions:
        engine.step()
    engine.cancel(second)
    assert not engine.scheduler.waiting
    while engine.busy:
        assert {token.request_id for token in engine.step()} == {0}
    assert engine.pool.free == 12


def test_a_stream_with_judged_prompts_leaves_nothing_behind(model):
    engine = Engine(model, stop_ids=(), page_size=4, pages=13, admission="optimistic")
    for prompt in ([1, 2, 3], [4, 5, 6]):
        engine.add(Request(prompt, max_tokens=30, prompt_logprobs=True))
    told = [token.prompt_logprobs is not None for _ in iter(lambda: engine.busy, False) for token in engine.step()]
    assert engine.preemptions and sum(told) == 2 and not engine.details._samples


def test_a_prompt_that_made_room_waits_until_the_rows_beside_it_can_grow(model):
    engine = Engine(model, stop_ids=(), page_size=4, pages=17, prefill_tokens=4, admission="optimistic")
    engine.add(Request([1, 2, 3], max_tokens=50))
    for _ in range(20):
        engine.step()
    engine.add(Request(list(range(32)), max_tokens=2))
    while not engine.preemptions:
        engine.step()
    (group,) = engine.scheduler.waiting
    assert group.made_room and not len(group.written)
    scheduler = Scheduler(BlockPool(11), page_size=4, max_running=99, prefill_tokens=64, admission="optimistic")
    scheduler.waiting.append(group)  # its prompt takes eight of the ten pages, its sample one
    scheduler.admit(running=2)
    assert list(scheduler.waiting) == [group]
    scheduler.admit(running=1)
    assert scheduler.prefilling == [group]


def test_what_never_fits_and_what_is_no_rule(model):
    with pytest.raises(InputError, match="KV pages"):
        Engine(model, stop_ids=(), page_size=4, pages=8, admission="optimistic").add(Request([1], max_tokens=40))
    with pytest.raises(InputError, match="no admission 'hope'"):
        Engine(model, stop_ids=(), admission="hope")
