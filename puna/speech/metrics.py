"""How transcripts and translations are scored (section 8.4): WER, CER, corpus BLEU.

Errors are those of the cheapest alignment. Texts are taken as they are; `puna.speech.normal` says what may differ. WER and CER
equal jiwer's; BLEU equals sacrebleu's with one reference, mixed case, exponential smoothing, and its tokenisers `13a` and `char`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

ORDER = 4  # longest n-grams of BLEU
ERROR = 1 << 32  # cost of an error; a substitution costs one more, so its count can be read off the sum


@dataclass(frozen=True)
class Edits:
    """Errors of one or more hypotheses, and the length of their references, in words or characters; they can be added up."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    length: int = 0

    def __add__(self, other: Edits) -> Edits:
        return Edits(
            self.substitutions + other.substitutions, self.deletions + other.deletions, self.insertions + other.insertions,
            self.length + other.length,
        )  # fmt: skip

    @property
    def total(self) -> int:
        """All errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors for each unit of the references; may exceed 1. Of empty references every insertion counts as one."""
        return self.total / self.length if self.length else float(self.insertions)


def errors(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> Edits:
    """The fewest errors between two lists of words or two texts of characters; among equals, the fewest substitutions."""
    numbers: dict[Hashable, int] = {}
    wanted, given = (
        np.array([numbers.setdefault(unit, len(numbers)) for unit in units], np.int64) for units in (reference, hypothesis)
    )
    inserted = np.arange(len(given) + 1, dtype=np.int64) * ERROR
    row = inserted.copy()
    for unit in wanted:
        following = row + ERROR
        following[1:] = np.minimum(following[1:], row[:-1] + np.where(given == unit, 0, ERROR + 1))
        row = np.minimum.accumulate(following - inserted) + inserted
    total, substitutions = divmod(int(row[-1]), ERROR)
    longer = len(given) - len(wanted)
    insertions = (total - substitutions + longer) // 2
    return Edits(substitutions, insertions - longer, insertions, len(wanted))


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate of a corpus: errors of all texts by words of all references."""
    return _sum(errors(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True)).rate


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character error rate of a corpus; spaces inside count, those at the ends do not."""
    return _sum(errors(r.strip(), h.strip()) for r, h in zip(references, hypotheses, strict=True)).rate


def _sum(edits: Iterable[Edits]) -> Edits:
    return sum(edits, Edits())


def bleu(references: Sequence[str], hypotheses: Sequence[str], tokenise: Literal["13a", "char"] = "13a") -> float:
    """Corpus BLEU (Papineni et al. 2002), 0 to 100.

    Args:
        tokenise: `13a` (mteval's words), or `char` for languages without spaces.
    """
    return bleu_of([bleu_counts(r, h, tokenise) for r, h in zip(references, hypotheses, strict=True)])


def bleu_counts(reference: str, hypothesis: str, tokenise: Literal["13a", "char"] = "13a") -> np.ndarray:
    """What one text adds to corpus BLEU, int64 [2 * ORDER + 2]: matching and all n-grams by order, both lengths.

    Resampling texts for an interval is then a matter of adding rows up.
    """
    cut = _characters if tokenise == "char" else _words_13a
    wanted, given = cut(reference.rstrip()), cut(hypothesis.rstrip())
    counts = []
    for n in range(1, ORDER + 1):
        ours, theirs = _ngrams(given, n), _ngrams(wanted, n)
        counts += [(ours & theirs).total(), ours.total()]
    return np.array([*counts, len(given), len(wanted)], np.int64)


def bleu_of(counts: Sequence[np.ndarray] | np.ndarray) -> float:
    """BLEU of texts by their `bleu_counts`; 0 without a single matching word."""
    sums = [int(value) for value in np.sum(counts, axis=0)] if len(counts) else [0] * (2 * ORDER + 2)
    given, wanted = sums[-2:]
    matching, all_ngrams = sums[: 2 * ORDER : 2], sums[1 : 2 * ORDER : 2]
    if not any(matching):
        return 0.0
    smooth, logs = 1.0, 0.0
    for right, every in zip(matching, all_ngrams, strict=True):
        if not every:
            return 0.0  # no text is as long as the longest n-gram
        smooth *= 1 if right else 2
        logs += math.log(100 * right / every if right else 100 / (smooth * every))
    brevity = min(0.0, 1 - wanted / given)
    return math.exp(brevity + logs / ORDER)


def _ngrams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _characters(text: str) -> list[str]:
    return [letter for letter in text if not letter.isspace()]


ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
RULES_13A = (  # of mteval-v13a: symbols alone, then marks that belong to no number, then a dash after a number
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def _words_13a(text: str) -> list[str]:
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, mark in ENTITIES.items():
        text = text.replace(entity, mark)
    text = f" {text} "
    for rule, form in RULES_13A:
        text = rule.sub(form, text)
    return text.split()
