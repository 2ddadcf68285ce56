"""Log-probabilities over HTTP: the forms of the OpenAI API, with the network's own values."""

import json

import pytest
import torch

pytest.importorskip("httpx")
from fastapi.testclient import TestClient
from scripted import byte_tokenizer

from puna.infer.engine import Engine
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.serve.app import build_app
from puna.tokenizer.chat import Message, render

TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="module")
def model() -> Llama:
    config = ModelConfig(vocab_size=TOKENIZER.vocab_size, dim=32, layers=1, heads=2, kv_heads=1, ffn_dim=48, max_seq_len=128)
    made = Llama(config, seed=4).eval()
    with torch.no_grad():
        made.lm_head.weight.mul_(30)
        made.lm_head.weight[TOKENIZER.eot_id] *= 3
    return made


@pytest.fixture(scope="module")
def client(model):
    with TestClient(build_app(Engine(model, stop_ids=TOKENIZER.stop_ids), TOKENIZER, "tiny"), base_url="http://127.0.0.1") as c:
        yield c


def own(model: Llama, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0].log_softmax(-1)


def chat(client, **fields):
    body = {"messages": [{"role": "user", "content": "Hi"}], "seed": 3, "max_tokens": 12, "n": 2, **fields}
    return client.post("/v1/chat/completions", json=body)


def test_chat_tells_each_token_and_the_likeliest(client, model):
    prompt = render(TOKENIZER, [Message("user", "Hi")], generation_prompt=True).ids
    for choice in chat(client, logprobs=True, top_logprobs=3).json()["choices"]:
        content, ids = choice["logprobs"]["content"], list(prompt)
        assert content
        for entry in content:
            likely = own(model, ids)[-1].topk(3)
            assert [other["token"] for other in entry["top_logprobs"]] == [TOKENIZER.decode([i]) for i in likely.indices.tolist()]
            assert [other["logprob"] for other in entry["top_logprobs"]] == pytest.approx(likely.values.tolist(), abs=1e-4)
            token = entry["bytes"][0] if len(entry["bytes"]) == 1 else TOKENIZER.special_id(entry["token"])
            assert entry["logprob"] == pytest.approx(own(model, ids)[-1, token].item(), abs=1e-4)
            ids.append(token)
        assert choice["message"]["content"] == TOKENIZER.decode(ids[len(prompt) :], skip_special=True)


def test_a_stream_tells_the_same(client):
    whole = chat(client, logprobs=True, top_logprobs=2).json()["choices"]
    told: list[list] = [[], []]
    lines = chat(client, logprobs=True, top_logprobs=2, stream=True).text.split("\n\n")
    for line in lines:
        for choice in json.loads(line.removeprefix("data: "))["choices"] if line.startswith("data: {") else ():
            told[choice["index"]] += (choice["logprobs"] or {"content": []})["content"]
    assert told == [choice["logprobs"]["content"] for choice in whole]
    assert [choice["logprobs"] for choice in chat(client).json()["choices"]] == [None, None]
    assert chat(client, logprobs=True).json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_completions_echo_and_offsets(client, model):
    fields = {"prompt": ["Grüße", "Hi"], "max_tokens": 6, "seed": 1, "logprobs": 2, "echo": True}
    for prompt, choice in zip(fields["prompt"], client.post("/v1/completions", json=fields).json()["choices"], strict=True):
        told, ids = choice["logprobs"], [TOKENIZER.bos_id, *prompt.encode()]
        count = len(ids)
        assert choice["text"].startswith(prompt) and told["text_offset"][count] >= len(prompt)
        assert told["token_logprobs"][0] is None and told["top_logprobs"][:count] == [None] * count
        expected = own(model, ids)[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist()
        assert told["token_logprobs"][1:count] == pytest.approx(expected, abs=1e-4)
        likely = own(model, ids)[-1].topk(2)
        first = {
            TOKENIZER.decode([token]): value for token, value in zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
        }
        assert told["top_logprobs"][count] == pytest.approx(first, abs=1e-4)
        assert len({len(values) for values in told.values()}) == 1
    bare = {**fields, "echo": False, "logprobs": 0}
    told = client.post("/v1/completions", json=bare).json()["choices"][1]["logprobs"]
    assert told["top_logprobs"] is None and told["text_offset"][0] == 0 and len(told["tokens"]) == len(told["token_logprobs"])
    reply = client.post("/v1/completions", json={**bare, "stream": True})
    pieces = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line.startswith("data: {")]
    second = [piece["choices"][0]["logprobs"] for piece in pieces if piece["choices"][0]["index"] == 1]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [value for piece in second for value in piece[name]] == told[name]


def test_what_cannot_be_told(client):
    assert client.post("/v1/completions", json={"prompt": "x", "logprobs": 99}).json()["error"]["param"] == "logprobs"
    reply = client.post("/v1/completions", json={"prompt": "x", "echo": True, "stream": True})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "echo")
