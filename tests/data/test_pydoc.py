"""pydoc pages: the same bytes whatever the caller's environment, and nothing of this machine in them."""

from __future__ import annotations

import getpass
import re
import sys
from pathlib import Path

import pytest

from puna.core.errors import InputError
from puna.data.extract import extract
from puna.data.pydoc_pages import MODULES, PydocSettings, read_pydoc
from puna.data.rows import BadRow

SOME = PydocSettings(
    modules=("json", "argparse", "configparser", "http.client", "os", "string", "no_such_module"), page_bytes=30_000
)


def test_pages_are_repeatable_and_leak_nothing(monkeypatch):
    first = list(read_pydoc(SOME))
    monkeypatch.setenv("PUNA_TEST_SECRET", "do-not-show-this")
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    monkeypatch.chdir("/")
    assert list(read_pydoc(SOME)) == first
    assert [type(row) is BadRow for row in first] == [False] * 6 + [True]
    content = b"".join(row.content for row in first[:-1]).decode()
    assert not re.search(r"(?: |&nbsp;)at(?: |&nbsp;)0x[0-9a-f]{6,}", content)
    for secret in (
        "do-not-show-this",
        'href="file:',
        str(Path.home()) + "/",
        sys.prefix,
        sys.base_prefix,
        f"/{getpass.getuser()}/",
    ):
        assert len(secret) < 4 or secret not in content
    assert all(len(row.content) <= 30_000 for row in first[:-1])


def test_text_of_a_page():
    page = next(iter(read_pydoc(PydocSettings(modules=("json",)))))
    text = extract(page.content, page.format, page.charset, keep_markers=True).text
    assert "is a subset of" in text and "    >>> import json" in text and "simplejson library" in text
    assert page.url.endswith("/json.html") and page.group == "code"


def test_modules_are_many_and_different():
    assert 120 <= len(MODULES) == len(set(MODULES))


def test_no_page_at_all_is_an_input_error():
    with pytest.raises(InputError, match="none of the named modules"):
        list(read_pydoc(PydocSettings(modules=("no_such_module",))))
