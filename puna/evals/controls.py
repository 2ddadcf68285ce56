"""Controls that show a model the medium of another item: which other item stands for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np


def others(kinds: Sequence[Hashable], references: Sequence[object], rng: np.random.Generator) -> list[int]:
    """For each item another one of its kind with another reference, by its number.

    Where all of a kind have one reference it is any other one. An item that is alone keeps its own medium, which favours the
    control.
    """
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for i, kind in enumerate(kinds):
        alike[kind].append(i)
    differ = {kind: len({str(references[i]) for i in found}) > 1 for kind, found in alike.items()}

    def other(i: int) -> int:
        found = alike[kinds[i]]
        while len(found) > 1:
            j = found[int(rng.integers(len(found)))]
            if j != i and (references[j] != references[i] or not differ[kinds[i]]):
                return j
        return i

    return [other(i) for i in range(len(kinds))]
