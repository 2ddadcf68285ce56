"""Which language a document is in: script first, then py3langid among the languages of that script (paper section 3.1.1).

The paper uses a fastText model of 176 languages; its weights are share-alike, so py3langid (140 languages, model inside, here
compiled) stands in, and a script that one language writes is told by its letters alone, which names some more. Formulas,
numbers and code carry no language and mislead any classifier: they are taken out first, and where few letters remain the
answer is "und" with probability 0, which no filter drops. A document of several languages goes to the majority of its parts.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from puna.data.language_scripts import LANGUAGES, LATIN, RARE, SCRIPTS, TINY, TWINS
from puna.data.words import utf8_of

if TYPE_CHECKING:
    import pyarrow as pa

    from puna.data.kernels.identify import Choices

LLAMA_LANGUAGES = ("en", "de", "fr", "it", "pt", "hi", "es", "th")  # the eight supported by Llama 3.1
UNKNOWN = "und"
MODEL_CHARS = 2000  # shown to a classifier given by path
RARE_PRIOR, TINY_PRIOR = 0.1, 0.01


def identify_batch(texts: pa.Array | pa.ChunkedArray, model: Path | None = None) -> tuple[list[str], np.ndarray]:
    """The language of every text: ISO 639 codes, and float32 [texts] probabilities; a null counts as an empty text.

    Args:
        model: a classifier in fastText's format to be asked instead; formulas and code are taken out for it just the same.
    """
    return _by_model(texts, model) if model is not None else _identify(*utf8_of(texts))


def identify(text: str) -> tuple[str, float]:
    """The language of a text as (ISO 639 code, probability); ("und", 0.0) where there are too few letters to tell."""
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    (code,), chances = _identify(data, np.array([0, len(data)]))
    return code, float(chances[0])


def _identify(data: np.ndarray, bounds: np.ndarray) -> tuple[list[str], np.ndarray]:
    from puna.data.kernels.identify import NONE, identify_texts
    from puna.data.kernels.language import tables
    from puna.data.kernels.letters import letters

    found, chances = np.empty(len(bounds) - 1, dtype=np.int32), np.empty(len(bounds) - 1, dtype=np.float32)
    identify_texts(data, bounds, letters(), tables().model, _choices(), found, chances)
    return [UNKNOWN if language == NONE else LANGUAGES[language] for language in found.tolist()], chances


@lru_cache(maxsize=1)
def _choices() -> Choices:
    from puna.data.kernels.identify import NONE, Choices
    from puna.data.kernels.language import tables

    labels = tables().labels
    candidates = [LATIN, *(codes for _, _, codes in SCRIPTS)]
    members = np.array([[label in codes for label in labels] for codes in candidates])
    spans = [np.flatnonzero(row)[[0, -1]] + (0, 1) if row.any() else (0, 0) for row in members]
    script = np.zeros(1 + max(ord(last) for _, last, _ in SCRIPTS), dtype=np.uint8)
    for number, (first, last, _) in enumerate(SCRIPTS, 1):
        script[ord(first) : ord(last) + 1] = number
    names = [TWINS.get(label, label) for label in labels]
    priors = [
        TINY_PRIOR if label in TINY else RARE_PRIOR if name in RARE else 1 for label, name in zip(labels, names, strict=True)
    ]
    return Choices(
        script=script,
        alone=np.array([LANGUAGES.index(codes[0]) if len(codes) == 1 else NONE for codes in candidates], dtype=np.int32),
        spans=np.array(spans),
        members=members,
        languages=np.array([LANGUAGES.index(name) if name in LANGUAGES else NONE for name in names], dtype=np.int32),
        priors=np.array(priors, dtype=np.float32),
    )


def _by_model(texts: pa.Array | pa.ChunkedArray, path: Path) -> tuple[list[str], np.ndarray]:
    import pyarrow as pa

    from puna.data.fasttext import load_fasttext
    from puna.data.kernels.identify import TOLD, words_of_texts
    from puna.data.kernels.tables import tables

    model = load_fasttext(path)
    data, bounds = utf8_of(texts)
    words, ends = np.empty(bounds[-1] - bounds[0], dtype=np.uint8), np.empty(len(bounds), dtype=np.int64)
    words_of_texts(data, bounds, tables().kind, MODEL_CHARS, words, ends)
    prose = pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(words))
    chances = model.score_batch(prose)
    surest = np.where(np.diff(ends) > 0, chances.max(axis=1), np.float32(0))
    codes = [
        model.labels[label] if chance >= TOLD else UNKNOWN for label, chance in zip(chances.argmax(axis=1), surest, strict=True)
    ]
    return codes, surest
