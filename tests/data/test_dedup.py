"""Exact duplicates and frequent lines."""

from __future__ import annotations

import numpy as np
import pytest

from puna.data.dedup import frequent_lines, line_keys, older_versions, text_key, url_key, without_lines


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


def test_the_newest_version_stays_and_the_first_of_equal_dates():
    keys = ["a", "a", "b", "a", "b", "c"]
    dates = ["2019", "2021", "", "2020", "2001", "2000"]
    everyone = np.ones(6, dtype=bool)
    assert older_versions(keys, dates, everyone).tolist() == [True, False, True, True, False, False]
    assert older_versions(keys, [""] * 6, everyone).tolist() == [False, True, False, True, True, False]
    assert not older_versions(keys, dates, np.array([True, False, True, False, False, True])).any()


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


def test_only_lines_over_the_limit_are_removed():
    stock, rare = "Subscribe to our newsletter today", "A line that stands in six documents"
    keys = np.concatenate([keys_of(stock)] * 7 + [keys_of(rare)] * 6 + [np.zeros(20, dtype=np.uint64)])
    frequent = frequent_lines(keys, 6)
    assert frequent.tolist() == keys_of(stock).tolist()
    text = f"Title of the page\n\n{stock}\n\n{rare}\nsubscribe to OUR newsletter: today!"
    assert without_lines(text, keys_of(text), frequent) == (f"Title of the page\n\n{rare}", 2)
    assert without_lines(text, keys_of(text), frequent[:0]) == (text, 0)
