"""Language files: their words are words, and they tell running text of their language from other text."""

from __future__ import annotations

import curation_reference as reference
import numpy as np
import pytest

from puna.data.languages import languages
from puna.data.signals import PROSE, limits_for, measure_batch
from puna.data.words import scan, words_of


def test_files_hold_distinct_single_words_and_known_limits():
    assert {"en", "de", "fr", "it", "pt", "hi", "es"} <= set(languages())  # with Thai, which has no spaces, the paper's eight
    for code, language in languages().items():
        assert 10 <= len(language.stop_words) == len(set(language.stop_words)), code
        assert all(len(words_of(word)) == 1 for word in language.stop_words), code
        assert [word.lower() for word in language.stop_words] == list(language.stop_words), code
        limits_for(PROSE, "general", code)


def test_stop_words_are_found_in_their_language_and_not_in_others():
    texts = {code: text for code, text in reference.udhr().items() if code in languages()}
    if not texts:
        pytest.skip("../shared/data/udhr is not here")
    assert len(texts) >= 24
    pieces = {code: [text[i : i + 1500] for i in range(0, len(text) - 1500, 1500)] for code, text in texts.items()}
    for code, own in pieces.items():
        found = measure_batch(own, scan(own), [code] * len(own))["stop_words"]
        assert np.median(found) >= 6 and found.min() >= 4, (code, found)
    for code in ("en", "de", "hi", "ru", "ar", "el"):
        others = [piece for other, parts in pieces.items() if other[:2] != code for piece in parts[:2]]
        found = measure_batch(others, scan(others), [code] * len(others))["stop_words"]
        own = measure_batch(pieces[code], scan(pieces[code]), [code] * len(pieces[code]))["stop_words"]
        assert (found < own.min()).mean() > 0.9, code


def test_a_language_without_a_file_is_not_judged_by_stop_words():
    text = ["la lingvo internacia estas facila kaj bela por ĉiuj homoj"]
    assert np.isnan(measure_batch(text, scan(text), ["eo"])["stop_words"][0])
