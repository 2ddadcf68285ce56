"""`domains.json`: which hosts gave pages, and how many of them were kept; a bad host shows as a whole before its pages do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puna.core.store import write_json
from puna.data.columns import read_table

HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/@]*@)?(?:www\.)?(?P<host>[^/?#:]+)"
NO_HOST = "(no host)"
LISTED = 50  # hosts in each list
PER_SHARD = 2000  # hosts that one shard reports, the largest; beyond them counts are too small to be listed


def shard_domains(name: str, out: Path) -> dict[str, list[int]]:
    """Pages and kept pages by host of one shard, from the address of every document under `out`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = [read_table(out / folder / name, ["url"])["url"] for folder in ("documents", "dropped")]
    urls = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())
    keep = np.arange(len(urls)) < len(parts[0])
    hosts = pc.fill_null(pc.utf8_lower(pc.struct_field(pc.extract_regex(urls, HOST), "host")), NO_HOST)
    table = pa.table({"host": hosts, "pages": np.ones(len(keep), dtype=np.int64), "kept": keep.astype(np.int64)})
    sums = pa.TableGroupBy(table, ["host"], use_threads=False).aggregate([("pages", "sum"), ("kept", "sum")])
    rows = sorted(zip(*(column.to_pylist() for column in sums.select(["host", "pages_sum", "kept_sum"]).columns), strict=True),
                  key=lambda row: (-row[1], row[0]))  # fmt: skip
    return {host: [pages, kept] for host, pages, kept in rows[:PER_SHARD]}


def write_domains(out: Path, shards: Iterable[Mapping[str, Sequence[int]]]) -> None:
    """Add up the hosts of every shard and write `domains.json`: {hosts, in: [{domain, pages, kept}], out: the same}.

    `in` lists the hosts with most kept pages, `out` those with most dropped ones.
    """
    total: dict[str, list[int]] = {}
    for part in shards:
        for host, (pages, kept) in part.items():
            known = total.setdefault(host, [0, 0])
            known[0], known[1] = known[0] + pages, known[1] + kept
    rows: list[dict[str, Any]] = [{"domain": host, "pages": pages, "kept": kept} for host, (pages, kept) in sorted(total.items())]
    inside = sorted((row for row in rows if row["kept"]), key=lambda row: -row["kept"])[:LISTED]
    gone = sorted((row for row in rows if row["kept"] < row["pages"]), key=lambda row: row["kept"] - row["pages"])[:LISTED]
    write_json(out / "domains.json", {"hosts": len(rows), "in": inside, "out": gone})
