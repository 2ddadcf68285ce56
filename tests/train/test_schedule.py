"""Schedule values against their closed forms."""

import math

import pytest
from pydantic import ValidationError

from puna.train.schedule import Batching, LearningRate, Phase, Schedule


def test_warmup_cosine_is_the_papers():
    """8,000 steps of warm-up, cosine over 1,200,000 steps from 8e-5 to 8e-7 (section 3.4.1)."""
    schedule = Schedule(steps=1_200_000, lr=LearningRate(shape="cosine", warmup=8000, final=0.01))
    assert schedule.lr_factor(0) == pytest.approx(1 / 8000)
    assert schedule.lr_factor(3999) == pytest.approx(0.5, rel=1e-6)
    assert schedule.lr_factor(8000) == pytest.approx(1.0)
    middle = 8000 + (1_200_000 - 8000) // 2
    assert schedule.lr_factor(middle) == pytest.approx(0.01 + 0.99 * 0.5)
    assert schedule.lr_factor(1_200_000) == pytest.approx(0.01)


def test_linear_reaches_zero_after_the_last_step():
    schedule = Schedule(steps=100, lr=LearningRate(shape="linear", warmup=0, final=0.0))
    assert [schedule.lr_factor(s) for s in (0, 50, 99)] == pytest.approx([1.0, 0.5, 0.01])


def test_wsd_and_constant():
    schedule = Schedule(steps=1000, lr=LearningRate(shape="wsd", warmup=0.02, decay=0.3, final=0.03))
    assert schedule.lr_factor(9) == pytest.approx(10 / 20)
    assert schedule.lr_factor(20) == schedule.lr_factor(699) == schedule.lr_factor(700) == 1.0
    assert schedule.lr_factor(850) == pytest.approx(0.03 + 0.97 * 0.5)
    assert schedule.lr_factor(1000) == pytest.approx(0.03)
    constant = Schedule(steps=10, lr=LearningRate(shape="constant", warmup=2))
    assert [constant.lr_factor(s) for s in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_a_curve_in_parts_is_the_curve():
    lr = LearningRate(shape="cosine", warmup=10, final=0.1)
    whole = Schedule(steps=100, lr=lr)
    parts = [Schedule(steps=50, lr=lr, first=0, of=100), Schedule(steps=50, lr=lr, first=50, of=100)]
    assert [p.lr_factor(s) for p in parts for s in range(50)] == [whole.lr_factor(s) for s in range(100)]


def test_batch_ramp_by_tokens():
    """Phases as in the paper, a million times smaller: 4 then 8 after 252 then 16 after 2,870 tokens."""
    schedule = Schedule(
        steps=1000, batching=Batching(batch_tokens=4, seq_len=2, mix={"a": 1.0}),
        phases=(Phase(after_tokens=252, batch_tokens=8, seq_len=4), Phase(after_tokens=2870, batch_tokens=16, mix={"b": 1.0})),
    )  # fmt: skip
    starts = [start for start, _ in schedule.segments]
    assert starts == [0, 63, 63 + math.ceil((2870 - 252) / 8)]
    assert [(b.batch_tokens, b.seq_len, b.mix) for _, b in schedule.segments] == [
        (4, 2, {"a": 1.0}), (8, 4, {"a": 1.0}), (16, 4, {"b": 1.0}),
    ]  # fmt: skip
    assert schedule.batching_at(62).batch_tokens == 4 and schedule.batching_at(63).batch_tokens == 8
    brute = [0]
    for step in range(600):
        brute.append(brute[-1] + schedule.batching_at(step).batch_tokens)
    assert [schedule.tokens_before(s) for s in range(601)] == brute


def test_contradictions_are_refused():
    with pytest.raises(ValidationError, match="growing"):
        Schedule(steps=10, batching=Batching(batch_tokens=4, seq_len=2), phases=(Phase(after_tokens=9), Phase(after_tokens=3)))
    with pytest.raises(ValidationError, match="batching must be given"):
        Schedule(steps=10, phases=(Phase(after_tokens=9, batch_tokens=1),))
