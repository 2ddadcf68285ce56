"""The CPU's own passes compute what the plain operations do, forward and backward, and step aside where they do not hold."""

import pytest
import torch
import torch.nn.functional as F

from puna.model import cpu
from puna.model.attention import additive, document_mask
from puna.model.config import ModelConfig
from puna.model.llama import Llama, Rope, rotate
from puna.train.objectives import cross_entropy_sum
from puna.train.parallel.recompute import recompute_blocks


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def assert_same(own, plain, *inputs):
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
    assert_same(cpu.linear, F.linear, x, gate)
    assert_same(lambda x, w: cpu.rms_norm(x, w, 1e-5), lambda x, w: F.rms_norm(x, w.shape, w, 1e-5), x, draw(24))
    assert_same(cpu.swiglu, lambda x, g, u, d: F.linear(F.silu(F.linear(x, g)) * F.linear(x, u), d), x, gate, up, down)


def unlike_rows(length: int) -> torch.Tensor:
    """Two rows: one document, and six."""
    return torch.stack([torch.zeros(length, dtype=torch.int64), torch.arange(length) * 6 // length])


def test_rows_of_other_documents_are_taken_apart():
    mask = additive(document_mask(unlike_rows(384)), torch.float32)
    one = [(0, 1, a, a + 64, 0, a + 64) for a in range(0, 384, 64)]
    six = [(1, 2, a, a + 64, a, a + 64) for a in range(0, 384, 64)]
    assert cpu._stretches(2, 384, mask) == one + six
    assert cpu._stretches(2, 384, mask[:1]) == [(0, 2, *stretch[2:]) for stretch in one]  # alike: together
    short = additive(document_mask(unlike_rows(192)), torch.float32)
    assert len(cpu._stretches(2, 192, short)) == 3  # too short to be worth it


@pytest.mark.parametrize("length, heads, kv_heads", [(256, 4, 2), (100, 3, 3), (300, 4, 1), (33, 2, 2)])
@pytest.mark.parametrize("kind", ["causal", "documents", "unlike", "all", "shared"])
def test_attention_in_blocks_is_attention(length, heads, kv_heads, kind):
    x, weights = draw(2, length, 24), [draw(n * 16, 24, seed=n) / 5 for n in (heads, kv_heads, kv_heads)]
    documents = (draw(2, length) > 1.5).cumsum(1)
    documents[:, -4:] = -1
    mask = {
        "causal": None,
        "documents": additive(document_mask(documents), torch.float32),
        "unlike": additive(document_mask(unlike_rows(length)), torch.float32),
        "all": torch.zeros(2, 1, length, length),
        "shared": draw(1, 1, length, length),
    }[kind]
    rotation = Rope(16, 10_000.0, None)(length, None, x.device)
    assert cpu.attends(x, mask, heads)

    def plain(x, *weights):
        q, k, v = (F.linear(x, weight).view(2, length, -1, 16) for weight in weights)
        q, k, v = (part.transpose(1, 2) for part in (rotate(q, rotation), rotate(k, rotation), v))
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)
        return y.transpose(1, 2).flatten(2)

    assert_same(lambda x, *weights: cpu.self_attention(x, weights, rotation, mask), plain, x, *weights)


def test_what_is_frozen_gets_no_gradient():
    x, weight = draw(2, 3, 8), draw(6, 8)
    cpu.linear(x, weight.requires_grad_()).sum().backward()
    assert x.grad is None and weight.grad.shape == (6, 8)
    own, frozen = draw(8, 8).requires_grad_(), draw(8, 8, seed=1)
    cpu.self_attention(draw(1, 40, 8), (own, frozen, frozen), Rope(8, 10_000.0, None)(40, None, x.device), None).sum().backward()
    assert frozen.grad is None and own.grad.shape == (8, 8)
    norm, states = torch.ones(8), draw(4, 8).requires_grad_()
    cpu.rms_norm(states, norm, 1e-5).sum().backward()
    assert norm.grad is None and states.grad.shape == (4, 8)


def gradients(monkeypatch, own, dtype=torch.float32, how="none"):
    """Loss and gradients of a small model, by our passes or by torch's."""
    config = ModelConfig(vocab_size=50, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=72, rope_theta=10_000.0, max_seq_len=64)
    ids = torch.arange(128).view(2, 64) % 50
    model = Llama(config, seed=1)
    recompute_blocks(model.model.layers, how)
    if not own:
        monkeypatch.setattr(cpu, "trains", lambda *tensors: False)
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        loss = cross_entropy_sum(model.lm_head, model.hidden(ids).flatten(0, 1), ids.flatten().roll(-1))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def test_the_model_is_the_same_either_way(monkeypatch):
    loss, own = gradients(monkeypatch, True)
    expected, plain = gradients(monkeypatch, False)
    torch.testing.assert_close(loss, expected)
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("how", ["selective", "full"])
def test_recomputed_it_is_the_same(monkeypatch, onednn, how):
    monkeypatch.setattr(cpu, "_by_onednn", lambda dtype: onednn and cpu.ONEDNN)
    _, kept = gradients(monkeypatch, True)
    _, again = gradients(monkeypatch, True, how=how)
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5)


def test_in_bf16_it_is_as_near_as_autocast_is(monkeypatch):
    loss, own = gradients(monkeypatch, True, torch.bfloat16)
    exact_loss, exact = gradients(monkeypatch, False)
    _, autocast = gradients(monkeypatch, False, torch.bfloat16)
    assert float(loss) == pytest.approx(float(exact_loss), rel=1e-3)

    def error(found):
        return sum(float((found[name] - exact[name]).norm()) for name in exact) / sum(float(g.norm()) for g in exact.values())

    assert all(gradient.dtype == torch.float32 for gradient in own.values())
    assert error(own) < max(0.02, 1.2 * error(autocast))


def test_where_they_step_aside(monkeypatch):
    x, weight = draw(2, 4), torch.nn.Parameter(draw(3, 4))
    assert cpu.trains(x, weight) and cpu.trains(x.bfloat16(), weight)
    assert not cpu.trains(x.double(), weight) and not cpu.trains(x.to("meta"), weight)
    rows = draw(1, 600, 8)
    assert cpu.attends(rows, None, 2) and not cpu.attends(rows, None, 100)  # too many shares to keep
    assert cpu.attends(rows, additive(document_mask(torch.arange(600)[None] // 60), torch.float32), 100)  # a mask hides most
    assert not cpu.attends(rows, torch.zeros(1, 600, 600), 2)
    assert not cpu.attends(rows, torch.zeros(1, 2, 600, 600), 2)  # a mask of its own for each head
    with torch.no_grad():
        assert not cpu.trains(x, weight)
