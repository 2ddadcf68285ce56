"""Output and loss in one: the values and gradients of autograd's way, whatever the chunk; targets left out count nothing."""

import pytest
import torch
import torch.nn.functional as F

from puna.train.output_loss import output_loss


def by_autograd(states, weight, targets, weights):
    losses = F.cross_entropy(states @ weight.T, targets, reduction="none", ignore_index=-100)
    return (losses if weights is None else losses * weights).sum()


@pytest.mark.parametrize("chunk", [None, 1, 5, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_autograd(chunk, weighted):
    draw = torch.Generator().manual_seed(0)
    states, weight = torch.randn(23, 8, generator=draw), torch.randn(31, 8, generator=draw)
    targets = torch.randint(0, 31, (23,), generator=draw)
    targets[[3, 7]] = -100
    weights = torch.rand(23, generator=draw) if weighted else None
    found = []
    for loss_of in (lambda *given: output_loss(*given, chunk)[0], by_autograd):
        parts = [tensor.clone().requires_grad_() for tensor in (states, weight)]
        loss = loss_of(*parts, targets, weights)
        (loss * 0.25).backward()
        found.append((loss.detach(), *(part.grad for part in parts)))
    for mine, other in zip(*found, strict=True):
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-5)


def test_extreme_logits_and_no_gradient():
    states, weight = torch.full((2, 1), 1e4), torch.tensor([[1.0], [-1.0], [0.0]])
    with torch.no_grad():
        loss, each = output_loss(states, weight, torch.tensor([0, 2]), None, None)
    assert loss == pytest.approx(1e4) and each.tolist() == pytest.approx([0, 1e4])  # nothing for the first, all for the second
