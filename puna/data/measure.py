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

from puna.core.settings import Settings as StageSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.data.classify_scores import load_classifier, score_columns
from puna.data.columns import numpy_column, read_layout, read_table, typed_columns, write_table
from puna.data.decontaminate import (
    DecontaminationSettings,
    EvaluationIndex,
    build_index,
    evaluation_digests,
    load_index,
    overlap,
)
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
EVALUATION = "evaluation.npz"


class Settings(StageSettings):
    """What the corpus is compared by; `data.curate` fills this in.

    Attributes:
        min_language_words: a language with fewer words is compared with all languages together.
        evaluation: files, n-grams and `common_items` of what documents must not share; its limits are not read here.
    """

    min_language_words: int = KlLimits().min_language_words
    evaluation: DecontaminationSettings = DecontaminationSettings()
    engine: EngineSettings = execution(EngineSettings())
    workers: int = execution(2)


def outside(settings: Settings) -> dict[str, Any]:
    """Digests of the evaluation files."""
    return dict(evaluation_digests(settings.evaluation))


class Corpus(StageSettings):
    """Where the facts and the duplicates of a corpus lie."""

    facts: Path
    duplicates: Path

    def left(self, name: str) -> np.ndarray:
        """Which documents of a shard are not dropped so far. Returns bool [documents]."""
        return reason_codes(read_table(self.duplicates / "duplicates" / name, ["reason"])) == 0

    def words_left(self, name: str) -> tuple[Words, list[str], list[str]]:
        """Words, languages and groups of the documents of a shard that are left, without frequent lines."""
        left = self.left(name)
        facts = read_table(self.facts / "facts" / name, ["lang", "group"]).filter(left)
        texts, _ = text_without_lines(self.facts, self.duplicates, name)
        return scan(texts.filter(left)), facts["lang"].to_pylist(), facts["group"].to_pylist()


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `signals/`. Inputs of kind `classifier` add a column per class."""
    corpus = Corpus(facts=ctx.inputs.one("facts").path, duplicates=ctx.inputs.one("duplicates").path)
    work = Workforce(settings.engine, settings.workers, ctx, phases=3)
    names = read_layout(corpus.facts).names
    usual = learn_usual_words(names, corpus.words_left, work, settings.min_language_words)
    judges: dict[str, Any] = {"classifiers": [(artifact.name, artifact.path) for artifact in ctx.inputs.all("classifier")]}
    judges["evaluation"] = _index_evaluation(settings.evaluation, ctx)
    (ctx.scratch / "signals").mkdir(exist_ok=True)
    left = sum(work.map(partial(signals_of_shard, corpus=corpus, usual=usual, out=ctx.scratch / "signals", **judges), names))
    work.keep("signals")
    return {"documents": left, "classifiers": [name for name, _ in judges["classifiers"]]}


def _index_evaluation(settings: DecontaminationSettings, ctx: StageContext) -> Path | None:
    if not settings.files:
        return None
    index = build_index(settings)
    index.save(ctx.out / EVALUATION)
    if index.short[0]:
        ctx.note(f"{index.short[0]} evaluation items are too short for an n-gram, for instance {', '.join(index.short[1][:3])}")
    return ctx.out / EVALUATION


def signals_of_shard(
    name: str, *, corpus: Corpus, usual: UsualWords, classifiers: list[tuple[str, Path]], evaluation: Path | None, out: Path
) -> int:
    """Write the signals of one shard; returns how many of its documents are left."""
    import pyarrow as pa

    left = corpus.left(name)
    if not (out / name).exists():
        table = read_table(corpus.facts / "facts" / name, ["id", "lang", *COLUMNS])
        texts, removed = text_without_lines(corpus.facts, corpus.duplicates, name)
        columns = {"id": table["id"], "lines_removed": pa.array(removed)} | _signals(table, texts, np.flatnonzero(removed))
        found = _of_texts(texts.filter(pa.array(left)), classifiers, evaluation) | typed_columns(usual.columns(name), KL_COLUMNS)
        places = pa.array(np.cumsum(left) - 1, mask=~left)  # null for the documents that are dropped already
        write_table(out / name, pa.table(columns | {key: values.take(places) for key, values in found.items()}))
    return int(left.sum())


def _of_texts(kept: pa.Array, classifiers: list[tuple[str, Path]], evaluation: Path | None) -> dict[str, pa.Array]:
    """Personal data, scores, and what is shared with evaluation files, of the texts that are left."""
    counts = redact_batch(kept)[1]
    columns = typed_columns({f"pii_{kind}": counts[kind] for kind in KINDS}, PII_COLUMNS)
    scores = score_columns(kept, [load_classifier(path, name) for name, path in classifiers])
    columns |= typed_columns(scores, dict.fromkeys(scores, "float"))
    if evaluation is not None:
        index = evaluation_index(evaluation)
        columns |= overlap(scan(kept), index).columns(index)
    return columns


@lru_cache(maxsize=1)
def evaluation_index(path: Path) -> EvaluationIndex:
    """The n-grams of the evaluation files, read once per process."""
    return load_index(path)


def _signals(table: pa.Table, texts: pa.Array, changed: np.ndarray) -> dict[str, Any]:
    """Signals of all documents, measured again for those at the given rows."""
    if not len(changed):
        return {name: table[name] for name in COLUMNS}
    columns = {name: numpy_column(table, name).copy() for name in COLUMNS}
    texts = texts.take(changed)
    for name, values in measure_batch(texts, scan(texts), table["lang"].take(changed)).items():
        columns[name][changed] = values
    return typed_columns(columns, COLUMNS)
