"""Which recordings make a step: such of like duration, so that little of a padded batch is padding.

Recordings come in a new order each epoch. The next few steps' worth of them are sorted by duration, cut into batches, and the
batches shuffled; so the steps are a pure function of the seed, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable

from puna.core.errors import InputError
from puna.core.rng import numpy_stream
from puna.train.packing import epochs


class DurationBuckets:
    """The recordings of each step: `self(step)`.

    Args:
        seconds: of a recording by its number; 0 for one that is left out.
        count: how many there are.
        rows: recordings of a step at most. most_seconds: of a step, every recording as long as its longest.
        window: steps whose recordings are sorted together.
    """

    def __init__(
        self, seconds: Callable[[int], float], count: int, seed: int, *, rows: int, most_seconds: float, window: int
    ):  # fmt: skip
        self.seconds, self.count, self.seed = seconds, count, seed
        self.rows, self.most_seconds, self.window = rows, most_seconds, window
        if not count:
            raise self._nothing()
        self._order = epochs(count, seed)
        self._plans: list[list[int]] = []
        self._waiting: list[int] = []
        self._drawn, self._windows = 0, 0

    def __call__(self, step: int) -> list[int]:
        """Numbers of the recordings of a step, the shortest first."""
        while len(self._plans) <= step:
            self._plans += self._next_window()
        return self._plans[step]

    def _next_window(self) -> list[list[int]]:
        """Draw, sort, cut and shuffle; what does not fill a batch waits for the next window."""
        found, passed = self._waiting, 0
        while len(found) < self.rows * self.window:
            i = self._order[self._drawn]
            self._drawn += 1
            usable = 0 < self.seconds(i) <= self.most_seconds
            passed = 0 if usable else passed + 1
            if passed == 2 * self.count - 1:  # among so many draws in a row lies a whole epoch
                raise self._nothing()
            if usable:
                found.append(i)
        batches: list[list[int]] = [[]]
        for i in sorted(found, key=self.seconds):
            full = len(batches[-1]) == self.rows or (len(batches[-1]) + 1) * self.seconds(i) > self.most_seconds
            if full and batches[-1]:
                batches.append([])
            batches[-1].append(i)
        self._waiting = batches.pop() if len(batches) > 1 and len(batches[-1]) < self.rows else []
        order = numpy_stream(self.seed, "buckets", self._windows).permutation(len(batches))
        self._windows += 1
        return [batches[at] for at in order]

    def _nothing(self) -> InputError:
        return InputError(f"none of {self.count} rows has sound of at most {self.most_seconds:g} seconds and text to learn",
                          fix="raise batch_seconds and length, or check the rows")  # fmt: skip


def share_of(plan: list[int], rank: int, world: int, micro_rows: int | None) -> list[list[tuple[int, int]]]:
    """A process's part of a step as micro-batches of (place in the step, recording), as many for every process.

    Those of a process for which nothing is left are empty.
    """
    placed = list(enumerate(plan))
    mine, most = placed[rank::world], -(-len(placed) // world)
    size = micro_rows or max(1, most)
    return [mine[start : start + size] for start in range(0, max(1, most), size)]
