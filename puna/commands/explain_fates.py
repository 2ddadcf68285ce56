"""The part of `puna diff` about curation: which documents two runs treated differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def add_fates(rows: list[dict[str, Any]], left: Path, right: Path) -> None:
    """Give every differing `data.curate` stage of a diff its `fates` (see `puna.data.fates.fate_changes`)."""
    from puna.core.explain import pointed
    from puna.data.fates import fate_changes

    one, two = pointed(left), pointed(right)
    for row in (row for row in rows if row["state"] == "differs"):
        pair = one[row["stage"]], two[row["stage"]]
        if all(artifact.kind == "documents" for artifact in pair):
            row["fates"] = fate_changes(pair[0].path, pair[1].path)


def lines(fates: dict[str, Any]) -> list[str]:
    """The changes of fate as text, with examples."""
    told = [f"  {fates['changed']:,} of {fates['pages']:,} pages changed fate"]
    for change in fates["changes"]:
        told.append(f"  {change['documents']:>7,}  {change['before']} -> {change['after']}")
        told += [f"           {example['url'] or example['id']}" for example in change["examples"]]
    return told
