"""The losses of post-training by hand, by brute force, and against TRL."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.post.losses import bradley_terry, dpo, top_k_kl, top_k_log_probs


def _values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=True)


def test_dpo_by_hand():
    found = dpo(_values(-5.0, -8.0), _values(-7.0, -6.0), _values(-6.0, -8.0), _values(-6.5, -6.5), beta=0.1)
    margins = [0.1 * ((-5 + 6) - (-7 + 6.5)), 0.1 * ((-8 + 8) - (-6 + 6.5))]
    assert found.loss.item() == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins))
    assert found.pairs == 2
    assert found.correct.item() == 1
    assert found.margin.item() == pytest.approx(sum(margins))
    assert found.chosen_shift.item() == pytest.approx(1.0)
    assert found.rejected_shift.item() == pytest.approx(0.0)


def test_dpo_of_the_reference_itself_is_log_two():
    logps = torch.randn(2, 7)
    assert dpo(*logps, *logps, beta=0.3).loss.item() == pytest.approx(7 * math.log(2), rel=1e-6)


def test_dpo_swap_mirrors_the_margin():
    """L(c, r) - L(r, c) = -margin, because log sigmoid(x) - log sigmoid(-x) = x."""
    a, b, c, d = torch.randn(4, 5, dtype=torch.float64)
    there, back = dpo(a, b, c, d, beta=0.5), dpo(b, a, d, c, beta=0.5)
    assert (there.loss - back.loss).item() == pytest.approx(-there.margin.item())
    assert there.margin.item() == pytest.approx(-back.margin.item())


def test_bradley_terry_of_two_and_three():
    scores = torch.tensor([[2.0, 1.0, 0.5], [0.3, 0.9, 0.0]], dtype=torch.float64)
    present = torch.tensor([[True, True, True], [True, True, False]])
    loss, rows, correct = bradley_terry(scores, present)
    pair = lambda d: math.log1p(math.exp(-d))  # noqa: E731
    assert rows == 2
    assert loss.item() == pytest.approx((pair(1.0) + pair(1.5) + pair(0.5)) / 3 + pair(-0.6))
    assert correct.item() == pytest.approx(1.0)


def test_bradley_terry_ignores_absent_answers():
    scores = torch.tensor([[1.0, 0.0, 9.0]], requires_grad=True)
    bradley_terry(scores, torch.tensor([[True, True, False]]))[0].backward()
    assert scores.grad[0, 2] == 0
    assert scores.grad[0, 0] == pytest.approx(-torch.sigmoid(torch.tensor(-1.0)).item())


def test_kl_of_equal_models_is_zero_with_zero_gradient():
    teacher = torch.randn(6, 11, dtype=torch.float64).float()
    student = teacher.clone().requires_grad_()
    loss, tokens = top_k_kl(student, *top_k_log_probs(teacher, 4))
    loss.backward()
    assert tokens == 6
    assert abs(loss.item()) < 1e-5
    assert student.grad.abs().max() < 1e-6


def test_kl_of_all_entries_is_the_dense_kl():
    teacher, student = torch.randn(2, 5, 9)
    dense = F.kl_div(F.log_softmax(student, -1), F.log_softmax(teacher, -1), log_target=True, reduction="sum")
    assert top_k_kl(student, *top_k_log_probs(teacher, 9))[0].item() == pytest.approx(dense.item(), rel=1e-5)
    assert top_k_kl(student, *top_k_log_probs(teacher, 99))[0].item() == pytest.approx(dense.item(), rel=1e-5)


def test_kl_tail_is_one_bucket():
    """Three of five entries: the KL of the distributions in which the last two are merged."""
    teacher, student = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]]), torch.tensor([[0.5, 2.0, -1.0, 1.0, 0.3]])
    p, q = teacher.softmax(-1)[0].double(), student.softmax(-1)[0].double()
    merged = [(p[i], q[i]) for i in range(3)] + [(p[3] + p[4], q[3] + q[4])]
    expected = sum(float(a * torch.log(a / b)) for a, b in merged)
    assert top_k_kl(student, *top_k_log_probs(teacher, 3))[0].item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(0, 10_000))
def test_kl_is_never_negative_and_grows_with_k(k: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = 3 * torch.randn(2, 4, 9, generator=generator)
    coarse = top_k_kl(student, *top_k_log_probs(teacher, k))[0].item()
    dense = top_k_kl(student, *top_k_log_probs(teacher, 9))[0].item()
    assert -1e-5 <= coarse <= dense + 1e-4
