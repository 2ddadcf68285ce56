"""Turns raw pages into documents worth training on; the fate of each page is written down (paper section 3.1.1).

Four parts, each an artifact of its own, so that a changed limit repeats only what hangs on it:

    NAME.facts        text, language, hashes and signals of every page: nine tenths of the work, no threshold
    NAME.duplicates   what only the whole can decide: addresses, spam, languages, equal and near-equal texts, frequent lines
    NAME.signals      signals where lines went, personal data, unusual words, scores of classifiers
    NAME              this file: the limits, one pass that writes documents, the funnel, planted faults

Each part leaves one file per shard, written by rename, so a killed run goes on where it was, and every engine gives the same
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import NonNegativeInt, ValidationInfo, field_validator, model_validator

from puna.core.errors import InputError
from puna.core.settings import Settings as StageSettings
from puna.core.settings import Share, execution
from puna.core.stage import StageContext
from puna.data.columns import read_layout
from puna.data.decide import FOLDERS, Thresholds, decide_shard, decided
from puna.data.decontaminate import DecontaminationSettings
from puna.data.engine import EngineSettings
from puna.data.funnel import write_funnel
from puna.data.kl import KlLimits
from puna.data.language import LLAMA_LANGUAGES
from puna.data.language_scripts import LANGUAGES
from puna.data.minhash import MinHashSettings
from puna.data.overview import OVERVIEW, decided_and_counted, write_overview
from puna.data.planted import score_planted
from puna.data.quality import KeepSettings
from puna.data.ranks import rank_documents
from puna.data.signals import CODE, MATHS, PROSE, Limits
from puna.data.spam import SpamLimits
from puna.data.thresholds import (
    Threshold,
    other_thresholds,
    score_thresholds,
    shared_thresholds,
    spam_thresholds,
    word_thresholds,
)
from puna.data.workforce import Workforce

KIND = "documents"
REVISION = 2
CORES = 2


class LineSettings(StageSettings):
    """Removal of frequent lines.

    Attributes:
        limit: a line in more documents of a bucket than this is removed (paper: 6); 0 switches it off.
        min_letters: shorter lines never count (a closing brace is no boilerplate).
        keep_digits: groups whose lines are compared with their digits and signs, because these are the content.
    """

    limit: NonNegativeInt = 6
    min_letters: NonNegativeInt = 12
    keep_digits: tuple[str, ...] = ("maths", "code")


class Settings(StageSettings):
    """What is kept.

    Attributes:
        languages: ISO 639 codes; pages in another language are dropped.
        language_model: a classifier in fastText's format that names languages instead of Puna's own; empty for none.
        language_p: below this probability a language is too uncertain to drop a page for.
        general, maths, code, multilingual: quality limits by group of the mix.
        words: how unusual the words of a document may be in the corpus. Measured always, decided on only where `max_deviations`
            is set: the rule is for crawls of one kind (of the embedded corpus, mostly generated, it would take the real pages).
        scores: least probability by `CLASSIFIER.CLASS`, for classifiers named under `from`.
        decontaminate: evaluation files that no document may hold.
        keep: ranks within a language, and kinds of knowledge brought down to a share, by classifiers named under `from`.
        redact: whether personal data is replaced by placeholders.
        engine, workers: where and on how many processes (see `puna.data.engine`).
    """

    languages: tuple[str, ...] = LLAMA_LANGUAGES
    language_model: str = execution("")
    language_p: Share = 0.65
    lines: LineSettings = LineSettings()
    minhash: MinHashSettings = MinHashSettings()
    spam: SpamLimits = SpamLimits()
    general: Limits = PROSE
    maths: Limits = MATHS
    code: Limits = CODE
    multilingual: Limits = PROSE
    words: KlLimits = KlLimits(max_deviations=None)
    scores: dict[str, Share] = {}
    decontaminate: DecontaminationSettings = DecontaminationSettings()
    keep: KeepSettings = KeepSettings()
    redact: bool = True
    engine: EngineSettings = execution(EngineSettings())
    workers: int = execution(2, ge=1)

    @field_validator("general", "maths", "code", "multilingual", mode="before")
    @classmethod
    def _over_the_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        # a recipe that names one limit of a group keeps the group's other limits
        default = cls.model_fields[str(info.field_name)].default
        return default.model_dump() | value if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _known_languages(self) -> Settings:
        if not self.languages:
            raise ValueError("`languages` names none; give codes like en or de")
        unknown = sorted(set(self.languages) - set(LANGUAGES))
        if unknown and not self.language_model:
            raise ValueError(f"`languages` has {', '.join(unknown)}; codes are those of ISO 639: en, de, fr, hi, th, ...")
        return self

    def thresholds(self) -> Thresholds:
        """What the last part decides by."""
        limits = {"general": self.general, "maths": self.maths, "code": self.code, "multilingual": self.multilingual}
        return Thresholds(
            limits=limits, words=self.words, scores=self.scores, decontaminate=self.decontaminate, redact=self.redact
        )

    def other_thresholds(self) -> list[Threshold]:
        """Limits that hold for every group, for people to see."""
        likeness = other_thresholds(self.language_p, self.minhash.threshold)
        learnt = [*word_thresholds(self.words), *score_thresholds(self.scores), *shared_thresholds(self.decontaminate)]
        return [*spam_thresholds(self.spam), *likeness, *learnt]


def expand(name: str, settings: Settings, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The four parts; `data.curate` itself is the last."""
    how = {"engine": settings.engine.model_dump(mode="json"), "workers": settings.workers}
    judges = [str(source) for source in sources if getattr(source, "kind", "") == "classifier"]
    pages = [str(source) for source in sources if str(source) not in judges]
    facts, duplicates, signals = f"{name}.facts", f"{name}.duplicates", f"{name}.signals"
    minhash = settings.minhash
    return {
        facts: {
            "uses": "data.facts",
            "from": pages,
            "permutations": minhash.bands * minhash.rows,
            "shingle_words": minhash.shingle_words,
            "shingle_letters": minhash.shingle_letters,
            "line_min_letters": settings.lines.min_letters,
            "line_keep_digits": list(settings.lines.keep_digits),
            "language_model": settings.language_model,
            **how,
        },
        duplicates: {
            "uses": "data.duplicates",
            "from": [facts],
            "languages": list(settings.languages),
            "language_p": settings.language_p,
            "spam": settings.spam.model_dump(mode="json"),
            "minhash": minhash.model_dump(mode="json"),
            "line_limit": settings.lines.limit,
            **how,
        },
        signals: {
            "uses": "data.measure",
            "from": [facts, duplicates, *judges],
            "min_language_words": settings.words.min_language_words,
            "evaluation": settings.decontaminate.measured().model_dump(mode="json"),
            **how,
        },
        name: {"uses": "data.curate", "from": [*pages, facts, duplicates, signals], **settings.model_dump(mode="json")},
    }


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `documents/`, `annotations/`, `dropped/`, `funnel.json`, `histograms.json`, `domains.json`; `planted.json` where
    faults were planted.

    Raises:
        InputError: nothing is left; the message says which rule dropped how much.
    """
    facts, duplicates, signals = (ctx.inputs.one(kind).path for kind in ("facts", "duplicates", "signals"))
    work = Workforce(settings.engine, settings.workers, ctx, phases=1)
    for folder in (*FOLDERS, "counts", OVERVIEW):
        (ctx.scratch / folder).mkdir(exist_ok=True)
    names = read_layout(facts).names
    known: dict[str, Any] = {"facts": facts, "duplicates": duplicates, "signals": signals, "thresholds": settings.thresholds()}
    ranks = None
    if settings.keep.rank_by or settings.keep.kinds:
        ranks = ctx.scratch / "ranks"
        ranks.mkdir(exist_ok=True)
        rank_documents(names, partial(decided, **known), settings.keep, ranks)
    decide = partial(decide_shard, out=ctx.scratch, ranks=ranks, **known)
    job = partial(decided_and_counted, decide=decide, out=ctx.scratch)
    counts = work.map(partial(job, limits=known["thresholds"].limits, others=settings.other_thresholds()), names)
    work.keep(*FOLDERS)
    summary = write_funnel(ctx.out, counts)
    write_overview(ctx.out, ctx.scratch, names)
    _record_sources(ctx, counts)
    if not summary["documents"]:
        dropped = ", ".join(f"{reason} {number}" for reason, number in summary["dropped"].items())
        raise InputError(
            "curation left no document", where=f"dropped: {dropped}", fix="loosen the limits of `data.curate`, or give more pages"
        )
    return summary | _planted(ctx)


def _planted(ctx: StageContext) -> dict[str, Any]:
    truth = ctx.inputs.one("pages").path / "truth.parquet"
    if not truth.exists():
        return {}
    scores = score_planted(truth, ctx.out)
    for fault, score in scores.items():
        ctx.note(
            f"planted {fault}: recall {score['recall']:.3f} of {score['planted']}, "
            f"precision {score['precision']:.3f} of {score['found']}"
        )
    return {"planted": scores}


def _record_sources(ctx: StageContext, counts: Sequence[dict[str, Any]]) -> None:
    kept: dict[tuple[str, str], int] = {}
    for row in (row for count in counts for row in count["rows"] if not row["reason"]):
        key = row["source"], row["licence"]
        kept[key] = kept.get(key, 0) + row["documents"]
    for (source, licence), rows in sorted(kept.items()):
        ctx.add_source(source, licence, rows=rows)
