"""Interruptions and checkpoint intervals against the paper's numbers and a simulated run."""

import random

import pytest

from puna.model.config import PRESETS
from puna.plan.failures import daly, reliability, seconds_between_interruptions, young

B405 = PRESETS["llama3.1-405b"]


def test_interruptions_are_the_paper_s():
    hours = seconds_between_interruptions(16_384) / 3600
    assert hours == pytest.approx(54 * 24 / 419) == pytest.approx(3.09, abs=0.01)
    assert seconds_between_interruptions(8_192) == pytest.approx(2 * hours * 3600)


def test_intervals_of_young_and_daly():
    assert young(50, 10_000) == pytest.approx(1000)
    assert daly(50, 10_000) == pytest.approx(1000 * (1 + 0.05 / 3 + 0.0025 / 9) - 50)
    assert daly(300, 100) == 100


def simulated(write, mtti, restart, interval, work=3e6, seed=0):
    """Elapsed seconds per useful second of a run with interruptions at random."""
    draw, elapsed, done = random.Random(seed), 0.0, 0.0
    until = draw.expovariate(1 / mtti)
    while done < work:
        if until >= interval + write:
            until -= interval + write
            elapsed += interval + write
            done += interval
        else:
            elapsed += until + restart
            until = draw.expovariate(1 / mtti)
    return elapsed / done


def test_daly_s_interval_loses_least_in_a_simulated_run():
    best = daly(60, 5000)
    at = {factor: simulated(60, 5000, 0, factor * best) for factor in (0.4, 1, 2.5)}
    assert at[1] < at[0.4] and at[1] < at[2.5]


def test_405b_is_useful_for_more_than_nine_tenths_of_the_time():
    found = reliability(16_384, 12 * B405.parameters())
    assert found.write == pytest.approx(2.435, abs=0.01)  # 4.87 TB at 2 TB/s
    assert found.interval == pytest.approx(231, abs=3)
    assert 0.9 < found.useful < 0.95  # the paper: more than 90 %
    assert found.useful == pytest.approx(1 / simulated(found.write, found.mtti, 600, found.interval, work=2e7), abs=0.01)
