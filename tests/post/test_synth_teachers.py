"""Teachers: an OpenAI-compatible address that stumbles, and a model of ours; each generator runs from end to end on both."""

from __future__ import annotations

import json
import re
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from post_toys import base_artifact
from synth_toys import ProjectBox, TrustedBox

from puna.core import chat_api
from puna.core.errors import InputError, RunError
from puna.core.lineage import LLAMA_NAME, obligations
from puna.core.stage import local_context
from puna.post import synthesise
from puna.post.synth.catalogue import GENERATORS
from puna.post.synth.steps import Ask, user
from puna.post.synth.teacher import Asked, UrlTeacher
from puna.post.synth.templates import PROMPTS, load_templates
from puna.tokenizer.dialog import Dialog, MessageRow, read_rows
from puna.verify.calls import read_calls
from puna.world.oracle import answer
from puna.world.oracle_languages import values_of
from puna.world.truth import TRUTH

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from synth import OWN, talk_inputs, world_inputs

NAMES = [name for name in TRUTH if name != "code_translate"]  # which needs compilers: test_synth_truth.py


_SLOT = re.compile(r"\\\{([a-z_]+)\\\}")  # of an escaped template


def _group(seen):
    """A slot as a group, and where it comes again as a reference to it."""

    def group(match):
        again = match[1] in seen
        seen.add(match[1])
        return f"(?P={match[1]})" if again else f"(?P<{match[1]}>.*?)"

    return group


def patterns():
    """Each template of each generator as an expression that a filled one matches, the longest fixed text first."""
    found = []
    for path in PROMPTS.glob("*.yaml"):
        for name, text in load_templates(path.stem).texts.items():
            fixed = _SLOT.sub(_group(set()), re.escape(text["user"]))
            found.append((len(text["user"]), f"{path.stem}.{name}", text.get("system"), re.compile(fixed, re.DOTALL)))
    return sorted(found, key=lambda one: -one[0])


def in_conversation(messages, tools):
    """Template and slots of a turn: what was called so far and what came of it, read from the messages."""
    done = []
    for message in messages:
        if message.get("tool_calls"):
            calls = [call["function"] for call in message["tool_calls"]]
            done.append([[call["name"], json.loads(call["arguments"]), None] for call in calls])
        if message["role"] == "tool":
            next(call for call in done[-1] if call[2] is None)[2] = message["content"]
    said = next(message["content"] for message in messages if message["role"] == "user")
    if any(tool["function"]["name"] == "calculator" for tool in tools):
        file = re.search(r"\S+\.[ct]sv", said)
        return "tool_use.turn", {"question": said, "file": file[0].strip(",?") if file else "", "done": json.dumps(done)}
    return "function_calls.turn", {"request": said, "done": json.dumps(done)}


def understood(body, known):
    """Template and slots of what a client sent: the server sees nothing but text."""
    messages = body["messages"]
    if body.get("tools"):
        return in_conversation(messages, body["tools"])
    system = next((m["content"] for m in messages if m["role"] == "system"), None)
    for _, template, own, pattern in known:
        if own == system and (match := pattern.fullmatch(messages[-1]["content"])):
            if pattern.pattern == "(?P<question>.*?)":
                template = "translated_reasoning.solve" if values_of(match["question"]) else "knowledge.remember"
            return template, match.groupdict()
    if system is not None:
        return "steering.answer", {"system": system, "question": messages[-1]["content"]}
    raise AssertionError(f"no template fits {messages}")


def message_of(said):
    """What the oracle says as the API has it; a call that is none stays text, as servers leave it."""
    calls = read_calls(said.call) if said.call else None
    listed = [{"id": str(i), "function": {"name": n, "arguments": json.dumps(a)}} for i, (n, a) in enumerate(calls or [])]
    return {"role": "assistant", "content": said.text or ("" if calls else said.call), "tool_calls": listed}


@contextmanager
def chat_server(states=(), many=True, reply=None):
    """A chat API backed by the oracle; `states` are sent first, and without `many` one choice comes whatever `n` is."""
    known, asked, failing = patterns(), [], list(states)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({**body, "key": self.headers.get("Authorization")})
            if failing:
                return self._send(failing.pop(0), {"error": "not now"})
            if reply is not None:
                return self._send(200, reply)
            template, slots = understood(body, known)
            count, turns = body.get("n", 1) if many else 1, [(m["role"], m["content"]) for m in body["messages"]]
            said = [answer(template, slots, body["seed"] + i, 0.2, turns) for i in range(count)]
            choices = [{"message": message_of(one), "finish_reason": "stop"} for one in said]
            return self._send(200, {"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 5 * count}})

        def _send(self, state, value):
            self.send_response(state)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    return world_inputs(root, 24) + talk_inputs(root, 24)


def made(root, names, inputs, teacher, count=12):
    ctx = local_context(root / "out", name="synth", inputs=inputs, seed=2)
    wanted = {name: {"count": count, **OWN.get(name, {})} for name in names}
    summary = synthesise.run(synthesise.Settings.model_validate({"generators": wanted, "teacher": teacher}), ctx)
    return summary, list(read_rows(ctx.out / "accepted.jsonl", Dialog)), ctx


def test_every_generator_runs_on_a_server_and_keeps_right_rows_alone(tmp_path, monkeypatch, inputs):
    monkeypatch.setattr(synthesise, "LazySandbox", ProjectBox)
    monkeypatch.setenv("TEACHER_KEY", "very-secret")
    with chat_server() as (url, asked):
        teacher = {"use": "url", "url": url, "model": "stub", "licence": "llama3.1", "price_in": 2.0,
                   "price_out": 10.0, "key_variable": "TEACHER_KEY"}  # fmt: skip
        summary, rows, ctx = made(tmp_path, NAMES, inputs, teacher)
    assert {row.provenance.checks["generator"] for row in rows} == set(NAMES)
    assert all(TRUTH[row.provenance.checks["generator"]](row.messages) for row in rows)
    assert {one["key"] for one in asked} == {"Bearer very-secret"} and {one["model"] for one in asked} == {"stub"}
    assert {(row.provenance.licence, row.provenance.teacher_licence) for row in rows} == {("CC0-1.0", "llama3.1")}
    outputs = {one["role"]: one for one in ctx.lineage if one.get("use") == "outputs"}
    assert outputs["teacher"] == {"source": "stub", "licence": "llama3.1", "rows": len(rows), "use": "outputs", "role": "teacher"}
    assert LLAMA_NAME in obligations(ctx.lineage) and set(outputs) == {"teacher", "judge"}
    used = summary["usage"]
    assert used["teacher"]["tokens_read"] + used["judge"]["tokens_read"] == 10 * len(asked)
    assert used["teacher"]["cost"] == pytest.approx(
        (2 * used["teacher"]["tokens_read"] + 10 * used["teacher"]["tokens_written"]) / 1e6, abs=1e-6
    )
    assert "very-secret" not in "".join(path.read_text() for path in ctx.out.rglob("*.json*"))


def test_a_server_without_n_is_asked_again_and_one_that_stumbles_too(monkeypatch):
    monkeypatch.setattr(chat_api, "FIRST_WAIT_S", 0.001)
    ask = load_templates("code_feedback").ask("problem", snippet="x = 1", samples=3)
    with chat_server(states=[503, 429], many=False) as (url, asked):
        (answers,) = UrlTeacher(Asked(use="url", url=url, model="m")).answers([ask], seeds=[7])
    assert [one.finished for one in answers] == [True] * 3 and len(asked) == 5
    assert [one.get("n") for one in asked] == [3, 3, 3, None, None] and len({one["seed"] for one in asked}) == 3
    assert asked[0]["messages"][0]["role"] == "system" and asked[0]["max_tokens"] == 256


def test_calls_of_one_turn_keep_their_results():
    calls = '{"name": "add", "parameters": {"a": 1}}; {"name": "add", "parameters": {"a": 2}}'
    results = [MessageRow(role="ipython", content=text) for text in ("one", "two")]
    choice = {"message": {"content": "3"}, "finish_reason": "stop"}
    with chat_server(reply={"choices": [choice]}) as (url, asked):
        rows = [user("add"), MessageRow(role="assistant", tool_calls=calls), *results]
        UrlTeacher(Asked(use="url", url=url, model="m")).answers([Ask(rows)], seeds=[1])
    sent = asked[0]["messages"]
    assert [one["tool_call_id"] for one in sent[2:]] == [call["id"] for call in sent[1]["tool_calls"]]


def test_calls_of_tools_travel_both_ways():
    call = '{"name": "add", "parameters": {"a": 1}}'
    tools = '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]'
    rows = [user("add"), MessageRow(role="assistant", tool_calls=call), MessageRow(role="ipython", content="1"), user("again")]
    function = {"name": "add", "arguments": '{"a": 2}'}
    choice = {"message": {"content": None, "tool_calls": [{"id": "x", "function": function}]}, "finish_reason": "tool_calls"}
    with chat_server(reply={"choices": [choice]}) as (url, asked):
        ((said,),) = UrlTeacher(Asked(use="url", url=url, model="m")).answers([Ask(rows, tools=tools)], seeds=[1])
    assert (said.text, said.tool_calls, said.finished) == ("", '{"name": "add", "parameters": {"a": 2}}', True)
    sent = asked[0]["messages"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert sent[2]["tool_call_id"] == sent[1]["tool_calls"][0]["id"] and asked[0]["tools"][0]["function"]["name"] == "add"


@pytest.mark.parametrize(
    ("reply", "states", "error", "words"),
    [
        ({"choices": []}, (), RunError, "no choice"),
        ({"other": 1}, (), RunError, "did not answer as a chat API"),
        (None, (401,), InputError, "refused the request"),
        (None, (500, 500), RunError, "does not answer"),
    ],
)
def test_a_server_that_answers_badly_is_named(monkeypatch, reply, states, error, words):
    monkeypatch.setattr(chat_api, "FIRST_WAIT_S", 0.001)
    with chat_server(states=states, reply=reply) as (url, _), pytest.raises(error, match=words):
        UrlTeacher(Asked(use="url", url=url, model="m", tries=2)).answers([Ask([user("hi")])], seeds=[1])


def test_an_address_needs_a_name_and_a_key_that_is_there(tmp_path, monkeypatch, inputs):
    with pytest.raises(InputError, match="needs `url` and `model`"):
        made(tmp_path, ["maths_verified"], inputs, {"use": "url", "url": "http://127.0.0.1:9"})
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(InputError, match="NO_SUCH_KEY is empty"):
        made(tmp_path, ["maths_verified"], inputs,
             {"use": "url", "url": "http://127.0.0.1:9", "model": "m", "key_variable": "NO_SUCH_KEY"})  # fmt: skip


def test_every_generator_runs_on_a_model_of_ours_and_refuses_noise(tmp_path, monkeypatch, inputs):
    monkeypatch.setattr(synthesise, "LazySandbox", TrustedBox)
    model = base_artifact(tmp_path / "base", max_seq_len=512)

    ctx = local_context(tmp_path / "out", name="synth", inputs=[*inputs, model], seed=2)
    wanted = {name: {"count": 2, "max_tokens": 8, **OWN.get(name, {})} for name in NAMES}
    summary = synthesise.run(synthesise.Settings.model_validate({"generators": wanted}), ctx)
    assert summary["accepted"] == 0 and summary["teacher"] == model.digest
    for name in NAMES:
        counts = summary["generators"][name]
        assert sum(counts["reasons"].values()) == 2 and set(counts["reasons"]) <= set(GENERATORS[name].REASONS)
    assert json.loads((ctx.out / "policy.json").read_text())["ancestors"] == [model.digest]
