"""One request to a chat API: how long it waits, and what it says of an answer that is none."""

import email
import io
import urllib.error
import urllib.request

import pytest

from puna.core import chat_api
from puna.core.errors import RunError

URL = "http://127.0.0.1:9/v1/chat/completions"


@pytest.fixture
def waits(monkeypatch):
    found: list[float] = []
    monkeypatch.setattr(chat_api.time, "sleep", found.append)
    return found


def test_what_is_no_json_is_said_to_be_none(monkeypatch, waits):
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: io.BytesIO(b"<html>"))
    with pytest.raises(RunError, match="the model answers with what is no JSON"):
        chat_api.post_json(URL, {}, tries=3)
    assert waits == [0.5, 1.0]


def test_a_server_that_asks_to_wait_is_waited_for(monkeypatch, waits):
    told = iter(["7", "100000", "Wed, 21 Oct 2026 07:28:00 GMT", "7"])

    def busy(request, timeout):
        headers = email.message_from_string(f"Retry-After: {next(told)}\n\n")
        raise urllib.error.HTTPError(URL, 429, "busy", headers, None)

    monkeypatch.setattr(urllib.request, "urlopen", busy)
    with pytest.raises(RunError, match="does not answer: HTTP Error 429"):
        chat_api.post_json(URL, {}, tries=4)
    assert waits == [7.0, chat_api.LONGEST_WAIT_S, 2.0]
