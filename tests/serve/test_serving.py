from __future__ import annotations

import builtins
import json
import socket
import threading
import time

import pytest
import torch

from puna.core.errors import InputError
from puna.infer.engine import Request
from puna.infer.load import load_engine
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.serve import terminal
from puna.serve.app import create_app, serve
from puna.serve.local import bind
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Message, parse, render

PROMPTS = ("Hi", "What is 7 plus 5?\n", "Größe? 漢字 😀", "")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A small random model whose answers differ and sometimes end by themselves."""
    directory = tmp_path_factory.mktemp("models") / "tiny-chat"
    ranks = {bytes([b]): b for b in range(256)}
    for word in (b"\n\n", b"system", b"user", b"assistant", b"ipython", b" the", b"he", "é".encode()):
        ranks.setdefault(word, len(ranks))
    tokenizer = Tokenizer.from_ranks(ranks)
    torch.manual_seed(3)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=64, max_seq_len=192)
    model = Llama(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
        model.lm_head.weight[tokenizer.base_size :] *= 0.1
        model.lm_head.weight[tokenizer.eot_id] *= 12
    save_model(model, directory, tokenizer=tokenizer)
    return directory


@pytest.fixture(scope="module")
def server(directory):
    uvicorn = pytest.importorskip("uvicorn")
    listening = bind("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(create_app(directory), log_level="warning"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    running.should_exit = True
    thread.join(timeout=10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(server):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=server, api_key="none", max_retries=0)


def greedy(directory, prompt: str, max_tokens: int) -> str:
    engine, tokenizer = load_engine(directory)
    ids = render(tokenizer, [Message("user", prompt)], generation_prompt=True).ids
    completion = engine.generate([Request(ids, max_tokens=max_tokens)])[0][0]
    message = parse(tokenizer, completion.ids)
    return message.content + (message.tool_calls or "")


def test_openai_client_streaming_and_not(client, directory):
    for prompt in PROMPTS:
        fields = {"model": "tiny-chat", "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 40}
        whole = client.chat.completions.create(**fields)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**fields, stream=True))
        assert whole.choices[0].message.content == text == greedy(directory, prompt, 40)
        assert whole.usage.completion_tokens <= 40


def test_openai_client_models_completions_and_errors(client):
    import openai

    assert [model.id for model in client.models.list()] == ["tiny-chat"]
    whole = client.completions.create(model="tiny-chat", prompt="The", max_tokens=20, seed=1)
    pieces = client.completions.create(model="tiny-chat", prompt="The", max_tokens=20, seed=1, stream=True)
    assert whole.choices[0].text == "".join(piece.choices[0].text for piece in pieces)
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="model reads 192"):
        client.chat.completions.create(model="tiny-chat", messages=[{"role": "user", "content": "x" * 500}], stream=True)


def test_answers_do_not_depend_on_neighbours(client):
    def ask(seed: int) -> str:
        messages = [{"role": "user", "content": f"question {seed}"}]
        reply = client.chat.completions.create(model="tiny-chat", messages=messages, seed=seed, temperature=1, max_tokens=30, n=2)
        return json.dumps([choice.message.content for choice in reply.choices])

    alone = [ask(seed) for seed in range(6)]
    together = [""] * 6
    threads = [threading.Thread(target=lambda i=i: together.__setitem__(i, ask(i))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert len(set(alone)) > 1


def test_hanging_up_frees_the_engine(server, directory):
    import httpx

    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 150, "n": 8, "temperature": 1.5, "stream": True}
    for _ in range(3):
        with httpx.stream("POST", server + "/chat/completions", json=body) as reply:
            assert next(reply.iter_lines()).startswith("data: ")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server + "/chat/completions", json={**body, "stream": False}, timeout=0.02)
    assert httpx.post(server + "/chat/completions", json={**body, "stream": False, "max_tokens": 1}).status_code == 200


def test_terminal_says_what_transformers_says(directory, capsys):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32)
    hf = transformers.AutoTokenizer.from_pretrained(str(directory))
    answers = set()
    for prompt in PROMPTS:
        terminal.chat(directory, prompt, max_tokens=60)
        said = capsys.readouterr().out
        messages = [{"role": "user", "content": prompt}]
        ids = hf.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        written = model.generate(**ids, do_sample=False, max_new_tokens=60)[0, ids["input_ids"].shape[1] :]
        assert said == hf.decode(written, skip_special_tokens=True) + "\n"
        answers.add(said)
    assert len(answers) > 1


def test_terminal_json(directory, capsys):
    terminal.chat(directory, "Hi", system="Be brief.", max_tokens=8, as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"text", "tool_calls", "finished", "tokens"}
    assert answer["tokens"] <= 8
    with pytest.raises(InputError, match="needs a prompt"):
        terminal.chat(directory, as_json=True)


def test_terminal_conversation(directory, capsys, monkeypatch):
    lines = iter(["Hi", "/system Be brief.", "/help", "x" * 400, "Hi", "/reset", "Hi", "/quit"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(lines))
    asked = []
    real = terminal.Conversation.request
    monkeypatch.setattr(terminal.Conversation, "request", lambda talk: asked.append(list(talk.messages)) or real(talk))
    terminal.chat(directory, max_tokens=12)
    out = capsys.readouterr().out
    assert greedy(directory, "Hi", 12) in out
    assert "a new conversation with system prompt: Be brief." in out
    assert "the model reads 192" in out
    assert [len(messages) for messages in asked] == [1, 1, 1, 1]


def test_busy_port_and_bad_host(directory):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match="port is in use") as caught:
            serve(directory, port=port)
        assert caught.value.where == f"127.0.0.1:{port}"
    for host, port in (("no.such.host.invalid", 8000), ("127.0.0.1", 99999)):
        with pytest.raises(InputError, match=r"cannot listen|from 0 to 65535"):
            serve(directory, host=host, port=port)
    with pytest.raises(InputError, match="no model directory"):
        serve(directory / "nothing", port=0)
