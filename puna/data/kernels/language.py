"""The classifier of py3langid, compiled: the same automaton, table and prior, without the Python loop over bytes.

The model is naive Bayes over byte n-grams. An automaton walks over the bytes and emits the n-grams it knows; the logarithm of
one plus their counts is multiplied with the table of n-grams and languages (py3langid 0.4, BSD-3). Sums are in float32 as there,
in another order, so probabilities differ by rounding and nothing else. Calls share a scratch array, hence no `nogil`.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

import numpy as np
from numba import njit

from puna.core.cached import cached_arrays
from puna.core.errors import RunError

ARRAYS = ("labels", "moves", "rows", "emits", "weights", "prior")
REVISION = 1  # of what is kept of the model


@dataclass(frozen=True)
class Tables:
    """The model as flat arrays.

    Attributes:
        labels: language of each column; two columns may share one.
        moves: uint32, next state of (row of the state) * 256 + byte.
        rows: int64 [states], row of a state times 256.
        emits: int32 [states], the n-gram a state ends, -1 for none.
        weights: float32 [n-grams, columns].
        prior: float32 [columns].
        counts: int32 [n-grams], scratch, all zero between calls.
    """

    labels: tuple[str, ...]
    moves: np.ndarray
    rows: np.ndarray
    emits: np.ndarray
    weights: np.ndarray
    prior: np.ndarray
    counts: np.ndarray


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The model that comes with py3langid; RunError for a version whose model has another form."""
    arrays = cached_arrays("languages", f"py3langid-{version('py3langid')}-{REVISION}", ARRAYS, _read_model)
    labels = tuple(arrays.pop("labels").tolist())
    return Tables(labels, counts=np.zeros(len(arrays["weights"]), dtype=np.int32), **arrays)


def _read_model() -> dict[str, np.ndarray]:
    """The model's own file is compressed and half of it is written twice; reading it takes 0.8 s and 300 MB."""
    from py3langid import langid

    model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    try:
        moves = np.asarray(memoryview(model.tk_nextmove)).astype(np.uint32, copy=False)
        rows = np.array(model.tk_row, dtype=np.int64) << 8
        emits = np.array(model.tk_output, dtype=np.int32)
    except (AttributeError, TypeError, ValueError) as error:
        raise RunError(f"the model of this py3langid has another form: {error}", fix="install py3langid >= 0.4") from error
    weights = np.ascontiguousarray(model.nb_ptc, dtype=np.float32)
    prior = np.array(model.nb_pc, dtype=np.float32)
    labels = np.array(model.nb_classes)
    return {"labels": labels, "moves": moves, "rows": rows, "emits": emits, "weights": weights, "prior": prior}


def probabilities(text: str) -> np.ndarray:
    """Probability of every column of `tables().labels` for a text, as py3langid normalises it. Returns float32 [columns]."""
    model = tables()
    out = np.empty(len(model.prior), dtype=np.float32)
    _probabilities(_bytes(text), model.moves, model.rows, model.emits, model.weights, model.prior, model.counts, out)
    return out


def best_group(text: str, groups: np.ndarray, priors: np.ndarray, count: int) -> tuple[int, float]:
    """The likeliest group of columns and its share among all groups.

    Args:
        groups: int32 [columns], the group of each column, -1 for a column that is no candidate.
        priors: float32 [columns], factor of each column's probability.
        count: number of groups.
    """
    model = tables()
    return _best_group(
        _bytes(text), model.moves, model.rows, model.emits, model.weights, model.prior, model.counts, groups, priors, count
    )


def _bytes(text: str) -> np.ndarray:
    if text.isupper():
        text = text.lower()
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)


@njit(cache=True)
def _probabilities(data, moves, rows, emits, weights, prior, counts, out):
    found = np.empty(data.shape[0], dtype=np.int32)
    distinct, state = 0, np.int64(0)
    for byte in data:
        state = np.int64(moves[rows[state] + byte])
        gram = emits[state]
        if gram >= 0:
            if counts[gram] == 0:
                found[distinct] = gram
                distinct += 1
            counts[gram] += 1
    columns = prior.shape[0]
    out[:] = np.float32(0)
    if distinct:
        out += prior
    for index in range(distinct):
        gram = found[index]
        weight = np.float32(math.log1p(counts[gram]))
        counts[gram] = 0
        row = weights[gram]
        for column in range(columns):
            out[column] += weight * row[column]
    # scores of a long text grow with its length; the root keeps probabilities calibrated (py3langid's choice)
    scale = np.float32(1.0 / math.sqrt(max(data.shape[0], 1)))
    top, total = np.max(out), np.float32(0)
    for column in range(columns):
        out[column] = np.exp((out[column] - top) * scale)
        total += out[column]
    for column in range(columns):
        out[column] /= total


@njit(cache=True)
def _best_group(data, moves, rows, emits, weights, prior, counts, groups, priors, count):
    out = np.empty(prior.shape[0], dtype=np.float32)
    _probabilities(data, moves, rows, emits, weights, prior, counts, out)
    shares, total = np.zeros(count, dtype=np.float64), 1e-12
    for column in range(groups.shape[0]):
        if groups[column] >= 0:
            shares[groups[column]] += out[column] * priors[column]
            total += out[column] * priors[column]
    best = np.argmax(shares)
    return best, shares[best] / total
