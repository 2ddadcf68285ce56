"""Last part of curation, shard by shard: the limits are applied to whole columns, and what is kept is written.

`documents/` and `annotations/` hold the kept documents in the same order; `dropped/` holds the annotations of the others with the
reason, the document that stands for a duplicate, and the beginning of the text (redacted too), so that every decision can be
looked at. Texts are touched here for the only time: frequent lines and personal data go.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.core.settings import Settings
from puna.core.store import write_json
from puna.data.classify_scores import SCORE
from puna.data.columns import DOCUMENT_COLUMNS, numpy_column, read_table, schema, write_table
from puna.data.decontaminate import DecontaminationSettings, load_index, mask, overlap, verdicts
from puna.data.facts import SPAM_COLUMNS
from puna.data.kl import KlLimits
from puna.data.lines import text_without_lines
from puna.data.measure import INDEX, KL_COLUMNS, PII_COLUMNS
from puna.data.pii import redact_batch
from puna.data.ranks import read_ranks
from puna.data.rules import mark, quality_reasons, reason_codes, reason_column, score_reasons, word_reasons
from puna.data.signals import COLUMNS, Limits
from puna.data.words import scan

if TYPE_CHECKING:
    import pyarrow as pa

OPENING_CHARS = 200  # of a dropped document's text that is kept to be looked at
EXAMPLES = 5  # dropped documents shown per reason
BY = ("source", "licence", "lang", "group", "reason")  # what documents are counted by
FOLDERS = ("documents", "annotations", "dropped")
MEASURED = ("lines_removed", *PII_COLUMNS, *KL_COLUMNS, *COLUMNS)


class Thresholds(Settings):
    """What a document must satisfy to be kept, by group of the mix, by its words, by classifiers and evaluation files; and
    whether personal data is replaced by placeholders.
    """

    limits: dict[str, Limits]
    words: KlLimits
    scores: dict[str, float]
    decontaminate: DecontaminationSettings
    redact: bool


def decided(
    name: str, *, facts: Path, duplicates: Path, signals: Path, thresholds: Thresholds
) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """Facts and signals of one shard, and the codes of `puna.data.rules.REASONS` from all rules but ranks."""
    fact, sig = read_table(facts / "facts" / name), read_table(signals / "signals" / name)
    return fact, sig, _codes(fact, read_table(duplicates / "duplicates" / name, ["reason"]), sig, thresholds)


def decide_shard(
    name: str, *, facts: Path, duplicates: Path, signals: Path, out: Path, thresholds: Thresholds, ranks: Path | None = None
) -> dict[str, Any]:
    """Decide on every document of one shard and write its files; the count of it is written last.

    Args:
        facts, duplicates, signals: directories of the artifacts.
        thresholds: what a kept document must satisfy.
        ranks: folder that `puna.data.ranks.rank_documents` wrote, if ranks or kinds are limited.

    Returns:
        `rows` (documents, characters before and after, by source, licence, language, group and reason), `lines_removed` and
        `pii` of the kept documents, `examples` of the dropped ones by reason.
    """
    path = out / "counts" / f"{Path(name).stem}.json"
    # a stop after the folders were taken into the artifact leaves the counts behind alone
    if path.exists() and all((out / folder / name).exists() for folder in FOLDERS):
        return json.loads(path.read_text())
    fact, dup, sig = (
        read_table(facts / "facts" / name),
        read_table(duplicates / "duplicates" / name),
        read_table(signals / "signals" / name),
    )
    codes = _codes(fact, dup, sig, thresholds)
    rank = _limit_by_rank(codes, ranks, name)
    keep, hide = codes == 0, thresholds.redact
    texts, _ = text_without_lines(facts, duplicates, name)
    kept = _without_evaluation(texts.filter(keep), sig.filter(keep), thresholds.decontaminate, signals / INDEX)
    kept = _without_personal_data(kept, sig.filter(keep)) if hide else kept
    notes = _annotations(fact, dup, sig, codes, rank)
    dropped = _dropped(notes, fact, texts, ~keep)
    write_table(out / "annotations" / name, notes.filter(keep))
    write_table(out / "dropped" / name, dropped)
    write_table(out / "documents" / name, _documents(fact.filter(keep), kept))
    found = {
        "rows": _count(fact, notes["reason"], keep, kept),
        "lines_removed": int(numpy_column(sig, "lines_removed")[keep].sum()),
        "pii": {kind.removeprefix("pii_"): int(numpy_column(sig, kind)[keep].sum()) if hide else 0 for kind in PII_COLUMNS},
        "examples": _examples(dropped),
    }
    write_json(path, found)
    return found


def _codes(fact: pa.Table, dup: pa.Table, sig: pa.Table, thresholds: Thresholds) -> np.ndarray:
    codes = reason_codes(dup)
    if thresholds.decontaminate.files:
        mark(codes, verdicts(sig, thresholds.decontaminate)[0], "contaminated")
    codes = np.where(codes == 0, quality_reasons(sig, fact, thresholds.limits), codes)
    mark(codes, word_reasons(sig, thresholds.words), "quality:unusual_words")
    mark(codes, score_reasons(sig, thresholds.scores), "quality:score")
    return codes


def _limit_by_rank(codes: np.ndarray, ranks: Path | None, name: str) -> np.ndarray | None:
    """Mark what is below its language's kept share, or too much of its kind; returns the ranks, if there are any."""
    if ranks is None:
        return None
    rank, below, surplus = read_ranks(ranks, name)
    mark(codes, below, "rank")
    mark(codes, surplus, "kind")
    return rank


def _annotations(fact: pa.Table, dup: pa.Table, sig: pa.Table, codes: np.ndarray, rank: np.ndarray | None) -> pa.Table:
    import pyarrow as pa

    columns = {"id": fact["id"], "keep": pa.array(codes == 0), "reason": reason_column(codes)}
    columns |= {name: fact[name] for name in ("lang", "lang_p", *SPAM_COLUMNS)}
    columns |= {name: dup[name] for name in ("duplicate_of", "similarity")}
    more = [name for name in sig.column_names if name.startswith((f"{SCORE}.", "contaminated_"))]
    columns |= {} if rank is None else {"quality_rank": pa.array(rank, from_pandas=True)}
    return pa.table(columns | {name: sig[name] for name in (*MEASURED, *more)})


def _without_evaluation(kept: pa.Array, sig: pa.Table, settings: DecontaminationSettings, index: Path) -> pa.Array:
    """The kept texts, with what is to be masked cut out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = kept.cast(pa.string())
    if not settings.files or settings.mode == "drop":
        return kept
    cut = pa.array(verdicts(sig, settings)[1])
    texts = kept.filter(cut)
    words = scan(texts)
    masked = mask(texts, words, overlap(words, load_index(index)), np.ones(len(texts), dtype=bool))
    return pc.replace_with_mask(kept, cut, pa.array(masked, pa.string()))


def _without_personal_data(kept: pa.Array, sig: pa.Table) -> pa.Array:
    """The kept texts with placeholders where personal data was counted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    personal = np.any([numpy_column(sig, name) > 0 for name in PII_COLUMNS], axis=0)
    if not personal.any():
        return kept
    hidden = pa.array(personal)
    return pc.replace_with_mask(kept, hidden, redact_batch(kept.filter(hidden))[0])


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
