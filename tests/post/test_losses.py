"""The losses of post-training by hand, by brute force, and against TRL."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.post.losses import bradley_terry, clipped_policy, dense_kl, dpo, group_advantages, k3, top_k_kl, top_k_log_probs


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


def test_ipo_and_simpo_by_hand():
    policy, reference = ([-6.0, -8.0], [-7.0, -3.0]), ([-6.5, -6.0], [-6.0, -3.5])
    tokens = torch.tensor([3.0, 4.0], dtype=torch.float64), torch.tensor([2.0, 5.0], dtype=torch.float64)
    logps = [_values(*side) for side in (*policy, *reference)]
    shifts = [(0.5 / 3, -1.0 / 2), (-2.0 / 4, 0.5 / 5)]
    found = dpo(*logps, beta=0.2, kind="ipo", tokens=tokens)
    assert found.loss.item() == pytest.approx(sum((c - r - 2.5) ** 2 for c, r in shifts))
    assert found.margin.item() == pytest.approx(0.2 * sum(c - r for c, r in shifts))
    assert found.chosen_shift.item() == pytest.approx(sum(c for c, _ in shifts)) and found.correct.item() == 1
    means = [(-6.0 / 3, -7.0 / 2), (-8.0 / 4, -3.0 / 5)]
    found = dpo(*logps[:2], None, None, beta=2.0, kind="simpo", tokens=tokens, gamma=0.7)
    assert found.loss.item() == pytest.approx(sum(math.log1p(math.exp(0.7 - 2 * (c - r))) for c, r in means))
    assert found.rejected_shift.item() == pytest.approx(sum(r for _, r in means)) and found.correct.item() == 1


def test_ipo_is_done_at_its_margin():
    """At d = 1 / (2 beta) the loss and its gradient are zero; sigmoid goes on."""
    chosen, tokens = _values(-1.0), (torch.tensor([2.0]), torch.tensor([2.0]))
    others = torch.tensor([-7.0]), torch.tensor([-2.0]), torch.tensor([-2.0])  # d = (1 + 5) / 2 = 3
    found = dpo(chosen, *others, beta=1 / 6, kind="ipo", tokens=tokens)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(0, abs=1e-12) and chosen.grad.abs().max() < 1e-6
    assert dpo(chosen, *others, beta=1 / 6).loss.item() > 0.1


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


DIVERGENCES = [("forward", 0.5), ("reverse", 0.5), ("jensen-shannon", 0.5), ("jensen-shannon", 0.1), ("jensen-shannon", 0.9)]


@pytest.mark.parametrize(("kind", "weight"), DIVERGENCES)
def test_dense_kl_by_its_definition(kind: str, weight: float):
    teacher, student = 2 * torch.randn(2, 5, 9)
    p, q = teacher.double().softmax(-1), student.double().softmax(-1)
    m = weight * p + (1 - weight) * q
    kl = lambda a, b: float((a * (a / b).log()).sum())  # noqa: E731
    expected = {"forward": kl(p, q), "reverse": kl(q, p), "jensen-shannon": weight * kl(p, m) + (1 - weight) * kl(q, m)}[kind]
    loss, tokens = dense_kl(student, teacher, kind, weight)
    assert tokens == 5 and loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("kind", "weight"), DIVERGENCES)
def test_dense_kl_of_equals_is_zero_with_zero_gradient(kind: str, weight: float):
    teacher = 3 * torch.randn(6, 11)
    student = teacher.clone().requires_grad_()
    loss, _ = dense_kl(student, teacher, kind, weight)
    loss.backward()
    assert abs(loss.item()) < 1e-5 and student.grad.abs().max() < 1e-6


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(DIVERGENCES), st.integers(0, 10_000), st.floats(1e-3, 30))
def test_dense_kl_is_never_negative_and_jensen_shannon_bounded(divergence: tuple[str, float], seed: int, scale: float):
    teacher, student = scale * torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(seed))
    found = dense_kl(student, teacher, *divergence)[0].item()
    assert found >= -1e-5
    if divergence[0] == "jensen-shannon":
        assert found <= 4 * math.log(2) + 1e-4


def test_forward_kl_is_that_of_all_top_k():
    teacher, student = torch.randn(2, 5, 9)
    assert dense_kl(student, teacher)[0].item() == pytest.approx(
        top_k_kl(student, *top_k_log_probs(teacher, 9))[0].item(), rel=1e-5
    )


def test_advantages_are_in_deviations_of_their_own_group():
    found = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    torch.testing.assert_close(found[0], torch.tensor([3.0, -1.0, -1.0, -1.0]) / math.sqrt(3))
    assert found[1].tolist() == [1.0, 1.0, -1.0, -1.0] and found[2].tolist() == [0.0] * 4


def test_clipping_takes_the_gradient_where_the_ratio_has_gone_far_enough():
    """Ratios 1.5 and 0.5, both signs: what moved the right way too far has no gradient, what moved the wrong way keeps it."""
    ratios, advantages = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0]), torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0])
    logps = ratios.log().requires_grad_()
    loss, clipped = clipped_policy(logps, torch.zeros(5), advantages, clip=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-(1.2 * 2 - 1.5 * 2 + 0.5 * 2 - 0.8 * 2 + 2)) and clipped.item() == 2
    torch.testing.assert_close(logps.grad, torch.tensor([0.0, 3.0, -1.0, 0.0, -2.0]))


def test_k3_is_an_unbiased_kl_that_is_never_negative():
    policy, reference = 0.7 * torch.randn(2, 400, dtype=torch.float64)
    log_p, log_q = F.log_softmax(policy, 0), F.log_softmax(reference, 0)
    expected = sum(float(p.exp() * k3(p[None], q[None])) for p, q in zip(log_p, log_q, strict=True))
    assert expected == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()))
    assert all(k3(p[None], q[None]) >= 0 for p, q in zip(log_p, log_q, strict=True))
    same = policy.clone().requires_grad_()
    k3(same, policy).backward()
    assert same.grad.abs().max() == 0
