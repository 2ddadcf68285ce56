"""The CPU's own passes compute what the plain operations do, forward and backward, and step aside where they do not hold."""

import pytest
import torch
import torch.nn.functional as F

from puna.model import cpu
from puna.model.attention import additive, attend, document_mask
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.train.objectives import cross_entropy_sum


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def both(own, plain, *inputs):
    """Outputs and gradients of two functions agree."""
    found = []
    for function in (own, plain):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        y = function(*leaves)
        (y * torch.arange(y.numel()).view_as(y).sin()).sum().backward()
        found.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def test_linear_norm_and_swiglu_are_the_plain_ones():
    x, gate, up, down = draw(2, 9, 24), draw(40, 24), draw(40, 24, seed=1), draw(24, 40)
    both(cpu.linear, F.linear, x, gate)
    joined = lambda x, g, d: torch.cat(cpu.linears(x, g, d.T), -1)  # noqa: E731
    both(joined, lambda x, g, d: torch.cat((F.linear(x, g), F.linear(x, d.T)), -1), x, gate, down)
    both(lambda x, w: cpu.rms_norm(x, w, 1e-5), lambda x, w: F.rms_norm(x, w.shape, w, 1e-5), x, draw(24))
    both(cpu.swiglu, lambda x, g, u, d: F.linear(F.silu(F.linear(x, g)) * F.linear(x, u), d), x, gate, up, down)


@pytest.mark.parametrize("length, heads, kv_heads", [(256, 4, 2), (100, 3, 3), (300, 4, 1), (33, 2, 2)])
@pytest.mark.parametrize("kind", ["causal", "documents", "all", "shared"])
def test_attention_in_blocks_is_attention(length, heads, kv_heads, kind, monkeypatch):
    q, k, v = draw(2, heads, length, 16), draw(2, kv_heads, length, 16), draw(2, kv_heads, length, 16, seed=1)
    documents = (draw(2, length) > 1.5).cumsum(1)
    documents[:, -4:] = -1
    mask = {
        "causal": None,
        "documents": additive(document_mask(documents), torch.float32),
        "all": torch.zeros(2, 1, length, length),
        "shared": draw(1, 1, length, length),
    }[kind]
    assert cpu.attends(q, k, v, mask)
    plain = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)  # noqa: E731
    both(lambda q, k, v: attend(q, k, v, mask), plain, q, k, v)


@pytest.mark.parametrize("chunk", [None, 7, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_in_chunks_is_cross_entropy(chunk, weighted, monkeypatch):
    monkeypatch.setattr(cpu, "LOGITS", 70 * 50)  # several chunks even without `chunk`
    states, head, targets = draw(150, 16), draw(50, 16), torch.arange(150) % 50
    weights = draw(150).abs() if weighted else None
    losses = lambda x, w: F.cross_entropy(F.linear(x, w), targets, reduction="none")  # noqa: E731
    plain = lambda x, w: (losses(x, w) * (1 if weights is None else weights)).sum()  # noqa: E731
    both(lambda x, w: cpu.cross_entropy_sum(x, w, targets, weights, chunk), plain, states, head)


def test_what_is_frozen_gets_no_gradient():
    x, weight = draw(2, 3, 8), draw(6, 8)
    cpu.linear(x, weight.requires_grad_()).sum().backward()
    assert x.grad is None and weight.grad.shape == (6, 8)
    frozen = draw(5, 8)
    one, _ = cpu.linears(x, weight, frozen)
    one.sum().backward()
    assert frozen.grad is None
    norm, states = torch.ones(8), draw(4, 8).requires_grad_()
    cpu.rms_norm(states, norm, 1e-5).sum().backward()
    assert norm.grad is None and states.grad.shape == (4, 8)


def test_the_model_is_the_same_either_way(monkeypatch):
    config = ModelConfig(vocab_size=50, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=72, rope_theta=10_000.0, max_seq_len=64)
    ids = torch.arange(128).view(2, 64) % 50
    found = []
    for own in (True, False):
        model = Llama(config, seed=1)
        if not own:
            monkeypatch.setattr(cpu, "trains", lambda *tensors: False)
        cross_entropy_sum(model.lm_head, model.hidden(ids).flatten(0, 1), ids.flatten().roll(-1)).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-4, rtol=1e-4)


def test_where_they_step_aside():
    x, weight = draw(2, 4), torch.nn.Parameter(draw(3, 4))
    assert cpu.trains(x, weight)
    assert not cpu.trains(x.bfloat16(), weight) and not cpu.trains(x.to("meta"), weight)
    q = draw(1, 2, 600, 8)
    assert not cpu.attends(q, q, q, None)  # rows this long keep no shares
    with torch.no_grad():
        assert not cpu.trains(x, weight)
