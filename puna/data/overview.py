"""What the report shows of a curation beside its funnel: histograms of signals, and domains.

Counted right after a shard was decided, by the process that did it, from the files that it wrote: they are still in memory, and
nothing of it is needed to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.data.domains import shard_domains, write_domains
from puna.data.histograms import shard_histograms, write_histograms
from puna.data.signals import Limits
from puna.data.thresholds import Threshold

Count = dict[str, Any]


def decided_and_counted(
    name: str, *, decide: Callable[[str], Count], out: Path, limits: Mapping[str, Limits], others: Sequence[Threshold]
) -> Count:
    """Decide on a shard and count what it holds.

    Args:
        decide: writes `annotations/`, `documents/` and `dropped/` of a shard under `out`, and returns its count.
        limits: quality limits of every group.
        others: thresholds that hold for every group.

    Returns:
        The count, with `histograms` and `domains` (JSON values of those modules).
    """
    count = decide(name)
    return count | {"histograms": shard_histograms(name, out, limits, others), "domains": shard_domains(name, out)}


def write_overview(out: Path, counts: Sequence[Count]) -> None:
    """Write `histograms.json` and `domains.json` of a curation whose folders are in place."""
    write_histograms(out, [count["histograms"] for count in counts])
    write_domains(out, [count["domains"] for count in counts])
