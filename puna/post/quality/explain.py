"""Why a dialog is in or out: its row of annotations as questions and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puna.data.columns import read_table
from puna.post.quality.rows import text_of
from puna.post.quality.scores import ROWS
from puna.post.quality.select import ANNOTATIONS
from puna.tokenizer.dialog import Dialog, read_rows


def stories(directory: Path, key: str) -> list[dict[str, Any]]:
    """What a selection's artifact says of the rows with an id (one, unless the same dialog came twice).

    Returns:
        id, keep, reason (what it fails first), rewritten, quality, difficulty_level, worth, `predicates`
        (name, value, limit, passes and detail of each; None where it says nothing) and `text`.
    """
    import pyarrow.compute as pc

    table = read_table(directory / ANNOTATIONS)
    places = pc.indices_nonzero(pc.equal(table["id"], key)).to_pylist()
    if not places:
        return []
    texts = {number: text_of(row) for number, row in enumerate(read_rows(directory / ROWS, Dialog)) if number in set(places)}
    return [_story(table.slice(place, 1).to_pylist()[0]) | {"text": texts[place]} for place in places]


def _story(row: dict[str, Any]) -> dict[str, Any]:
    names = [name.removesuffix(".value") for name in row if name.endswith(".value")]
    told = [
        {
            "name": name,
            "value": row[f"{name}.value"],
            "limit": row[f"{name}.limit"],
            "passes": row[f"{name}.pass"],
            "detail": row.get(f"{name}.detail") or "",
        }
        for name in names
    ]
    return {key: value for key, value in row.items() if "." not in key} | {"predicates": told}
