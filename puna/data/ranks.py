"""The one decision of curation's last part that needs the whole corpus: ranks within a language, and kinds sampled down.

Both are made among the documents that every other rule keeps, from a few columns of each shard; `puna.data.quality` has the
arithmetic. One small file per shard is left for the pass that writes documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from puna.core.errors import InputError
from puna.data.classify_scores import SCORE
from puna.data.columns import numpy_column, read_table, write_table
from puna.data.quality import KeepSettings, document_keys, keep_best, quality_rank, sample_down

if TYPE_CHECKING:
    import pyarrow as pa

Decided = Callable[[str], tuple["pa.Table", "pa.Table", np.ndarray]]


def rank_documents(names: Sequence[str], decided: Decided, keep: KeepSettings, folder: Path) -> None:
    """Write `quality_rank`, `below` (the kept share of its language) and `surplus` (of its kind) of every document.

    Args:
        names: of the shards.
        decided: gives facts, signals and the reason codes so far (int8, 0 keeps) of a shard.
        folder: one file per shard is written here, named like it.
    """
    langs: list[str] = []
    scores, kinds, keys, sizes = [], [], [], []
    classes: list[str] = []
    for name in names:
        facts, signals, codes = decided(name)
        among = codes == 0
        scores.append(np.where(among, _score(signals, keep.rank_by), np.nan))
        found, classes = _kinds(signals, keep.kinds)
        kinds.append(np.where(among, found, -1))
        keys.append(document_keys(facts["id"].to_pylist()))
        langs += facts["lang"].to_pylist()
        sizes.append(len(codes))
    unknown = sorted(set(keep.max_share) - set(classes))
    if unknown:
        raise InputError(
            f"`max_share` names no kind of the classifier: {', '.join(unknown)}", where=f"kinds: {', '.join(classes)}"
        )
    ranks = quality_rank(np.concatenate(scores), langs)
    best = keep_best(ranks, langs, keep.keep_share)
    drawn = np.where(best, np.concatenate(kinds), -1)
    stays = sample_down(drawn, np.concatenate(keys), [keep.max_share.get(kind, 1.0) for kind in classes])
    _write(folder, names, sizes, {"quality_rank": ranks, "below": ~best, "surplus": ~stays})


def _score(signals: pa.Table, name: str | None) -> np.ndarray:
    """The score that ranks, NaN for every document where there is none."""
    if name is None:
        return np.full(len(signals), np.nan)
    column = f"{SCORE}.{name}"
    if column not in signals.column_names:
        raise _no_score(signals, name)
    return numpy_column(signals, column)


def _kinds(signals: pa.Table, classifier: str | None) -> tuple[np.ndarray, list[str]]:
    """Index of each document's likeliest class (-1 without scores), and the classes."""
    if classifier is None:
        return np.full(len(signals), -1, dtype=np.int64), []
    before = f"{SCORE}.{classifier}."
    columns = [name for name in signals.column_names if name.startswith(before)]
    if not columns:
        raise _no_score(signals, classifier)
    chances = np.stack([numpy_column(signals, name) for name in columns], axis=1)
    unscored = np.isnan(chances).any(axis=1)
    return np.where(unscored, -1, np.nan_to_num(chances).argmax(axis=1)), [name.removeprefix(before) for name in columns]


def _no_score(signals: pa.Table, name: str) -> InputError:
    known = [column.removeprefix(f"{SCORE}.") for column in signals.column_names if column.startswith(f"{SCORE}.")]
    return InputError(
        f"no classifier gave a score '{name}'",
        where=f"known: {', '.join(known) or 'none'}",
        fix="name the classifier under `from`",
    )


def _write(folder: Path, names: Sequence[str], sizes: Sequence[int], columns: dict[str, np.ndarray]) -> None:
    import pyarrow as pa

    start = 0
    for name, size in zip(names, sizes, strict=True):
        part = {key: pa.array(values[start : start + size], from_pandas=True) for key, values in columns.items()}
        write_table(folder / name, pa.table(part))
        start += size


def read_ranks(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`quality_rank` (float32, NaN without one), `below` and `surplus` (bool) of the documents of one shard."""
    table = read_table(folder / name)
    return numpy_column(table, "quality_rank"), numpy_column(table, "below"), numpy_column(table, "surplus")
