"""Statistics against published values, closed forms and brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core.intervals import bounded_mean, paired_difference, wilson
from puna.evals.stats import bootstrap, bootstrap_ratio, mcnemar, paired, rate


def test_wilson_published_values():
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(7, 7)[1] == 1.0


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_the_score_equation(case):
    """|k/n - p| = z sqrt(p (1 - p) / n) at both ends: the definition of the interval."""
    passed, n = case
    for p in wilson(passed, n):
        if 0 < p < 1:
            assert abs(passed / n - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / n), abs=1e-6)


def test_mcnemar_brute_force():
    for wins, losses in itertools.product(range(9), range(9)):
        n = wins + losses
        outcomes = [sum(bits) for bits in itertools.product((0, 1), repeat=n)] if n <= 12 else None
        if outcomes is not None:
            extreme = sum(abs(2 * k - n) >= abs(wins - losses) for k in outcomes)
            assert mcnemar(wins, losses) == pytest.approx(extreme / 2**n)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(900, 700) == pytest.approx(6.4e-7, rel=0.1)  # normal approximation with continuity correction


def test_paired_by_hand():
    better = [True] * 6 + [False] * 4
    control = [True] * 3 + [False] * 6 + [True]
    result = paired(better, control)
    assert (result.wins, result.losses, result.difference) == (3, 1, pytest.approx(0.2))
    assert (result.low, result.high) == paired_difference(3, 1, 10)
    assert result.p == pytest.approx(2 * (1 + 4) / 16)
    assert paired(control, better).difference == pytest.approx(-0.2)
    assert paired([], []).p == 1.0
    with pytest.raises(ValueError, match="unequal"):
        paired([True], [])


def test_paired_interval_published_values():
    """Airway reactivity of 21 children, 7 pairs against 1 (Fagerland, Lydersen, Laake 2014, Statistics in Medicine 33)."""
    assert paired_difference(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert paired_difference(7, 1, 21) == pytest.approx((0.026, 0.517), abs=5e-4)


def likeliest_losses(wins, losses, n, difference):
    """Share of losses that makes the counts most likely, by search: the likelihood has one top."""
    low, high = max(0.0, -difference), (1 - difference) / 2

    def log_likelihood(lost):
        cells = ((wins, lost + difference), (losses, lost), (n - wins - losses, 1 - 2 * lost - difference))
        return sum(count * math.log(max(share, 1e-300)) for count, share in cells if count)

    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (left, high) if log_likelihood(left) < log_likelihood(right) else (low, right)
    return (low + high) / 2


@given(st.integers(1, 120).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_paired_interval_ends_are_just_not_rejected(case):
    """The score at both ends is 1.96 with the nuisance share found by search, and the ends never leave the range."""
    wins, losses, n = case
    losses = min(losses, n - wins)
    low, high = paired_difference(wins, losses, n)
    assert -1.0 <= low <= (wins - losses) / n <= high <= 1.0
    for end in (low, high):
        if abs(end) < 0.999:
            lost = likeliest_losses(wins, losses, n, end)
            score = (wins - losses - n * end) / math.sqrt(n * (2 * lost + end * (1 - end)))
            assert abs(score) == pytest.approx(1.959964, abs=1e-3)
    excluded = abs(wins - losses) > 1.9599640 * math.sqrt(wins + losses)  # McNemar's test
    assert (low > 0 or high < 0) == excluded or abs(abs(wins - losses) / math.sqrt(wins + losses) - 1.95996) < 1e-4


def test_paired_interval_at_the_edge_of_the_range():
    z2 = 1.959964**2
    assert paired_difference(60, 0, 60) == (pytest.approx((60 - z2) / (60 + z2), abs=1e-6), 1.0)
    assert paired_difference(0, 0, 10) == pytest.approx((-z2 / (10 + z2), z2 / (10 + z2)), abs=1e-6)
    assert paired_difference(0, 0, 0) == (-1.0, 1.0)


def test_mean_of_bounded_values_is_wilsons_for_passes_and_tightens_with_less_spread():
    assert bounded_mean([1.0] * 3 + [0.0]) == pytest.approx(wilson(3, 4))
    assert bounded_mean([1.0] * 9)[1] == 1.0 and bounded_mean([]) == (0.0, 1.0)
    values = list(np.random.default_rng(0).uniform(0.4, 0.6, 2000))
    half = 1.959964 * np.std(values) / math.sqrt(2000)
    assert bounded_mean(values) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=1e-5)
    low, high = bounded_mean([1.0, 1.0, 0.9], least=-1.0)
    assert -1.0 < low < 0.9 and high <= 1.0
    assert bounded_mean([0.5] * 4) == pytest.approx(wilson(2, 4))  # equal values say nothing of spread: that of passes is taken


def test_bootstrap_is_repeatable_and_covers_like_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = bootstrap(values, seed=1)
    half = 1.96 * values.std() / 20
    assert (low, high) == bootstrap(values, seed=1) != bootstrap(values, seed=2)
    assert low == pytest.approx(values.mean() - half, abs=0.05) and high == pytest.approx(values.mean() + half, abs=0.05)


def test_bootstrap_ratio_of_proportional_units_is_exact():
    assert bootstrap_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], seed=0) == (pytest.approx(2.0), pytest.approx(2.0))


def test_rate_of_nothing_has_no_accuracy():
    assert rate(0, 0) == {"passed": 0, "n": 0, "accuracy": None, "low": 0.0, "high": 1.0}
    assert rate(3, 4)["accuracy"] == 0.75
