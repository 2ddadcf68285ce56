"""Third part of curation, shard by shard: the signals of every document as it will be kept.

Where frequent lines went, the signals are measured again; elsewhere those of the facts stand. Personal data is counted, the words
are compared with the corpus', and classifiers given as inputs score the text, so that the decision needs no text. `signals/` has
one row per document; what takes a text is null for documents that are dropped already.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from puna.core.settings import Settings as StageSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.data.classify_scores import load_classifier, score_columns
from puna.data.columns import numpy_column, read_layout, read_table, typed_columns, write_table
from puna.data.decontaminate import EvaluationIndex, EvaluationSettings, build_index, evaluation_digests, load_index, overlap
from puna.data.engine import EngineSettings
from puna.data.kl import KlLimits
from puna.data.lines import text_without_lines
from puna.data.pii import KINDS, redact_batch
from puna.data.rules import reason_codes
from puna.data.signals import COLUMNS, measure_batch
from puna.data.usual_words import UsualWords, learn_usual_words
from puna.data.words import Words, scan
from puna.data.workforce import Workforce

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "signals"
REVISION = 1
CORES = 2

PII_COLUMNS = {f"pii_{kind}": "int64" for kind in KINDS}
KL_COLUMNS = {"kl": "float", "kl_deviations": "float"}
INDEX = Path("evaluation") / "index.npz"  # n-grams of the evaluation files, kept for masking


class Settings(StageSettings):
    """What the corpus is compared by; `data.curate` fills this in.

    Attributes:
        min_language_words: a language with fewer words is compared with all languages together.
        evaluation: the files whose n-grams are looked for.
    """

    min_language_words: NonNegativeInt = KlLimits().min_language_words
    evaluation: EvaluationSettings = EvaluationSettings()
    engine: EngineSettings = execution(EngineSettings())
    workers: PositiveInt = execution(2)


def outside(settings: Settings) -> dict[str, Any]:
    """What the signals depend on besides settings and inputs: the evaluation files."""
    return dict(evaluation_digests(settings.evaluation))


class Corpus(StageSettings):
    """Where the facts and the duplicates of a corpus lie."""

    facts: Path
    duplicates: Path

    def left(self, name: str) -> np.ndarray:
        """Which documents of a shard are not dropped so far. Returns bool [documents]."""
        return reason_codes(read_table(self.duplicates / "duplicates" / name, ["reason"])) == 0


def words_left(name: str, *, corpus: Corpus) -> tuple[Words, list[str], list[str]]:
    """Words, languages and groups of the documents of a shard that are left, without frequent lines."""
    left = corpus.left(name)
    facts = read_table(corpus.facts / "facts" / name, ["lang", "group"]).filter(left)
    texts, _ = text_without_lines(corpus.facts, corpus.duplicates, name)
    return scan(texts.filter(left)), facts["lang"].to_pylist(), facts["group"].to_pylist()


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `signals/`. Inputs of kind `classifier` add a column per class, evaluation files those of contamination."""
    corpus = Corpus(facts=ctx.inputs.one("facts").path, duplicates=ctx.inputs.one("duplicates").path)
    work = Workforce(settings.engine, settings.workers, ctx, phases=3)
    names = read_layout(corpus.facts).names
    usual = learn_usual_words(names, partial(words_left, corpus=corpus), work, settings.min_language_words)
    classifiers = [(artifact.path, artifact.name) for artifact in ctx.inputs.all("classifier")]
    index = _evaluation_index(settings, ctx)
    (ctx.scratch / "signals").mkdir(exist_ok=True)
    job = partial(signals_of_shard, corpus=corpus, usual=usual, classifiers=classifiers, index=index, out=ctx.scratch / "signals")
    left = sum(work.map(job, names))
    work.keep("signals", *([INDEX.parent.name] if index else []))
    return {"documents": left, "classifiers": [name for _, name in classifiers]}


def _evaluation_index(settings: Settings, ctx: StageContext) -> Path | None:
    """Where the n-grams of the evaluation files lie, made unless they are there; None without files."""
    if not settings.evaluation.files:
        return None
    path = ctx.scratch / INDEX
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        build_index(settings.evaluation).save(path)
    index = load_index(path)
    if index.short[0]:
        shown = ", ".join(index.short[1][:3])
        ctx.note(
            f"evaluation items too short for {index.ngrams[0]} words in a row: {index.short[0]} of {len(index.items)} ({shown})"
        )
    return path


def signals_of_shard(
    name: str, *, corpus: Corpus, usual: UsualWords, classifiers: list[tuple[Path, str]], index: Path | None, out: Path
) -> int:
    """Write the signals of one shard; returns how many of its documents are left."""
    import pyarrow as pa

    left = corpus.left(name)
    if not (out / name).exists():
        table = read_table(corpus.facts / "facts" / name, ["id", "lang", *COLUMNS])
        texts, removed = text_without_lines(corpus.facts, corpus.duplicates, name)
        columns = {"id": table["id"], "lines_removed": pa.array(removed)} | _signals(table, texts, np.flatnonzero(removed))
        kept = texts.filter(pa.array(left))
        found = {f"pii_{kind}": counts for kind, counts in redact_batch(kept)[1].items()}
        found |= usual.columns(name)
        scores = score_columns(kept, [load_classifier(*place) for place in classifiers])
        found, kinds = found | scores, PII_COLUMNS | KL_COLUMNS | dict.fromkeys(scores, "float")
        columns |= _contamination(kept, index, left) | typed_columns(
            {key: _spread(values, left) for key, values in found.items()}, kinds
        )
        write_table(out / name, pa.table(columns))
    return int(left.sum())


def _signals(table: pa.Table, texts: pa.Array, changed: np.ndarray) -> dict[str, Any]:
    """Signals of all documents, measured again for those at the given rows."""
    if not len(changed):
        return {name: table[name] for name in COLUMNS}
    columns = {name: numpy_column(table, name).copy() for name in COLUMNS}
    texts = texts.take(changed)
    for name, values in measure_batch(texts, scan(texts), table["lang"].take(changed)).items():
        columns[name][changed] = values
    return typed_columns(columns, COLUMNS)


def _contamination(kept: pa.Array, index: Path | None, left: np.ndarray) -> dict[str, pa.Array]:
    """What the documents at `left` share with the evaluation files; null for the others, no columns without files."""
    import pyarrow as pa

    if index is None:
        return {}
    known = _index(index)
    columns = overlap(scan(kept), known).columns(known)
    places = pa.array(np.where(left, np.cumsum(left) - 1, -1), mask=~left)
    return {name: column.take(places) for name, column in columns.items()}


@lru_cache(maxsize=1)
def _index(path: Path) -> EvaluationIndex:
    return load_index(path)


def _spread(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Values of the documents at `among` as a column of all, NaN for the others. Returns float64 [documents]."""
    column = np.full(len(among), np.nan)
    column[among] = values
    return column
