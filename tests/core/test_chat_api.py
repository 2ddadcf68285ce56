"""Requests to a model behind an address: the key goes there and nowhere else, and what goes wrong is said in plain words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from puna.core import chat_api
from puna.core.chat_api import post_json
from puna.core.errors import InputError, RunError

KEY = "very-secret-key"


@contextmanager
def server(state: int, body: bytes = b"", **headers: str) -> Iterator[tuple[str, list[str]]]:
    """An address that answers all alike, and the keys it was sent."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization") or "")
            self.send_response(state)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{served.server_port}/v1", keys
    finally:
        served.shutdown()
        served.server_close()


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(chat_api, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("SOME_KEY", KEY)


@pytest.mark.parametrize("state", [301, 302, 303, 307, 308])
def test_the_key_goes_to_no_other_address(state):
    with server(200, b"{}") as (elsewhere, taken), server(state, Location=elsewhere) as (url, sent):
        with pytest.raises(InputError, match=f"refused the request .{state}"):
            post_json(url, {}, key_variable="SOME_KEY")
    assert sent == [f"Bearer {KEY}"] and taken == []


def test_a_refusal_that_names_the_key_is_told_without_it():
    with server(401, f"no such key: {KEY}!".encode()) as (url, _), pytest.raises(InputError) as refused:
        post_json(url, {}, key_variable="SOME_KEY")
    assert "no such key: (the key)!" in str(refused.value) and KEY not in str(refused.value)


def test_an_answer_that_breaks_off_is_asked_for_again():
    with server(200, b"{", Content_Length="10") as (url, sent), pytest.raises(RunError, match="does not answer"):
        post_json(url, {}, tries=3)
    assert len(sent) == 3


@pytest.mark.parametrize("url", ["localhost:8000/v1", "file:///etc/hostname", ""])
def test_what_is_no_address_is_said_to_be_none(url):
    with pytest.raises(InputError, match="begins with http"):
        post_json(url, {})


def test_what_is_no_json_is_said_to_be_none():
    with server(200, b"<html>") as (url, sent), pytest.raises(RunError, match="the model answers with what is no JSON"):
        post_json(url, {}, tries=3)
    assert len(sent) == 3


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", 7.0), ("100000", chat_api.LONGEST_WAIT_S), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.001)]
)
def test_a_server_that_asks_to_wait_is_waited_for(monkeypatch, asked, waited):
    waits: list[float] = []
    monkeypatch.setattr(chat_api.time, "sleep", waits.append)
    with server(429, Retry_After=asked) as (url, _), pytest.raises(RunError, match="does not answer: HTTP Error 429"):
        post_json(url, {}, tries=2)
    assert waits == [waited]
