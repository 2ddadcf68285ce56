"""The classifier of py3langid, compiled: the same automaton, table and prior, without the Python loop over bytes.

The model is naive Bayes over byte n-grams. An automaton walks over the bytes and emits the n-grams it knows; the logarithm of
one plus their counts is multiplied with the table of n-grams and languages (py3langid 0.4, BSD-3). Sums are in float32 as there,
in another order, so probabilities differ by rounding and nothing else. Both steps wait for memory, 96 MB of tables: four walkers
on four parts of the text wait at the same time, and columns that are compared with each other lie side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from numba import njit

from puna.core.cached import cached_arrays
from puna.core.errors import RunError
from puna.data.kernels.letters import FORM_ROOM, plain_form
from puna.data.kernels.letters import letters as known_letters
from puna.data.language_scripts import LATIN, SCRIPTS

ARRAYS = ("labels", "moves", "rows", "emits", "weights", "prior")
REVISION = 2  # of what is kept of the model
WALKERS = 4
NGRAM_BYTES = 6  # of the longest n-gram: an automaton that saw this many bytes is in the same state wherever it began


class Model(NamedTuple):
    """The model as flat arrays.

    Attributes:
        moves: uint32, next state of (row of the state) * 256 + byte.
        rows: int64 [states], row of a state times 256.
        emits: int32 [states], the n-gram a state ends, -1 for none.
        weights: float32 [n-grams, columns].
        prior: float32 [columns].
    """

    moves: np.ndarray
    rows: np.ndarray
    emits: np.ndarray
    weights: np.ndarray
    prior: np.ndarray


@dataclass(frozen=True)
class Tables:
    """The model, and the language of each of its columns; two columns may share one."""

    labels: tuple[str, ...]
    model: Model


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The model that comes with py3langid; RunError for a version whose model has another form."""
    arrays = cached_arrays("languages", f"py3langid-{version('py3langid')}-{REVISION}", ARRAYS, _read_model)
    labels = tuple(arrays.pop("labels").tolist())
    return Tables(labels, Model(**arrays))


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
    labels = list(model.nb_classes)
    order = sorted(range(len(labels)), key=lambda column: _place(labels[column]))
    weights = np.ascontiguousarray(np.asarray(model.nb_ptc, dtype=np.float32)[:, order])
    prior = np.array(model.nb_pc, dtype=np.float32)[order]
    return {"labels": np.array(labels)[order], "moves": moves, "rows": rows, "emits": emits, "weights": weights, "prior": prior}


def _place(label: str) -> float:
    """Sorts the columns of one script side by side, and those of two between them: Arabic, Latin, Cyrillic, the others."""
    several = [LATIN, *(codes for _, _, codes in SCRIPTS if len(codes) > 1)]
    several.sort(key=lambda codes: [code in codes for code in ("ar", "en", "ru")], reverse=True)
    places = [place for place, codes in enumerate(several) if label in codes]
    return sum(places) / len(places) if places else len(several)


def probabilities(text: str) -> np.ndarray:
    """Probability of every column of `tables().labels` for a text, as py3langid normalises it. Returns float32 [columns]."""
    model = tables().model
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    form = np.empty(FORM_ROOM * len(data), dtype=np.uint8)
    size = plain_form(data, 0, len(data), known_letters(), form)
    out = np.empty(len(model.prior), dtype=np.float32)
    classify(form[:size], model, 0, np.empty(size, np.int32), np.zeros(len(model.weights), np.int32), out)
    return out


@njit(cache=True, nogil=True)
def classify(data, model, first, found, counts, out):  # type: ignore[no-untyped-def]
    """Probability of some columns for a text, as if there were no others.

    Args:
        data: its UTF-8 bytes in plain form.
        first: the first column.
        found: int32, room for an n-gram every byte; counts: int32 [n-grams], all zero before and after.
        out: float32 [columns asked for], the result.
    """
    distinct = _count_ngrams(data, model, found, counts)
    columns = out.shape[0]
    out[:] = np.float32(0)
    if distinct:
        out += model.prior[first : first + columns]
    for index in range(distinct):
        gram = found[index]
        weight = np.float32(math.log1p(counts[gram]))
        counts[gram] = 0
        row = model.weights[gram, first : first + columns]
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


@njit(cache=True, nogil=True)
def _count_ngrams(data, model, found, counts):  # type: ignore[no-untyped-def]
    """Count the n-grams; how many different ones there are, which `found` then begins with."""
    states = np.zeros(WALKERS, np.int64)
    part = (len(data) + WALKERS - 1) // WALKERS
    distinct = 0
    for step in range(-NGRAM_BYTES, part):
        for walker in range(WALKERS):
            place = walker * part + step
            if place < 0 or place >= len(data):
                continue
            states[walker] = state = np.int64(model.moves[model.rows[states[walker]] + data[place]])
            gram = model.emits[state]
            if step >= 0 and gram >= 0:
                if counts[gram] == 0:
                    found[distinct] = gram
                    distinct += 1
                counts[gram] += 1
    return distinct
