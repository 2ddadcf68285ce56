"""One declarative schedule: learning rate, batch size, sequence length and data mix as functions of the step alone.

Because nothing here has state, a resumed run needs one integer. The learning-rate shapes are the paper's cosine with linear
warm-up (section 3.4.1), its linear decay to zero (3.4.3), and warm-up / stable / decay, which small runs prefer because their
length can be changed late. The batch ramp (4M tokens, then 8M after 252M tokens, then 16M after 2.87T; section 3.4.1) and
changes of sequence length or mix are `phases` that begin after a number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from puna.core.settings import Settings, Share


class LearningRate(Settings):
    """Shape of the learning rate, as a factor of the peak that the optimiser's settings give.

    `warmup` is a number of steps, or a fraction of them when below 1; `decay` is the last fraction of the steps in which
    "wsd" falls; `final` is the factor reached after the last step.
    """

    shape: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    warmup: NonNegativeFloat = 0.02
    decay: Share = 0.3
    final: NonNegativeFloat = 0.03

    def factor(self, step: int, steps: int) -> float:
        """Factor of step `step` (from 0) of `steps`."""
        warmup = self.warmup if self.warmup >= 1 else self.warmup * steps
        rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
        return rise * (self.final + (1 - self.final) * self._fall(step, steps, warmup))

    def _fall(self, step: int, steps: int, warmup: float) -> float:
        if self.shape == "constant":
            return 1.0
        if self.shape == "wsd":
            return min(1.0, (steps - step) / (self.decay * steps)) if self.decay > 0 else 1.0
        done = min(1.0, max(0.0, (step - warmup) / max(1.0, steps - warmup)))
        return 1 - done if self.shape == "linear" else 0.5 * (1 + math.cos(math.pi * done))


class Phase(Settings):
    """From `after_tokens` seen tokens on: another batch size, sequence length or mix (what is None stays as it was)."""

    after_tokens: PositiveInt
    batch_tokens: PositiveInt | None = None
    seq_len: PositiveInt | None = None
    mix: dict[str, NonNegativeFloat] | None = None


class Batching(Settings):
    """What one optimiser step reads: `batch_tokens` tokens in rows of `seq_len`, groups weighted by `mix` (None: the data's)."""

    batch_tokens: PositiveInt
    seq_len: PositiveInt
    mix: dict[str, NonNegativeFloat] | None = None

    @property
    def rows(self) -> int:
        """Rows of an optimiser step over all ranks, at least one."""
        return max(1, self.batch_tokens // self.seq_len)


def check_rows(batch_tokens: int, seq_len: int | None, phases: Sequence[Phase] = ()) -> None:
    """ValueError when the tokens of an optimiser step do not fill one row, at the start or in a phase; None: not known yet."""
    for phase in (None, *phases):
        if phase is not None:
            batch_tokens, seq_len = phase.batch_tokens or batch_tokens, phase.seq_len or seq_len
        if seq_len is not None and batch_tokens < seq_len:
            raise ValueError(f"batch_tokens {batch_tokens} is less than one row of seq_len {seq_len}")


class Schedule(Settings):
    """`steps` optimiser steps. Steps `first ... first + steps` of a longer curve of `of` steps when a run is done in parts.

    Objectives that bring their own batches (dialogs, pairs) leave `batching` out.
    """

    steps: PositiveInt
    lr: LearningRate = LearningRate()
    batching: Batching | None = None
    phases: tuple[Phase, ...] = ()
    first: NonNegativeInt = 0
    of: PositiveInt | None = None

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        starts = [phase.after_tokens for phase in self.phases]
        if starts != sorted(set(starts)):
            raise ValueError("phases must begin after a growing number of tokens")
        if self.phases and self.batching is None:
            raise ValueError("phases change the batching, so a batching must be given")
        return self

    def lr_factor(self, step: int) -> float:
        """Factor of the peak learning rate at `step` of this schedule."""
        return self.lr.factor(self.first + step, self.of or self.steps)

    @cached_property
    def segments(self) -> tuple[tuple[int, Batching], ...]:
        """(first step, batching) of each stretch with a constant batching; a phase begins with the next whole step."""
        if self.batching is None:
            return ()
        found = [(0, self.batching)]
        step, tokens = 0, 0
        for phase in self.phases:
            now = found[-1][1]
            wait = math.ceil((phase.after_tokens - tokens) / (now.rows * now.seq_len))
            step, tokens = step + wait, tokens + wait * now.rows * now.seq_len
            found.append((step, now.model_copy(update=phase.model_dump(exclude={"after_tokens"}, exclude_none=True))))
        return tuple((start, batching) for start, batching in found if start < self.steps)

    def batching_at(self, step: int) -> Batching:
        """The batching in force at `step`."""
        return [batching for start, batching in self.segments if start <= step][-1]

    def tokens_before(self, step: int) -> int:
        """Tokens (row positions) read by the steps before `step`."""
        ends = [start for start, _ in self.segments[1:]] + [max(step, self.steps)]
        return sum(
            max(0, min(step, end) - start) * batching.rows * batching.seq_len
            for (start, batching), end in zip(self.segments, ends, strict=True)
        )
