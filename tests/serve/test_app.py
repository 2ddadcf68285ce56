from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

pytest.importorskip("httpx")
from fastapi.testclient import TestClient
from scripted import ScriptedEngine, byte_tokenizer
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from puna.serve.app import Limits, build_app
from puna.serve.request_log import RequestLog
from puna.tokenizer.chat import Message, render, with_tools

TOKENIZER = byte_tokenizer()
HELLO = [*b"Hello there", TOKENIZER.eot_id]
CALL = [TOKENIZER.python_tag_id, *b'{"name": "add", "parameters": {"a": 7, "b": 5}}', TOKENIZER.eom_id]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def client(say: Callable | list[int] = HELLO, limits: Limits | None = None) -> TestClient:
    engine = ScriptedEngine(say if callable(say) else lambda request, index: say, TOKENIZER.stop_ids)
    app = build_app(engine, TOKENIZER, "tiny", limits=limits)
    app.state.engine = engine
    return TestClient(app, base_url="http://127.0.0.1")


def ask(c: TestClient, **fields):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return c.post("/v1/chat/completions", json=body)


def events(response) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_models_and_health():
    with client() as c:
        models = c.get("/v1/models").json()
        assert [m["id"] for m in models["data"]] == ["tiny"]
        assert c.get("/v1/models/tiny").json()["id"] == "tiny"
        assert c.get("/v1/models/other").status_code == 404
        assert c.get("/health").json() == {"status": "ok"}


def test_chat_reply_and_usage():
    with client() as c:
        reply = ask(c).json()
        assert reply["object"] == "chat.completion"
        choice = reply["choices"][0]
        assert choice["message"] == {"role": "assistant", "content": "Hello there", "refusal": None}
        assert choice["finish_reason"] == "stop"
        prompt = render(TOKENIZER, [Message("user", "Hi")], generation_prompt=True).ids
        assert c.app.state.engine.requests[0].prompt_ids == prompt
        total = len(prompt) + len(HELLO)
        assert reply["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": len(HELLO), "total_tokens": total}


def test_stream_equals_reply():
    with client() as c:
        chunks = events(ask(c, stream=True, stream_options={"include_usage": True}))
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == "Hello there"
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == len(HELLO)
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk["id"] for chunk in chunks}) == 1


def test_sampling_fields_reach_the_engine():
    with client() as c:
        ask(c, temperature=0.5, top_p=0.9, max_tokens=5, seed=11, n=2)
        request = c.app.state.engine.requests[0]
        assert (request.temperature, request.top_p, request.max_tokens, request.seed, request.n) == (0.5, 0.9, 5, 11, 2)
        ask(c, max_completion_tokens=3)
        ask(c)
        second, third = c.app.state.engine.requests[1:]
        assert (second.max_tokens, third.temperature) == (3, 1.0)
        assert second.seed != third.seed


def test_n_answers_in_order():
    with client(lambda request, index: [*f"answer {index}".encode(), TOKENIZER.eot_id]) as c:
        reply = ask(c, n=3).json()
        assert [(x["index"], x["message"]["content"]) for x in reply["choices"]] == [(i, f"answer {i}") for i in range(3)]
        texts = ["", "", ""]
        for chunk in events(ask(c, n=3, stream=True)):
            choice = chunk["choices"][0]
            texts[choice["index"]] += choice["delta"].get("content", "")
        assert texts == [f"answer {i}" for i in range(3)]


def test_length_and_stop_strings_end_an_answer():
    with client(lambda request, index: itertools.chain(b"Hello there", itertools.repeat(46)), Limits(max_tokens=10**9)) as c:
        cut = ask(c, max_tokens=5).json()["choices"][0]
        assert (cut["message"]["content"], cut["finish_reason"]) == ("Hello", "length")
        stopped = ask(c, stop=["zz", "o th"]).json()["choices"][0]
        assert (stopped["message"]["content"], stopped["finish_reason"]) == ("Hell", "stop")
        streamed = events(ask(c, stop="o th", stream=True))
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed) == "Hell"
        deadline = time.time() + 5
        while c.app.state.engine.cancelled != [2, 3] and time.time() < deadline:
            time.sleep(0.01)
        assert c.app.state.engine.cancelled == [2, 3]  # the engine stops working on what nobody reads


def test_tool_call_comes_back_as_tool_calls():
    with client(CALL) as c:
        reply = ask(c, tools=[TOOL]).json()["choices"][0]
        assert reply["finish_reason"] == "tool_calls"
        assert reply["message"]["content"] is None
        function = reply["message"]["tool_calls"][0]["function"]
        assert (function["name"], json.loads(function["arguments"])) == ("add", {"a": 7, "b": 5})
        offered = with_tools([Message("user", "Hi")], json.dumps([TOOL]))
        assert c.app.state.engine.requests[0].prompt_ids == render(TOKENIZER, offered, generation_prompt=True).ids
        chunks = events(ask(c, tools=[TOOL], stream=True))
        call = [chunk["choices"][0]["delta"]["tool_calls"] for chunk in chunks if "tool_calls" in chunk["choices"][0]["delta"]]
        assert json.loads(call[0][0]["function"]["arguments"]) == {"a": 7, "b": 5}
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("body", [{}, {"tools": []}, {"tools": [TOOL], "tool_choice": "none"}])
def test_a_call_nobody_offered_is_text(body):
    with client(CALL) as c:
        reply = ask(c, **body).json()["choices"][0]
        text = bytes(i for i in CALL if i < 256).decode()
        assert (reply["message"]["content"], reply["finish_reason"]) == (text, "stop") and "tool_calls" not in reply["message"]
        chunks = events(ask(c, **body, stream=True))
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_broken_tool_call_is_shown_as_text():
    broken = [TOKENIZER.python_tag_id, *b'{"name": add', TOKENIZER.eom_id]
    with client(broken) as c:
        reply = ask(c, tools=[TOOL]).json()["choices"][0]
        assert (reply["message"]["content"], reply["finish_reason"]) == ('{"name": add', "stop")
        chunks = events(ask(c, tools=[TOOL], stream=True))
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == '{"name": add'


def test_tool_results_go_back_to_the_model():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 7}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Add."}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "12"},
    ]
    with client() as c:
        assert ask(c, messages=messages).status_code == 200
        ours = [
            Message("system", "Be brief."),
            Message("user", "Add."),
            Message("assistant", tool_calls='{"name": "add", "parameters": {"a": 7}}'),
            Message("ipython", "12"),
        ]
        assert c.app.state.engine.requests[0].prompt_ids == render(TOKENIZER, ours, generation_prompt=True).ids


def test_completions():
    with client() as c:
        reply = c.post("/v1/completions", json={"model": "tiny", "prompt": ["ab", "cd"], "n": 2, "max_tokens": 4}).json()
        assert [choice["text"] for choice in reply["choices"]] == ["Hell"] * 4
        assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
        assert c.app.state.engine.requests[1].prompt_ids == [TOKENIZER.bos_id, *b"cd"]
        assert reply["usage"]["prompt_tokens"] == 6
        c.post("/v1/completions", json={"prompt": [97, 98]})
        assert c.app.state.engine.requests[2].prompt_ids == [97, 98]
        chunks = events(c.post("/v1/completions", json={"prompt": "x", "stream": True, "max_tokens": 99}))
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello there"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": "hi"}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
        ({"temperature": 3}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"n": 1000}, 400, "n"),
        ({"n": True}, 400, "n"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"temperature": False}, 400, "temperature"),
        ({"seed": True}, 400, "seed"),
        ({"logit_bias": {"5": True}}, 400, "logit_bias.5"),
        ({"logprobs": 1}, 400, "logprobs"),
        ({"stop": 3}, 400, "stop"),
        ({"guided_json": 3}, 400, "guided_json"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format"),
        ({"top_logprobs": 2}, 400, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
        ({"tools": [{"name": "x"}]}, 400, "tools"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, 400, "tool_choice"),
        ({"tools": [TOOL], "messages": [{"role": "system", "content": "x"}]}, 400, None),
        ({"model": "gpt-5"}, 404, "model"),
    ],
)
def test_bad_requests(body, status, param):
    with client() as c:
        for stream in (False, True):
            reply = ask(c, **body, stream=stream)
            error = reply.json()["error"]
            assert (reply.status_code, error["param"]) == (status, param)
            assert set(error) == {"message", "type", "param", "code"}
            assert error["message"] and "\n" not in error["message"]


def test_a_line_for_each_request_without_its_texts(caplog):
    caplog.set_level("INFO", logger="puna.requests")
    with client() as c:
        ask(c)
        ask(c, stream=True)
        ask(c, temperature=3)
        c.get("/health")
        c.get("/no%0Asuch")
    prompt = len(render(TOKENIZER, [Message("user", "Hi")], generation_prompt=True).ids)
    said = [re.sub(r"\d+\.\d ms", "T ms", record.getMessage()) for record in caplog.records if record.name == "puna.requests"]
    assert said == [
        f"POST /v1/chat/completions 200 T ms {prompt} + {len(HELLO)} tokens",
        f"POST /v1/chat/completions 200 T ms {prompt} + {len(HELLO)} tokens",
        "POST /v1/chat/completions 400 T ms",
        "GET /health 200 T ms",
        "GET /no%0Asuch 404 T ms",
    ]


@pytest.mark.parametrize(("whole", "status"), [(False, 499), (True, 200)])
def test_a_stream_that_its_client_left_is_told_from_a_whole_one(caplog, whole, status):
    """A server tells the app that the client has gone, after the last byte too; the stream then ends without an error."""
    caplog.set_level("INFO", logger="puna.requests")
    gone, bodies = asyncio.Event(), []

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        if not whole:
            await asyncio.Event().wait()  # the client will not wait for what is being written here
        yield b"last"

    async def receive() -> dict:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        bodies.extend([message["body"]] if "body" in message else [])
        if bodies == ([b"first", b"last", b""] if whole else [b"first"]):
            gone.set()
            await asyncio.sleep(0)

    scope = {"type": "http", "method": "GET", "path": "/stream", "headers": [], "asgi": {"spec_version": "2.3"}}
    asyncio.run(RequestLog(StreamingResponse(parts()))(scope, receive, send))
    assert gone.is_set() and len(bodies) == (3 if whole else 1)
    assert [record.getMessage().split()[:3] for record in caplog.records] == [["GET", "/stream", str(status)]]


def test_a_stream_whose_client_makes_sending_fail_has_hung_up(caplog):
    caplog.set_level("INFO", logger="puna.requests")

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"

    async def receive() -> dict:
        return await asyncio.Event().wait()

    async def send(message: dict) -> None:
        if message["type"] == "http.response.body":
            raise OSError("broken pipe")

    scope = {"type": "http", "method": "GET", "path": "/stream", "headers": [], "asgi": {"spec_version": "2.4"}}
    with pytest.raises(ClientDisconnect):
        asyncio.run(RequestLog(StreamingResponse(parts()))(scope, receive, send))
    assert [record.getMessage().split()[2] for record in caplog.records] == ["499"]


def test_harmless_fields_are_accepted():
    with client() as c:
        fields = {
            "user": "u",
            "presence_penalty": 0.5,
            "top_k": 5,
            "logprobs": False,
            "response_format": {"type": "text"},
            "logit_bias": None,
        }
        assert ask(c, **fields).status_code == 200


def test_malformed_and_large_bodies():
    with client(limits=Limits(body_bytes=1000)) as c:
        reply = c.post("/v1/chat/completions", content=b"{not json")
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
        assert c.post("/v1/chat/completions", content=b"\xff\xfe").status_code == 400
        reply = ask(c, messages=[{"role": "user", "content": "x" * 2000}])
        assert (reply.status_code, reply.json()["error"]["message"]) == (413, "the request is larger than 1000 bytes")
        assert c.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
        assert c.get("/v1/chat/completions").status_code == 405


def test_prompt_longer_than_the_context():
    with client() as c:
        for stream in (False, True):
            reply = ask(c, messages=[{"role": "user", "content": "x" * 1200}], stream=stream)
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
            assert "\n" not in reply.json()["error"]["message"]


def test_time_limit():
    with client(lambda request, index: itertools.repeat(97), Limits(max_tokens=10**9, seconds=0.2)) as c:
        reply = ask(c)
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")


def test_too_many_at_once_and_room_again_afterwards():
    gate = threading.Event()

    def say(request, index):
        gate.wait(10)
        return HELLO

    with client(say, Limits(concurrent=1)) as c:
        first: list[int] = []
        thread = threading.Thread(target=lambda: first.append(ask(c).status_code))
        thread.start()
        while not c.app.state.worker._inbox and not c.app.state.engine.requests:
            time.sleep(0.01)
        assert ask(c).status_code == 429
        gate.set()
        thread.join()
        assert first == [200]
        assert ask(c).status_code == 200


def test_a_failed_engine_is_reported_and_stays_reported():
    with client([97, None]) as c:
        reply = ask(c)
        assert (reply.status_code, reply.json()["error"]["type"]) == (503, "server_error")
        assert ask(c, stream=True).status_code == 503
        assert c.get("/health").status_code == 503


def test_other_sites_are_refused():
    with client() as c:
        assert c.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
        assert c.get("/v1/models", headers={"Origin": "http://evil.example"}).status_code == 403
        assert c.get("/v1/models", headers={"Host": "localhost:8000", "Origin": "http://localhost:8000"}).status_code == 200


def test_page_is_local_and_strict():
    with client() as c:
        page = c.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "script-src" not in page.headers["content-security-policy"]
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert "http://" not in page.text and "https://" not in page.text
        assert "<script>" not in page.text and "style=" not in page.text
        script = c.get("/chat.js").text
        assert "innerHTML" not in script and "http" not in script.replace("https", "")
        assert "@media (prefers-color-scheme: dark)" in c.get("/chat.css").text
