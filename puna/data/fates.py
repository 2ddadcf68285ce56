"""What became of the same pages in two curations: who changed fate, from which reason to which.

A changed limit shows its worth here and not in totals, which hide that as many documents came as went.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.data.columns import read_table, shard_paths

if TYPE_CHECKING:
    import pyarrow as pa

KEPT, ABSENT = "kept", "not collected"
EXAMPLES = 3  # documents named for each change


def fate_changes(before: Path, after: Path) -> dict[str, Any]:
    """Compare two `documents` artifacts page by page, by id.

    Returns:
        `pages` (in either), `changed`, and `changes`: rows of before, after (a reason, `kept` or `not collected`), documents and
        examples (id and url), most documents first.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    joined = _fates(before).join(_fates(after), "id", join_type="full outer", right_suffix="_after", use_threads=False)
    columns = {name: pc.fill_null(joined[name], ABSENT) for name in ("fate", "fate_after")}
    table = pa.table({"id": joined["id"], "url": pc.coalesce(joined["url"], joined["url_after"]), **columns})
    changed = table.filter(pc.not_equal(table["fate"], table["fate_after"])).sort_by("id")
    changes = sorted(_changes(changed), key=lambda row: (-row["documents"], row["before"], row["after"]))
    return {"pages": len(table), "changed": len(changed), "changes": changes}


def _fates(documents: Path) -> pa.Table:
    """`id`, `url` and `fate` of every page of a curation; an id that comes twice counts once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = []
    for path in shard_paths(documents / "documents"):
        kept = read_table(path, ["id", "url"])
        parts.append(kept.append_column("fate", pa.array([KEPT] * len(kept), pa.string())))
    for path in shard_paths(documents / "dropped"):
        gone = read_table(path, ["id", "url", "reason"])
        parts.append(gone.select(["id", "url"]).append_column("fate", pc.cast(gone["reason"], pa.string())))
    firsts = pa.TableGroupBy(pa.concat_tables(parts), ["id"], use_threads=False).aggregate([("url", "min"), ("fate", "min")])
    return firsts.select(["id", "url_min", "fate_min"]).rename_columns(["id", "url", "fate"])


def _changes(changed: pa.Table) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    counts = pa.TableGroupBy(changed, ["fate", "fate_after"], use_threads=False).aggregate([("id", "count")])
    for row in counts.to_pylist():
        same = pc.and_(pc.equal(changed["fate"], row["fate"]), pc.equal(changed["fate_after"], row["fate_after"]))
        examples = changed.filter(same).slice(0, EXAMPLES).select(["id", "url"]).to_pylist()
        yield {"before": row["fate"], "after": row["fate_after"], "documents": row["id_count"], "examples": examples}
