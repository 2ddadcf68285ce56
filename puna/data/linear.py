"""A linear classifier over hashed words, word pairs and character n-grams: the judge that is cheap enough for every document.

The paper (section 3.1.1) scores all documents with fastText ("would Wikipedia refer to this?") and with small encoders for
code, reasoning and quality; section 3.1.2 sorts them by kind of knowledge. FastText averages embeddings of hashed n-grams and
puts a linear layer on top; for no more classes than embedding dimensions that is a linear model over the buckets, so the
weights are kept per bucket and class and the layer between is left out. A model is a JSON file and a safetensors file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from puna.core.errors import InputError
from puna.core.rng import numpy_stream
from puna.core.settings import Settings
from puna.data.words import utf8_of

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "puna-linear-1"
MODEL_FILE, WEIGHTS_FILE = "linear.json", "linear.safetensors"


class LinearSettings(Settings):
    """What the classifier looks at and how it learns.

    Attributes:
        buckets_log2: binary logarithm of the number of buckets that features share.
        word_pairs: whether neighbouring words make a feature beside single words.
        least_chars, most_chars: character n-grams within words; `most_chars` 0 for none.
        max_bytes: of a text's beginning that is looked at.
        epochs, rate: passes over the labelled texts, and the AdaGrad step at the first of them; it falls to 0 on a line.
    """

    buckets_log2: int = Field(default=18, ge=8, le=28)
    word_pairs: bool = True
    least_chars: NonNegativeInt = 3
    most_chars: NonNegativeInt = 5
    max_bytes: PositiveInt = 8192
    epochs: PositiveInt = 5
    rate: PositiveFloat = 2.0

    @model_validator(mode="after")
    def _possible(self) -> LinearSettings:
        if self.most_chars and not 1 <= self.least_chars <= self.most_chars <= 8:
            raise ValueError("character n-grams need 1 <= least_chars <= most_chars <= 8, or most_chars 0")
        return self


@dataclass
class Linear:
    """A trained classifier.

    Attributes:
        classes: names, in the order of the columns of every score.
        weights: float32 [buckets, classes].
        bias: float32 [classes].
        settings: how texts become features.
        about: whatever its maker noted (labels, report); JSON values.
    """

    classes: list[str]
    weights: np.ndarray
    bias: np.ndarray
    settings: LinearSettings
    about: dict[str, Any] = field(default_factory=dict)

    def score_batch(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Probability of each class for each text; an empty or missing text gets the classes' shares (the bias).

        Args:
            texts: Arrow strings.

        Returns:
            float32 [texts, classes].
        """
        from puna.data.kernels.linear import score

        data, ends = utf8_of(texts)
        longest, pairs, least, most, shift, ids = _feature_arguments(self.settings, ends)
        return score(data, ends, longest, pairs, least, most, shift, self.weights, self.bias, ids)

    def save(self, directory: Path) -> None:
        """Write `linear.json` and `linear.safetensors` into an existing directory."""
        from safetensors.numpy import save_file

        directory = Path(directory)
        save_file({"weights": self.weights, "bias": self.bias}, directory / WEIGHTS_FILE)
        meta = {"format": FORMAT, "classes": self.classes, "settings": self.settings.model_dump(), "about": self.about}
        (directory / MODEL_FILE).write_text(json.dumps(meta, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def load_linear(directory: Path) -> Linear:
    """The classifier that `Linear.save` wrote.

    Raises:
        InputError: the files are missing, broken, or contradict one another.
    """
    from safetensors.numpy import load_file

    directory = Path(directory)
    try:
        meta = json.loads((directory / MODEL_FILE).read_text())
        if meta["format"] != FORMAT:
            raise ValueError(f"format is {meta['format']!r}")
        settings, classes = LinearSettings(**meta["settings"]), [str(name) for name in meta["classes"]]
        arrays = load_file(directory / WEIGHTS_FILE)
        weights, bias = arrays["weights"], arrays["bias"]
        if weights.shape != (1 << settings.buckets_log2, len(classes)) or bias.shape != (len(classes),):
            raise ValueError(f"weights are {weights.shape}, bias {bias.shape}")
    except Exception as error:  # safetensors has an error class of its own for each fault
        raise InputError(
            f"this is no classifier of `data.classify`: {error}", where=str(directory), fix="train it again with `data.classify`"
        ) from error
    return Linear(classes, weights.astype(np.float32), bias.astype(np.float32), settings, meta.get("about", {}))


def train_linear(
    texts: pa.Array | pa.ChunkedArray, labels: np.ndarray, classes: list[str], settings: LinearSettings, *, seed: int = 0
) -> Linear:
    """Train a classifier; the same texts, labels, settings and seed give the same weights.

    Args:
        texts: Arrow strings.
        labels: int [texts], index into `classes`.
        seed: of the order in which texts are seen.

    Returns:
        The classifier; `about["losses"]` holds the mean loss of every epoch in nats.

    Raises:
        InputError: fewer than two classes, or a class without a text.
    """
    from puna.data.kernels.linear import train_epoch

    labels = np.asarray(labels, dtype=np.int32)
    counts = class_counts(labels, classes)
    data, ends = utf8_of(texts)
    longest, pairs, least, most, shift, ids = _feature_arguments(settings, ends)
    weights = np.zeros((1 << settings.buckets_log2, len(classes)), dtype=np.float32)
    bias = np.log(counts / counts.sum()).astype(np.float32)
    squares, bias_squares, losses = np.zeros_like(weights), np.ones_like(bias), []
    for epoch in range(settings.epochs):
        order = numpy_stream(seed, "linear", epoch).permutation(len(labels))
        rates = (
            settings.rate * (1 - epoch / settings.epochs),
            settings.rate * (1 - (epoch + 1) / settings.epochs),
        )
        loss = train_epoch(
            data, ends, labels, order, longest, pairs, least, most, shift, weights, bias, squares, bias_squares, rates, ids
        )
        losses.append(round(float(loss), 6))
    return Linear(list(classes), weights, bias, settings, {"losses": losses})


def class_counts(labels: np.ndarray, classes: list[str]) -> np.ndarray:
    """How many texts each class has. Returns int64 [classes]; InputError with fewer than two classes, or one without a text."""
    counts = np.bincount(labels, minlength=len(classes))
    if len(classes) < 2 or len(counts) > len(classes) or not counts.all():
        found = ", ".join(f"{name} {count}" for name, count in zip(classes, counts.tolist(), strict=False))
        raise InputError("a classifier needs at least two classes, each with labelled texts", where=found or "no labels")
    return counts


def _feature_arguments(settings: LinearSettings, ends: np.ndarray) -> tuple[int, bool, int, int, np.uint64, np.ndarray]:
    from puna.data.kernels.linear import room

    longest = int(min(settings.max_bytes, np.diff(ends).max(initial=0)))
    ids = np.empty(room(longest, settings.least_chars, settings.most_chars), dtype=np.uint32)
    return longest, settings.word_pairs, settings.least_chars, settings.most_chars, np.uint64(64 - settings.buckets_log2), ids
