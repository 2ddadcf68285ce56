"""Where a document is: from an id or an address to shard and row, and from there to everything curation knows of it.

The index is one sorted array of (key, document) per partition, three keys to a document: its id, its address as it stands, and
its address as duplicates are found by. A search reads a few pages of one file, whatever the size of the corpus.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from puna.core.errors import InputError
from puna.data.columns import read_layout, read_table
from puna.data.dedup import url_key
from puna.data.engine import load_array, partition_of

INDEX = np.dtype([("key", np.uint64), ("document", np.int64)])
KEYS = 3  # per document
INDEX_ROWS = 1 << 24  # per partition: a quarter of a gigabyte on disk


def index_partitions(documents: int) -> int:
    """Partitions of the index of so many documents. Not a matter of memory settings: it decides the artifact's bytes."""
    return max(1, -(-documents * KEYS // INDEX_ROWS))


def index_rows(job: tuple[Path, int]) -> np.ndarray:
    """Rows of the index of one shard of facts whose first document has the given number."""
    path, start = job
    facts = read_table(path, ["id", "url", "url_key"])
    keys = [[_key(value) for value in facts[name].to_pylist()] for name in ("id", "url")]
    rows = np.empty(KEYS * len(facts), dtype=INDEX)
    rows["key"] = np.concatenate([*(np.array(part, dtype=np.uint64) for part in keys), facts["url_key"].to_numpy()])
    rows["document"] = np.tile(np.arange(start, start + len(facts)), KEYS)
    return rows


def sorted_index(rows: np.ndarray) -> np.ndarray:
    """The rows of one partition by key, then document, each once."""
    rows = rows[np.lexsort((rows["document"], rows["key"]))]
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (rows["key"][1:] != rows["key"][:-1]) | (rows["document"][1:] != rows["document"][:-1])
    return rows[new]


def find(facts: Path, key: str) -> list[tuple[int, int]]:
    """Shard number and row of the documents with this id or address, an exact match before a normalised address.

    Args:
        facts: directory of a `facts` artifact.
    """
    layout = read_layout(facts)
    exact = [layout.place(number) for number in _numbers(facts, _key(key))]
    matches = [
        place for place in exact if key in _row(facts / "facts" / layout.names[place[0]], place[1], ["id", "url"]).values()
    ]
    return matches or [layout.place(number) for number in _numbers(facts, _key(url_key(key)))]


def trace(facts: Path, duplicates: Path, signals: Path, documents: Path, key: str) -> list[dict[str, Any]]:
    """Everything curation knows of the documents with this id or address.

    Args:
        facts, duplicates, signals, documents: directories of the four artifacts of one curation.

    Returns:
        One map per document: `id`, `shard`, `row` (in `facts/`, `duplicates/`, `signals/`), `facts`, `duplicates`, `signals`,
        `decision` (its row of `annotations/` or `dropped/`), `output_row` (in `documents/<shard>`, None where dropped).

    Raises:
        InputError: nothing has that id or address.
    """
    layout = read_layout(facts)
    places = find(facts, key)
    if not places:
        raise InputError(
            f"no document has the id or address '{key}'", where=str(facts), fix="give an id, or the address as collected"
        )
    return [_story(layout.names[shard], row, facts, duplicates, signals, documents) for shard, row in places]


def _story(name: str, row: int, facts: Path, duplicates: Path, signals: Path, documents: Path) -> dict[str, Any]:
    fact = _row(facts / "facts" / name, row)
    output, decision = _position(documents / "annotations" / name, fact["id"]), None
    if output is not None:
        decision = _row(documents / "annotations" / name, output)
    elif (position := _position(documents / "dropped" / name, fact["id"])) is not None:
        decision = _row(documents / "dropped" / name, position)
    return {
        "id": fact["id"],
        "shard": name,
        "row": row,
        "facts": fact,
        "duplicates": _row(duplicates / "duplicates" / name, row),
        "signals": _row(signals / "signals" / name, row),
        "decision": decision,
        "output_row": output,
    }


def _position(path: Path, name: str) -> int | None:
    import pyarrow.compute as pc

    position = pc.index(read_table(path, ["id"])["id"], name).as_py()
    return None if position < 0 else int(position)


def _row(path: Path, row: int, columns: list[str] | None = None) -> dict[str, Any]:
    return read_table(path, columns).slice(row, 1).to_pylist()[0]


def _numbers(facts: Path, key: int) -> list[int]:
    files = sorted((facts / "index").glob("*.npy"))
    if not files:
        raise InputError("this artifact has no index", where=str(facts), fix="give the directory of a `facts` artifact")
    wanted = np.array([key], dtype=np.uint64)
    rows = load_array(files[int(partition_of(wanted, len(files))[0])])
    first, last = (int(np.searchsorted(rows["key"], wanted[0], side=side)) for side in ("left", "right"))
    return rows["document"][first:last].tolist()


def _key(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace"))
