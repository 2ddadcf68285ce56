"""Shards one after the other in this process: what tests compare with, and what every worker of another back end does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def map_serial(function: Callable[[Any], Any], shards: Sequence[Any], done: Callable[[int], None] | None) -> list[Any]:
    """Results in the order of the shards; `done` hears the count after each."""
    results = []
    for shard in shards:
        results.append(function(shard))
        if done:
            done(len(results))
    return results
