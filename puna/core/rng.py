"""Named random streams: every draw comes from (run seed, stream name), never from global state.

Two stages, two ranks or two steps cannot disturb each other's draws, which is what makes resume and re-runs exact
(the idea of named keys follows Levanter).
"""

from __future__ import annotations

import hashlib
import random

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` under `seed`."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator (PCG64) for one named stream."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))


def python_stream(seed: int, *names: str | int) -> random.Random:
    """A `random.Random` for one named stream; the cheapest for drawing words and small numbers."""
    return random.Random(derive_seed(seed, *names))
