"""What the report shows of a curation beside its funnel: histograms of signals, and domains.

Counted right after a shard was decided, by the process that did it, from the files that it wrote: they are still in memory, and
nothing of it is needed to decide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.data.domains import shard_domains, write_domains
from puna.data.histograms import shard_histograms, write_histograms
from puna.data.signals import Limits
from puna.data.thresholds import Threshold

OVERVIEW = "overview"  # folder of what shards add, in the stage's scratch


def decided_and_counted(
    name: str,
    *,
    decide: Callable[[str], dict[str, Any]],
    out: Path,
    limits: Mapping[str, Limits],
    others: Sequence[Threshold],
) -> dict[str, Any]:
    """Decide on a shard and count what it holds; returns what `decide` returns.

    Args:
        decide: writes `annotations/`, `documents/` and `dropped/` of a shard under `out`.
        out: its folder `overview/` takes the counts: a corpus has too many shards to send them back and hold them.
        limits: quality limits of every group.
        others: thresholds that hold for every group.
    """
    found = decide(name)
    path = out / OVERVIEW / f"{Path(name).stem}.json"
    if not path.exists():
        counts = {"histograms": shard_histograms(name, out, limits, others), "domains": shard_domains(name, out)}
        path.with_suffix(".part").write_text(json.dumps(counts, sort_keys=True, allow_nan=False))
        path.with_suffix(".part").replace(path)  # a file that is there is whole
    return found


def write_overview(out: Path, counted: Path, names: Sequence[str]) -> None:
    """Write `histograms.json` and `domains.json` of a curation whose folders are in place.

    Args:
        counted: directory that `decided_and_counted` wrote to.
        names: of the shards.
    """
    files = [counted / OVERVIEW / f"{Path(name).stem}.json" for name in names]
    write_histograms(out, (json.loads(file.read_text())["histograms"] for file in files))
    write_domains(out, (json.loads(file.read_text())["domains"] for file in files))
