"""Classifiers applied to documents as annotation columns, and how well a classifier does on held-out labels.

Every class gives a column `score.CLASSIFIER.CLASS`, its probability. Where the classes are grades ("0" to "4"), one more,
`score.CLASSIFIER.grade`, is the expected grade from 0 to 1: what documents of a language are ranked by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puna.core.intervals import Z95, wilson
from puna.data import transformer
from puna.data.linear import Linear, load_linear
from puna.data.transformer import Transformer, load_transformer

if TYPE_CHECKING:
    import pyarrow as pa

SCORE, GRADE = "score", "grade"  # parts of the names of columns
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier under its name in the recipe.

    Attributes:
        name: stage name; columns are called after it.
        model: what scores.
    """

    name: str
    model: Linear | Transformer

    def scores(self, texts: pa.Array | pa.ChunkedArray) -> dict[str, np.ndarray]:
        """Its columns for a batch of Arrow strings: float32 [texts] each."""
        chances = self.model.score_batch(texts)
        columns = {f"{SCORE}.{self.name}.{kind}": chances[:, index].copy() for index, kind in enumerate(self.model.classes)}
        values = grade_values(self.model.classes)
        return columns if values is None else columns | {f"{SCORE}.{self.name}.{GRADE}": chances @ values}


@lru_cache(maxsize=32)
def load_classifier(path: Path, name: str) -> Classifier:
    """The classifier in the directory of a `data.classify` artifact, kept for the life of the process.

    Its files tell which model it is; torch is imported for a Transformer only.
    """
    load = load_transformer if (path / transformer.MODEL_FILE).exists() else load_linear
    return Classifier(name, load(path))


def score_columns(texts: pa.Array | pa.ChunkedArray, classifiers: Sequence[Classifier]) -> dict[str, np.ndarray]:
    """Annotation columns of every classifier for a batch of Arrow strings: name to float32 [texts]."""
    return {name: column for classifier in classifiers for name, column in classifier.scores(texts).items()}


def grade_values(classes: Sequence[str]) -> np.ndarray | None:
    """Grades scaled to 0..1 where all classes are numbers, else None. Returns float32 [classes]."""
    try:
        grades = np.array([float(name) for name in classes], dtype=np.float32)
    except ValueError:
        return None
    return (grades - grades.min()) / (grades.max() - grades.min())


def report(chances: np.ndarray, labels: np.ndarray, classes: Sequence[str], positive: str | None) -> dict[str, Any]:
    """How well held-out labels were met.

    Args:
        chances: float32 [texts, classes].
        labels: int [texts].

    Returns:
        JSON values: n, accuracy with its 95 % interval, the confusion matrix, the area under the ROC curve of every class, and
        for every threshold on the positive class (on each class where there is none) what is kept, precision and recall.
    """
    guessed = chances.argmax(axis=1)
    right, n = int((guessed == labels).sum()), len(labels)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, guessed), 1)
    judged = [positive] if positive is not None else list(classes)
    return {
        "n": n,
        "accuracy": _rate(right, n),
        "confusion": {name: dict(zip(classes, row, strict=True)) for name, row in zip(classes, confusion.tolist(), strict=True)},
        "auc": {name: auc(chances[:, index], labels == index) for index, name in enumerate(classes)},
        "thresholds": {
            name: [
                threshold_row(chances[:, classes.index(name)], labels == classes.index(name), threshold)
                for threshold in THRESHOLDS
            ]
            for name in judged
        },
    }


def threshold_row(scores: np.ndarray, positive: np.ndarray, threshold: float) -> dict[str, Any]:
    """What a threshold keeps: share kept, precision and recall, each with n and its 95 % Wilson interval."""
    kept = scores >= threshold
    found = int((kept & positive).sum())
    return {
        "threshold": threshold,
        "kept": _rate(int(kept.sum()), len(scores)),
        "precision": _rate(found, int(kept.sum())),
        "recall": _rate(found, int(positive.sum())),
    }


def _rate(count: int, n: int) -> dict[str, Any]:
    low, high = wilson(count, n)
    return {"value": round(count / n, 6) if n else None, "interval": [round(low, 6), round(high, 6)], "n": n}


def auc(scores: np.ndarray, positive: np.ndarray) -> dict[str, Any]:
    """Area under the ROC curve (ties count half) with the 95 % interval of Hanley and McNeil 1982; None without both sides."""
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return {"value": None, "interval": [0.0, 1.0], "n": ones + zeros}
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    area = float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    spread = area * (1 - area) + (ones - 1) * (q1 - area * area) + (zeros - 1) * (q2 - area * area)
    half = Z95 * math.sqrt(max(spread, 0.0) / (ones * zeros))
    return {
        "value": round(area, 6),
        "interval": [round(max(0.0, area - half), 6), round(min(1.0, area + half), 6)],
        "n": ones + zeros,
    }
