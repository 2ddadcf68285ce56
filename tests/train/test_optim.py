"""Optimisers against torch's own and against slow forms."""

import copy

import pytest
import torch
from torch import nn

from puna.core.errors import InputError
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.train.optim import Muon, OptimSettings, build, orthogonalise

SHAPE = ModelConfig(vocab_size=20, dim=16, layers=2, heads=2, kv_heads=1, ffn_dim=32, max_seq_len=32)


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def slow_muon_step(weight, gradient, buffer, lr, momentum, decay):
    """One matrix, written as in the publication: momentum, Nesterov, five quintic steps, decoupled decay."""
    buffer.mul_(momentum).add_(gradient, alpha=1 - momentum)
    update = (1 - momentum) * gradient + momentum * buffer
    tall = update.shape[0] > update.shape[1]
    x = (update.T if tall else update) / (update.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.T if tall else x
    weight.mul_(1 - lr * decay).sub_(lr * 0.2 * max(weight.shape) ** 0.5 * x)


def test_muon_equals_the_slow_form():
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 8), (12, 5), (5, 12)]
    fast = [nn.Parameter(torch.randn(s)) for s in shapes]
    slow = [p.detach().clone() for p in fast]
    buffers = [torch.zeros(s) for s in shapes]
    optimizer = Muon(fast, lr=0.02, momentum=0.9, weight_decay=0.1)
    for _ in range(4):
        for i, parameter in enumerate(fast):
            parameter.grad = torch.randn(shapes[i])
            slow_muon_step(slow[i], parameter.grad, buffers[i], 0.02, 0.9, 0.1)
        optimizer.step()
    for one, other in zip(fast, slow, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_muon_equals_torchs_within_its_bfloat16():
    torch.manual_seed(1)
    ours, theirs = nn.Parameter(torch.randn(24, 16)), nn.Parameter(torch.empty(24, 16))
    theirs.data.copy_(ours.data)
    before = ours.detach().clone()
    mine = Muon([ours], lr=0.1, weight_decay=0.1)
    torchs = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(24, 16)
        mine.step()
        torchs.step()
    assert float(((ours - theirs).norm() / (ours - before).norm()).detach()) < 0.02


def test_orthogonalise_brings_singular_values_near_one():
    generator = torch.Generator().manual_seed(2)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 10, 30, generator=generator)))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_adamw_equals_torchs():
    ours, theirs = Llama(SHAPE, seed=1), Llama(SHAPE, seed=1)
    optimizer = build(dict(ours.named_parameters()), OptimSettings(name="adamw", lr=0.01, weight_decay=0.1))
    decayed = [p for p in theirs.parameters() if p.dim() >= 2]
    plain = [p for p in theirs.parameters() if p.dim() < 2]
    reference = torch.optim.AdamW(
        [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], 0.01, betas=(0.9, 0.95), weight_decay=0.1, foreach=False
    )
    for seed in range(3):
        gradients(ours, seed)
        gradients(theirs, seed)
        optimizer.step(0.01)
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_muon_takes_the_hidden_matrices_only():
    model = Llama(SHAPE, seed=1)
    adamw, muon = build(dict(model.named_parameters()), OptimSettings(name="muon")).parts
    names = {id(p): n for n, p in model.named_parameters()}
    by_muon = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    by_adamw = {names[id(p)] for g in adamw.param_groups for p in g["params"]}
    assert by_muon | by_adamw == set(names.values()) and not by_muon & by_adamw
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= by_adamw
    assert len(by_muon) == 2 * 7 and all("proj" in n for n in by_muon)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_round_trip_continues_to_the_bit(name):
    model = Llama(SHAPE, seed=1)
    optimizer = build(dict(model.named_parameters()), OptimSettings(name=name))
    gradients(model, 0)
    optimizer.step(0.01)
    twin = copy.deepcopy(model)
    again = build(dict(twin.named_parameters()), OptimSettings(name=name))
    again.load_state_tensors({key: value.clone() for key, value in optimizer.state_tensors().items()})
    for one in ((model, optimizer), (twin, again)):
        gradients(one[0], 1)
        one[1].step(0.02)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    with pytest.raises(InputError, match="another model"):
        again.load_state_tensors({"elsewhere.weight/exp_avg": torch.zeros(1)})
