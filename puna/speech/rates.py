"""Error rates and BLEU of answers about speech, by kind of task and language, with bootstrap intervals (section 8.4).

Errors are counted over normalised texts (`puna.speech.normal`), in words, or in characters where a language has no spaces. The
two are never added up. An interval draws whole sentences with replacement, each with all its utterances and translations: what
one sentence's words do to a model they do to all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from puna.core.rng import numpy_stream
from puna.evals.stats import BOOTSTRAP_DRAWS, bootstrap_ratio
from puna.speech.metrics import Edits, bleu_counts, bleu_of, errors
from puna.speech.normal import by_character, units

Spoken = dict[str, Any]  # an item of `puna.evals.one` with its `reference` and, where known, the `sentence` that it says


def error_rates(items: Sequence[Spoken], seed: int) -> dict[str, Any]:
    """By kind of task: `words` (WER) and `characters` (CER) over its languages of that kind, and `lang` for each language.

    Each has rate, low, high, substitutions, deletions, insertions, length (of the references) and n.
    """
    found: dict[str, Any] = {}
    for family, members in _groups(items, "family").items():
        counted = {item["task_id"]: edits_of(item) for item in members}
        by_unit = {"words": [i for i in members if not by_character(i["lang"])],
                   "characters": [i for i in members if by_character(i["lang"])]}  # fmt: skip
        found[family] = {unit: _rate(part, counted, seed) for unit, part in by_unit.items() if part}
        found[family]["lang"] = {lang: _rate(part, counted, seed) for lang, part in _groups(members, "lang").items()}
    return found


def bleu_scores(items: Sequence[Spoken], seed: int) -> dict[str, Any]:
    """BLEU of each language that is translated into: bleu, low, high, n; sacrebleu's `13a`, or `char` without spaces."""
    translated = [item for item in items if item["family"] == "translate"]
    return {lang: _bleu(part, lang, seed) for lang, part in _groups(translated, "lang").items()}


def error_difference(better: Sequence[Spoken], control: Sequence[Spoken], seed: int) -> dict[str, float]:
    """Error rate of `control` minus that of `better` on the same items, with a paired bootstrap interval; positive is better.

    Words and characters count alike here, as both sides have the same.
    """
    ours, theirs = [edits_of(item) for item in better], [edits_of(item) for item in control]
    lengths = np.array([max(1, edits.length) for edits in ours])
    gained = np.array([b.total - a.total for a, b in zip(ours, theirs, strict=True)])
    gained_S, length_S = _by_sentence(better, np.stack([gained, lengths], 1)).T
    low, high = bootstrap_ratio(gained_S, length_S, seed)
    return {"better": _sum(ours).rate, "control": _sum(theirs).rate, "difference": float(gained.sum() / lengths.sum()),
            "low": low, "high": high}  # fmt: skip


def edits_of(item: Spoken) -> Edits:
    """Errors of an answer against its reference."""
    return errors(units(item["reference"], item["lang"]), units(item["text"], item["lang"]))


def _rate(items: Sequence[Spoken], counted: dict[str, Edits], seed: int) -> dict[str, Any]:
    edits = [counted[item["task_id"]] for item in items]
    total = _sum(edits)
    counts_N2 = np.array([(each.total, max(1, each.length)) for each in edits])
    errors_S, length_S = _by_sentence(items, counts_N2).T
    low, high = bootstrap_ratio(errors_S, length_S, seed)
    return {"rate": total.rate, "low": low, "high": high, "substitutions": total.substitutions, "deletions": total.deletions,
            "insertions": total.insertions, "length": total.length, "n": len(items)}  # fmt: skip


def _bleu(items: Sequence[Spoken], lang: str, seed: int) -> dict[str, Any]:
    cut = "char" if by_character(lang) else "13a"
    counts_NC = np.stack([bleu_counts(item["reference"], item["text"], cut) for item in items])  # type: ignore[arg-type]
    own_SC, rng = _by_sentence(items, counts_NC), numpy_stream(seed, "bootstrap")
    times_DS = rng.multinomial(len(own_SC), np.full(len(own_SC), 1 / len(own_SC)), size=BOOTSTRAP_DRAWS)
    low, high = np.quantile([bleu_of([row]) for row in times_DS @ own_SC], [0.025, 0.975])
    return {"bleu": bleu_of(counts_NC), "low": float(low), "high": float(high), "n": len(items)}


def _by_sentence(items: Sequence[Spoken], counts_NC: np.ndarray) -> np.ndarray:
    """Counts [N, C] of items added up over those of one sentence (without one, of one reference): [S, C]."""
    _, place_N = np.unique([item.get("sentence") or item["reference"] for item in items], return_inverse=True)
    sums_SC = np.zeros((place_N.max() + 1, counts_NC.shape[1]), counts_NC.dtype)
    np.add.at(sums_SC, place_N, counts_NC)
    return sums_SC


def _sum(edits: Sequence[Edits]) -> Edits:
    return sum(edits, Edits())


def _groups(items: Sequence[Spoken], key: str) -> dict[str, list[Spoken]]:
    found: dict[str, list[Spoken]] = defaultdict(list)
    for item in items:
        found[item[key]].append(item)
    return dict(sorted(found.items()))
