"""Last part of curation, shard by shard: the limits are applied to whole columns, and what is kept is written.

`documents/` and `annotations/` hold the kept documents in the same order; `dropped/` holds the annotations of the others with the
reason, the document that stands for a duplicate, and the beginning of the text (redacted too), so that every decision can be
looked at. Texts are touched here for the only time: frequent lines and personal data go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.core.settings import Settings
from puna.core.store import write_json
from puna.data.columns import DOCUMENT_COLUMNS, numpy_column, read_table, schema, write_table
from puna.data.decontaminate import DecontaminationSettings, overlap
from puna.data.decontaminate import mask as without_shared_words
from puna.data.facts import SPAM_COLUMNS
from puna.data.kl import KlLimits
from puna.data.lines import text_without_lines
from puna.data.measure import EVALUATION, PII_COLUMNS, evaluation_index
from puna.data.pii import redact_batch
from puna.data.ranks import read_ranks
from puna.data.rules import (
    contaminated,
    mark,
    quality_reasons,
    reason_codes,
    reason_column,
    score_reasons,
    word_reasons,
)
from puna.data.signals import Limits
from puna.data.words import scan

if TYPE_CHECKING:
    import pyarrow as pa

OPENING_CHARS = 200  # of a dropped document's text that is kept to be looked at
EXAMPLES = 5  # dropped documents shown per reason
BY = ("source", "licence", "lang", "group", "reason")  # what documents are counted by
FOLDERS = ("documents", "annotations", "dropped")


class Thresholds(Settings):
    """What a document must satisfy to be kept: by group of the mix, by its words, by classifiers, by what it shares with
    evaluation files; and whether personal data is replaced by placeholders.
    """

    limits: dict[str, Limits]
    words: KlLimits
    scores: dict[str, float]
    evaluation: DecontaminationSettings
    redact: bool


@dataclass(frozen=True)
class Shard:
    """Three annotations of one shard, row for row."""

    facts: pa.Table
    duplicates: pa.Table
    signals: pa.Table


class Parts(Settings):
    """Directories of the artifacts that a decision is made from."""

    facts: Path
    duplicates: Path
    signals: Path

    def read(self, name: str) -> Shard:
        """The annotations of a shard."""
        return Shard(*(read_table(getattr(self, part) / part / name) for part in ("facts", "duplicates", "signals")))


def decide_shard(name: str, *, parts: Parts, out: Path, ranks: Path | None, thresholds: Thresholds) -> dict[str, Any]:
    """Decide on every document of one shard and write its files; the count of it is written last.

    Args:
        ranks: folder of `puna.data.ranks.rank_documents`, None where nothing is ranked.
        thresholds: what a kept document must satisfy.

    Returns:
        `rows` (documents, characters before and after, by source, licence, language, group and reason), `lines_removed` and
        `pii` of the kept documents, `examples` of the dropped ones by reason.
    """
    import pyarrow as pa

    path = out / "counts" / f"{Path(name).stem}.json"
    if path.exists():
        return json.loads(path.read_text())
    shard = parts.read(name)
    codes, rank = decide(shard, thresholds), np.full(len(shard.facts), np.nan, dtype=np.float32)
    if ranks is not None:
        rank, below, surplus = read_ranks(ranks, name)
        mark(codes, below, "rank")
        mark(codes, surplus, "surplus")
    keep = codes == 0
    texts, _ = text_without_lines(parts.facts, parts.duplicates, name)
    kept = _kept_texts(texts.filter(pa.array(keep)), shard.signals.filter(keep), parts.signals, thresholds)
    notes = _annotations(shard, codes, rank)
    dropped = _dropped(notes, shard.facts, texts, ~keep)
    write_table(out / "annotations" / name, notes.filter(keep))
    write_table(out / "dropped" / name, dropped)
    write_table(out / "documents" / name, _documents(shard.facts.filter(keep), kept))
    found = {
        "rows": _count(shard.facts, notes["reason"], keep, kept),
        "lines_removed": int(numpy_column(shard.signals, "lines_removed")[keep].sum()),
        "pii": _personal_data(shard.signals.filter(keep)) if thresholds.redact else {},
        "examples": _examples(dropped),
    }
    write_json(path, found)
    return found


def decide(shard: Shard, thresholds: Thresholds) -> np.ndarray:
    """The reason of every document by all rules that look at one document. Returns int8 [documents], codes of `REASONS`."""
    codes = reason_codes(shard.duplicates)
    codes = np.where(codes == 0, quality_reasons(shard.signals, shard.facts, thresholds.limits), codes)
    mark(codes, word_reasons(shard.signals, thresholds.words), "quality:unusual_words")
    mark(codes, score_reasons(shard.signals, thresholds.scores), "quality:score")
    if thresholds.evaluation.mode == "drop":
        mark(codes, contaminated(shard.signals, thresholds.evaluation), "contaminated")
    return codes


def _personal_data(sig: pa.Table) -> dict[str, int]:
    return {name.removeprefix("pii_"): int(numpy_column(sig, name).sum()) for name in PII_COLUMNS}


def _annotations(shard: Shard, codes: np.ndarray, rank: np.ndarray) -> pa.Table:
    import pyarrow as pa

    fact, dup, sig = shard.facts, shard.duplicates, shard.signals
    columns = {"id": fact["id"], "keep": pa.array(codes == 0), "reason": reason_column(codes)}
    columns |= {name: fact[name] for name in ("lang", "lang_p", *SPAM_COLUMNS)}
    columns |= {name: dup[name] for name in ("duplicate_of", "similarity")}
    columns |= {name: sig[name] for name in sig.column_names if name != "id"}
    return pa.table(columns | {"quality_rank": pa.array(rank, from_pandas=True)})


def _kept_texts(kept: pa.Array, sig: pa.Table, signals: Path, thresholds: Thresholds) -> pa.Array:
    """The texts of the kept documents as they are written: without what evaluation files hold, without personal data."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = kept.cast(pa.string())
    shared = contaminated(sig, thresholds.evaluation)
    if shared.any():  # only in mode "mask" is such a document kept
        some, index = kept.filter(pa.array(shared)), evaluation_index(signals / EVALUATION)
        words = scan(some)
        cut = without_shared_words(some, words, overlap(words, index), np.ones(len(some), dtype=bool))
        kept = pc.replace_with_mask(kept, pa.array(shared), pa.array(cut, pa.string()))
    personal = np.any([numpy_column(sig, name) > 0 for name in PII_COLUMNS], axis=0)
    if thresholds.redact and personal.any():
        where = pa.array(personal)
        kept = pc.replace_with_mask(kept, where, redact_batch(kept.filter(where))[0])
    return kept


def _documents(fact: pa.Table, kept: pa.Array) -> pa.Table:
    import pyarrow as pa

    columns = {name: kept if name == "text" else fact[name] for name in DOCUMENT_COLUMNS}
    return pa.table(columns).cast(schema(DOCUMENT_COLUMNS))


def _dropped(notes: pa.Table, fact: pa.Table, texts: pa.Array, gone: np.ndarray) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    openings = pc.utf8_slice_codeunits(texts.filter(pa.array(gone)).cast(pa.string()), 0, 2 * OPENING_CHARS)
    shown = pc.utf8_slice_codeunits(redact_batch(openings)[0], 0, OPENING_CHARS)
    table = notes.filter(gone)
    for name in ("url", "source", "group"):
        table = table.append_column(name, fact[name].filter(gone))
    return table.append_column("opening", shown)


def _count(fact: pa.Table, reasons: pa.Array, keep: np.ndarray, kept: pa.Array) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    after = np.zeros(len(keep), dtype=np.int64)
    after[keep] = pc.utf8_length(kept).to_numpy()
    columns = {name: fact[name] for name in BY if name != "reason"} | {"reason": pc.cast(reasons, pa.string())}
    table = pa.table({**columns, "documents": np.ones_like(after), "before": fact["chars"], "after": after})
    sums = [(name, "sum") for name in ("documents", "before", "after")]
    rows = pa.TableGroupBy(table, list(BY), use_threads=False).aggregate(sums).to_pylist()
    return [{name.removesuffix("_sum"): value for name, value in row.items()} for row in rows]


def _examples(dropped: pa.Table) -> dict[str, list[dict[str, str]]]:
    import pyarrow.compute as pc

    examples = {}
    for reason in pc.unique(pc.cast(dropped["reason"], "string")).to_pylist():
        some = dropped.filter(pc.equal(dropped["reason"], reason)).slice(0, EXAMPLES)
        examples[reason] = some.select(["id", "url", "opening"]).to_pylist()
    return examples
