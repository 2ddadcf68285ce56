"""Exact duplicates and frequent lines."""

from __future__ import annotations

import numpy as np
import pytest

from puna.data.dedup import line_keys, text_key, url_key


@pytest.mark.parametrize(("first", "second", "same"), [
    ("http://A.org/x/", "https://www.a.org/x#part", True),
    ("https://a.org/x?utm_source=m&b=1", "https://a.org/x?b=1", True),
    ("https://a.org/x?b=1", "https://a.org/x?b=2", False),
    ("https://a.org/X", "https://a.org/x", False),
    ("file:a.jsonl#1", "file:a.jsonl#2", False),
    ("http://[broken", "http://[broken", True),
])  # fmt: skip
def test_addresses(first, second, same):
    assert (url_key(first) == url_key(second)) is same


def test_text_key_ignores_case_and_space():
    assert text_key("A  b\nC") == text_key("a b c") != text_key("a b d")


def keys_of(text: str, fold: bool = True, lang: str = "en") -> np.ndarray:
    return line_keys(text, lang, fold_digits=fold, min_letters=12)


def test_lines_are_normalised_as_ccnet_does():
    first = keys_of("Page 3 of the café menu, again!\n}\nPage 12 of the cafe menu again\n")
    assert first[0] == first[2] != 0 and first[1] == first[3] == 0
    assert keys_of("Page 3 of the café menu, again!", lang="fr")[0] != first[0]


def test_digits_count_where_they_are_the_content():
    lines = "Ana has 2 pens and buys 5 more. 2+5=7.\nAna has 3 pens and buys 5 more. 3+5=8."
    assert len(set(keys_of(lines).tolist())) == 1
    assert len(set(keys_of(lines, fold=False).tolist())) == 2
    plain = "Subscribe to our newsletter, never miss a page."
    assert keys_of(plain)[0] == keys_of(plain, fold=False)[0]
