"""The live page serves only what the run wrote, and never half a line of it."""

import json
import socket
import urllib.error
import urllib.request

import pytest

from puna.core.errors import InputError
from puna.serve import live


def get(url):
    with urllib.request.urlopen(url, timeout=10) as reply:
        return reply.status, reply.headers["Content-Type"], reply.read()


@pytest.fixture
def page(tmp_path):
    page = live.start(tmp_path)
    yield page
    page.stop()


def test_page_and_plotly_come_from_the_package(page):
    status, kind, body = get(page.url)
    assert status == 200 and kind.startswith("text/html")
    assert b'src="/plotly.js"' in body and b"https://" not in body
    assert len(get(page.url + "plotly.js")[2]) > 1_000_000


def test_no_icon_is_an_answer_and_sections_wait_for_their_data(page):
    with urllib.request.urlopen(page.url + "favicon.ico", timeout=10) as reply:
        assert reply.status == 204
    text = get(page.url)[2].decode()
    for heading in ("Loss", "Accuracy while training", "What the model writes", "Notes"):
        assert f"<section hidden><h2>{heading}</h2>" in text


def test_events_are_served_by_whole_lines(page, tmp_path):
    first, second = json.dumps({"event": "note", "text": "a"}) + "\n", json.dumps({"event": "note", "text": "b"}) + "\n"
    (tmp_path / "events.jsonl").write_text(first + second[:5])
    reply = json.loads(get(page.url + "api/events?offset=0")[2])
    assert [e["text"] for e in reply["events"]] == ["a"] and reply["offset"] == len(first)
    (tmp_path / "events.jsonl").write_text(first + second)
    reply = json.loads(get(page.url + f"api/events?offset={reply['offset']}")[2])
    assert [e["text"] for e in reply["events"]] == ["b"]
    (tmp_path / "events.jsonl").write_text(second)  # a new run starts the log anew
    reply = json.loads(get(page.url + "api/events?offset=10000")[2])
    assert [e["text"] for e in reply["events"]] == ["b"]


def test_missing_status_and_unknown_path_are_404(page, tmp_path):
    for path in ("api/status", "report", "../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(page.url + path)
        assert caught.value.code == 404
    (tmp_path / "status.json").write_text('{"name": "x"}')
    assert json.loads(get(page.url + "api/status")[2]) == {"name": "x"}


def test_a_busy_port_is_refused_when_asked_for_and_passed_over_when_not(tmp_path):
    with socket.socket() as taken:
        taken.bind((live.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError) as caught:
            live.start(tmp_path, port)
        assert str(port) in caught.value.where and "--port" in caught.value.fix
        page = live._bind(tmp_path, [port, 0])
        page.server_close()


def test_a_torn_line_is_passed_over_and_odd_offsets_are_zero(page, tmp_path):
    whole = json.dumps({"event": "note", "text": "whole"})
    (tmp_path / "events.jsonl").write_text('{"event": "no{"event": "note"}\n' + whole + "\n")
    for offset in ("0", "%C2%B2", "9" * 5000):
        reply = json.loads(get(f"{page.url}api/events?offset={offset}")[2])
        assert [e["text"] for e in reply["events"]] == ["whole"]


def test_a_foreign_host_name_is_refused(page):
    request = urllib.request.Request(page.url, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == 403
