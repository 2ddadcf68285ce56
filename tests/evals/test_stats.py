"""Statistics against published values, closed forms and brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.evals.stats import bootstrap, bootstrap_ratio, mcnemar, paired, rate, wilson


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
    spread = math.sqrt((4 / 10 - 0.04) / 10)
    assert (result.low, result.high) == (pytest.approx(0.2 - 1.959964 * spread), pytest.approx(0.2 + 1.959964 * spread))
    assert result.p == pytest.approx(2 * (1 + 4) / 16)
    assert paired(control, better).difference == pytest.approx(-0.2)
    assert paired([], []).p == 1.0
    with pytest.raises(ValueError, match="unequal"):
        paired([True], [])


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
