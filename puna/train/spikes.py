"""Steps that are left out: a loss or gradient that is not finite, or one far above the last ones.

The paper reports a run with few loss spikes and no interventions for divergence (section 3.3.4). Where they come all the same,
leaving out the step before it touches the weights, by a rule that every process follows from the same numbers, needs no restart
and is the same again on resume.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

LEAST_STEPS = 16  # before so many steps nothing is called a spike


@dataclass
class Spikes:
    """The last losses and gradient norms of a run, and what is too far from them.

    Attributes:
        deviations: standard deviations above the mean from which a step is left out; None: only what is not finite.
        window: steps that mean and deviation are taken over; steps left out are not among them.
        losses, norms: of the last steps, part of the training state.
    """

    deviations: float | None
    window: int
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def reason(self, loss: float, norm: float) -> str | None:
        """Why this step is to be left out, or None, in which case it joins the last steps."""
        if not math.isfinite(loss + norm):
            return "its loss or gradient is not finite"
        if self.deviations is not None:
            for name, value, last in (("loss", loss, self.losses), ("gradient norm", norm, self.norms)):
                if len(last) >= LEAST_STEPS and value > (limit := self._limit(last)):
                    above = f"{self.deviations:g} deviations above the last {len(last)} steps"
                    return f"its {name} {value:.4g} is over {limit:.4g}, {above}"
            self.losses = [*self.losses, loss][-self.window :]
            self.norms = [*self.norms, norm][-self.window :]
        return None

    def _limit(self, last: list[float]) -> float:
        assert self.deviations is not None  # asked only with a limit
        return statistics.fmean(last) + self.deviations * statistics.pstdev(last)
