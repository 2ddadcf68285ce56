"""Third part of curation, shard by shard: the signals of every document as it will be kept.

Where frequent lines went, the signals are measured again; elsewhere those of the facts stand. Personal data is counted here, so
that the decision needs no text. `signals/` has one row per document.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.core.settings import Settings as StageSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.data.columns import numpy_column, read_layout, read_table, typed_columns, write_table
from puna.data.engine import EngineSettings
from puna.data.lines import text_without_lines
from puna.data.pii import KINDS, redact
from puna.data.rules import reason_codes
from puna.data.signals import COLUMNS, measure_batch
from puna.data.words import scan
from puna.data.workforce import Workforce

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "signals"
REVISION = 1
CORES = 2

PII_COLUMNS = {f"pii_{kind}": "int64" for kind in KINDS}


class Settings(StageSettings):
    """How the work is done; `data.curate` fills this in."""

    engine: EngineSettings = execution(EngineSettings())
    workers: int = execution(2)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `signals/`."""
    facts, duplicates = ctx.inputs.one("facts").path, ctx.inputs.one("duplicates").path
    work = Workforce(settings.engine, settings.workers, ctx, phases=1)
    (ctx.scratch / "signals").mkdir(exist_ok=True)
    names = read_layout(facts).names
    job = partial(signals_of_shard, facts=facts, duplicates=duplicates, out=ctx.scratch / "signals")
    measured = work.map(job, names)
    work.keep("signals")
    return {"documents": sum(measured)}


def signals_of_shard(name: str, *, facts: Path, duplicates: Path, out: Path) -> int:
    """Write the signals of one shard; returns how many of its documents are no duplicates."""
    import pyarrow as pa

    left = reason_codes(read_table(duplicates / "duplicates" / name, ["reason"])) == 0
    if not (out / name).exists():
        table = read_table(facts / "facts" / name, ["id", "lang", *COLUMNS])
        texts, removed = text_without_lines(facts, duplicates, name)
        columns = {"id": table["id"], "lines_removed": pa.array(removed)}
        columns |= _personal_data(texts, left) | _signals(table, texts, np.flatnonzero(removed))
        write_table(out / name, pa.table(columns))
    return int(left.sum())


def _signals(table: pa.Table, texts: pa.Array, changed: np.ndarray) -> dict[str, pa.Array]:
    """Signals of all documents, measured again for those at the given rows."""
    if not len(changed):
        return {name: table[name] for name in COLUMNS}
    columns = {name: numpy_column(table, name).copy() for name in COLUMNS}
    texts = texts.take(changed)
    for name, values in measure_batch(texts, scan(texts), table["lang"].take(changed)).items():
        columns[name][changed] = values
    return typed_columns(columns, COLUMNS)


def _personal_data(texts: pa.Array, left: np.ndarray) -> dict[str, pa.Array]:
    """How much personal data of each kind the documents at `left` hold; null for the others."""
    counts = np.full((len(KINDS), len(left)), np.nan)
    rows = np.flatnonzero(left)
    for row, text in zip(rows.tolist(), texts.take(rows).to_pylist(), strict=True):
        found = redact(text)[1]
        counts[:, row] = [found.get(kind, 0) for kind in KINDS]
    return typed_columns(dict(zip(PII_COLUMNS, counts, strict=True)), PII_COLUMNS)
