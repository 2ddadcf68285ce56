"""Forms of answers over the API: a small random network says nothing that the request does not allow."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("httpx")
pytest.importorskip("llguidance")
import jsonschema
import torch
from fastapi.testclient import TestClient
from scripted import byte_tokenizer

from puna.infer.engine import Engine
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.serve.app import build_app

TOKENIZER = byte_tokenizer()
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "on": {"type": "boolean"}},
    "required": ["x", "on"],
    "additionalProperties": False,
}
REFERRING = {"$defs": {"digit": {"enum": [1, 2, 3]}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/digit"}},
             "required": ["a"], "additionalProperties": False}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": REFERRING}},
    {"type": "function", "function": {"name": "show", "parameters": POINT, "strict": True}},
]


@pytest.fixture(scope="module")
def client():
    config = ModelConfig(vocab_size=512, dim=32, layers=1, heads=4, kv_heads=2, ffn_dim=48, max_seq_len=2048)
    model = Llama(config, seed=2)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    engine = Engine(model, stop_ids=TOKENIZER.stop_ids)
    with TestClient(build_app(engine, TOKENIZER, "tiny"), base_url="http://127.0.0.1") as c:
        yield c


def ask(client, **fields):
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 120, "seed": 3, **fields}
    return client.post("/v1/chat/completions", json=body)


def wanted(schema):
    return {"type": "json_schema", "json_schema": {"name": "point", "strict": True, "schema": schema}}


def test_response_format_json_schema(client):
    choices = ask(client, response_format=wanted(POINT), n=6).json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop"] * 6
    for choice in choices:
        jsonschema.validate(json.loads(choice["message"]["content"]), POINT)


def test_response_format_streams_the_same(client):
    whole = ask(client, response_format=wanted(POINT)).json()["choices"][0]["message"]["content"]
    lines = [line.removeprefix("data: ") for line in ask(client, response_format=wanted(POINT), stream=True).text.split("\n\n")]
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines if line.startswith("{")]
    assert "".join(delta.get("content", "") for delta in deltas) == whole


def test_response_format_json_object(client):
    choices = ask(client, response_format={"type": "json_object"}, n=8, max_tokens=300).json()["choices"]
    ended = [choice["message"]["content"] for choice in choices if choice["finish_reason"] == "stop"]
    assert ended and all(isinstance(json.loads(text), dict) for text in ended)
    assert all(choice["message"]["content"].startswith("{") for choice in choices)


def test_a_cut_answer_says_length(client):
    [choice] = ask(client, response_format=wanted(POINT), max_tokens=5).json()["choices"]
    assert choice["finish_reason"] == "length" and choice["message"]["content"].startswith('{"x":')


def test_guided_fields_on_both_endpoints(client):
    body = {"prompt": ["a", "b"], "guided_regex": "[ab]{3}-[0-9]{2}", "max_tokens": 20, "seed": 1}
    texts = [choice["text"] for choice in client.post("/v1/completions", json=body).json()["choices"]]
    assert len(texts) == 2 and all(re.fullmatch("[ab]{3}-[0-9]{2}", text) for text in texts)
    for form in (POINT, json.dumps(POINT)):
        jsonschema.validate(json.loads(ask(client, guided_json=form).json()["choices"][0]["message"]["content"]), POINT)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_tool_that_must_be_called_is(client, choice):
    names = set()
    for choice_ in ask(client, tools=TOOLS, tool_choice=choice, n=6).json()["choices"]:
        assert choice_["finish_reason"] == "tool_calls" and choice_["message"]["content"] is None
        function = choice_["message"]["tool_calls"][0]["function"]
        names.add(function["name"])
        jsonschema.validate(json.loads(function["arguments"]), POINT if function["name"] == "show" else REFERRING)
    assert names == ({"add"} if choice != "required" else names & {"add", "show"})


REFUSED = [
    ({"response_format": wanted({"not": {}})}, "'not'"),
    ({"response_format": {"type": "json_schema"}}, "json_schema.schema"),
    ({"response_format": {"type": "yaml"}}, "response_format"),
    ({"guided_regex": "(?=a)a"}, "look-around"),
    ({"guided_json": "{"}, "not JSON"),
    ({"guided_regex": "a", "guided_json": {}}, "one form"),
    ({"guided_regex": "a", "tools": TOOLS}, "tool calls"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "rm"}}}, "not offered"),
    ({"tool_choice": "required"}, "not offered"),
    ({"structured_outputs": {"regex": "a"}}, "'structured_outputs'"),
]


@pytest.mark.parametrize(("fields", "named"), REFUSED, ids=str)
def test_forms_that_cannot_be_enforced_are_refused(client, fields, named):
    response = ask(client, **fields)
    assert response.status_code == 400 and named in response.json()["error"]["message"]


def test_text_is_no_form(client):
    assert ask(client, response_format={"type": "text"}, max_tokens=3).json()["usage"]["completion_tokens"] <= 3
