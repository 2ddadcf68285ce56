"""Addresses that lead to the same page."""

from __future__ import annotations

import pytest

from puna.data.dedup import url_key


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
