"""Pages, sampler and paged cache, each against arithmetic or brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import RunError
from puna.infer.cache import DecodeView, PagedCache, PrefillView
from puna.infer.pages import BlockPool
from puna.infer.sampler import _nucleus, choose, sample_keys, uniforms
from puna.infer.scheduler import Group, Scheduler, pages_needed
from puna.model.config import PRESETS
from puna.model.llama import Llama


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), max_size=60), st.integers(1, 30))
def test_pool_never_hands_out_a_page_twice(orders, size):
    pool, held = BlockPool(size), []
    for count, readers in orders:
        if count <= pool.free and (count or not held):
            pages = pool.take(count)
            pool.share(pages, readers - 1)
            held += [pages.copy() for _ in range(readers)]
        elif held:
            pool.release(held.pop(len(held) // 2))
        distinct = set(np.concatenate(held).tolist()) if held else set()
        assert 0 not in distinct and pool.free + len(distinct) == size - 1
        assert int(pool.references.sum()) == sum(map(len, held))
    if held:
        pool.release(np.concatenate(held))
    assert pool.free == size - 1 and len(set(pool.take(size - 1).tolist())) == size - 1


def test_pool_refuses_what_it_does_not_have():
    with pytest.raises(RunError, match="asked for 4 pages"):
        BlockPool(4).take(4)


def test_pages_needed_by_hand():
    assert pages_needed(prompt=16, limit=1, page_size=16) == (1, 0)  # one token, never read again
    assert pages_needed(prompt=16, limit=2, page_size=16) == (1, 1)
    assert pages_needed(prompt=30, limit=32, page_size=16) == (1, 3)
    assert pages_needed(prompt=5, limit=12, page_size=16) == (0, 1)


def group(request: int, prompt: int, samples: int = 1, limit: int = 16) -> Group:
    return Group(request, 0, samples, 1000 * request + np.arange(prompt), limit, sample_keys(0, 0, samples), 0.0, 1.0)


def test_admission_waits_for_rows_and_pages_in_order():
    scheduler = Scheduler(BlockPool(9), page_size=16, max_running=4, prefill_tokens=40)
    scheduler.waiting.extend([group(0, 16, samples=3), group(1, 60), group(2, 1)])
    scheduler.admit(running=0)
    assert [g.request for g in scheduler.prefilling] == [0] and scheduler.pool.free == 8 - 4  # 1 shared, 3 own
    assert len(set(scheduler.prefilling[0].tables[:, 0])) == 1 and len(set(scheduler.prefilling[0].tables[:, 1])) == 3
    scheduler.cancel(0)
    scheduler.admit(running=0)
    assert [g.request for g in scheduler.prefilling] == [1, 2] and scheduler.pool.free == 8 - 5 - 1


def test_chunks_stay_within_the_budget():
    scheduler = Scheduler(BlockPool(99), page_size=16, max_running=9, prefill_tokens=40)
    scheduler.waiting.extend([group(0, 90), group(1, 13), group(2, 12), group(3, 20)])
    scheduler.admit(running=0)
    seen = []
    while scheduler.prefilling:
        chunks = scheduler.chunks()
        seen.append([(c.group.request, c.start, c.stop) for c in chunks])
        scheduler.advance(chunks)
    assert seen == [[(0, 0, 40)], [(0, 40, 80)], [(0, 80, 90), (1, 0, 13), (2, 0, 12)], [(3, 0, 20)]]


def test_uniforms_are_uniform_and_independent():
    keys = sample_keys(seed=11, first=0, count=2000)
    draws = np.stack([uniforms(keys, np.full(2000, position)) for position in range(50)])
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, 20, (0, 1))[0]
    chi2 = ((counts - 5000) ** 2 / 5000).sum()
    assert chi2 < 43.8  # 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 0.07 and abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.45
    assert np.array_equal(sample_keys(11, 7, 5), keys[7:12])
    assert uniforms(sample_keys(-1, 0, 1), np.array([0])) == uniforms(sample_keys((1 << 64) - 1, 0, 1), np.array([0]))


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0, -30.0]]).repeat(40_000, 1)
    keys = sample_keys(1, 0, len(logits))
    uniform = uniforms(keys, np.zeros(len(logits), np.int64))
    for temperature in (0.5, 1.0, 2.0):
        chosen, logprobs = choose(
            logits, np.full(len(logits), temperature, np.float32), np.ones(len(logits), np.float32), uniform
        )
        share = np.bincount(chosen.numpy(), minlength=5) / len(logits)
        assert np.allclose(share, torch.softmax(logits[0] / temperature, -1).numpy(), atol=0.01)
        assert torch.allclose(logprobs, torch.log_softmax(logits[0], -1)[chosen], atol=1e-6)


def test_top_p_and_greedy_rows_beside_each_other():
    logits = torch.log(torch.tensor([[0.05, 0.5, 0.15, 0.3]])).repeat(3000, 1)
    uniform = uniforms(sample_keys(2, 0, 3000), np.zeros(3000, np.int64))
    temperature = np.tile(np.float32([0.0, 1.0, 1.0]), 1000)
    top_p = np.tile(np.float32([0.1, 0.79, 1.0]), 1000)
    chosen, logprobs = choose(logits, temperature, top_p, uniform)
    assert set(chosen[0::3].tolist()) == {1}
    assert set(chosen[1::3].tolist()) == {1, 3}
    assert set(chosen[2::3].tolist()) == {0, 1, 2, 3}
    assert np.mean(chosen[1::3].numpy() == 1) == pytest.approx(0.5 / 0.8, abs=0.05)
    assert torch.allclose(logprobs, torch.log_softmax(logits[0], -1)[chosen], atol=1e-6)


def test_top_p_keeps_the_smallest_sufficient_set_by_brute_force():
    """Peaked rows (the set lies among the likeliest 64) and flat ones (it does not), limits of every size."""
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(rng.normal(size=(40, 300)) * rng.choice([0.1, 5.0], (40, 1))).float()
    limits = rng.uniform(0.01, 0.999, 40).astype(np.float32)
    kept = _nucleus(torch.softmax(logits, -1), limits).numpy()
    for row, limit in enumerate(limits):
        probs = torch.softmax(logits[row], -1).numpy()
        order = np.argsort(-probs)
        size = int(np.searchsorted(np.cumsum(probs[order].astype(np.float64)), limit)) + 1
        assert set(np.flatnonzero(kept[row])) == set(order[:size])
        assert np.array_equal(kept[row][order[:size]], probs[order[:size]])


def test_extreme_uniforms_pick_possible_tokens():
    logits = torch.tensor([[-200.0, 1.0, -200.0, 1.0, -200.0]]).repeat(2, 1)
    chosen, _ = choose(logits, np.ones(2, np.float32), np.ones(2, np.float32), np.float32([0.0, 1 - 2**-24]))
    assert chosen.tolist() == [1, 3]


@torch.inference_mode()
def test_paged_logits_equal_a_fresh_forward():
    """Prefill in two chunks, then token by token through scattered pages: logits within 1e-5 of the whole sequence at once."""
    config = PRESETS["tiny"]
    model = Llama(config, seed=2).eval()
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, config.vocab_size, 60))[None]
    cache = PagedCache(
        layers=config.layers, pages=40, page_size=4, kv_heads=config.kv_heads, head_dim=config.head_size,
        dtype=torch.float32, device=torch.device("cpu"),
    )  # fmt: skip
    table = torch.from_numpy(np.random.default_rng(1).permutation(np.arange(1, 40))[:15])[None]
    slots = (table[0, :, None] * 4 + torch.arange(4)).reshape(-1)

    def mask(positions):
        return (torch.arange(60) <= positions[:, None])[None, None]

    parts = []
    for start, stop in ((0, 21), (21, 50)):
        positions = torch.arange(start, stop)
        view = PrefillView(cache, torch.ones(1, stop - start, dtype=torch.bool), slots[start:stop], table if start else None)
        parts.append(
            model(ids[:, start:stop], positions_BT=positions[None], mask=mask(positions) if start else None, cache=view)[0]
        )
    for position in range(50, 60):
        here = torch.tensor([position])
        view = DecodeView(cache, slots[position : position + 1], table)
        parts.append(model(ids[:, position : position + 1], positions_BT=here[None], mask=mask(here), cache=view)[0])
    assert torch.allclose(torch.cat(parts), model(ids)[0], atol=1e-5, rtol=0)
