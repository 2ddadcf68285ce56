"""Directories of models that see: served, talked to in the terminal, and told apart from those of text models."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from seeing import SHAPE, TOKENIZER, asked, picture, png, seeing_model, words
from video_cases import animated

from puna.core.errors import InputError
from puna.infer.engine import Engine, Request
from puna.infer.load import load_engine
from puna.infer.request import Shown
from puna.infer.shards import Layout
from puna.model.checkpoint import save_model
from puna.serve import terminal
from puna.serve.models import opened_model
from puna.tokenizer.chat import Medium, Message, parse, render
from puna.vision.eyes import Eyes, open_seeing, sees
from puna.vision.fetch import MediaRules
from puna.vision.hf import save_vision
from puna.vision.media import load

MODEL = seeing_model()


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny-eye"
    save_vision(MODEL, directory, tokenizer=TOKENIZER, image_shape=SHAPE)
    return directory


@pytest.fixture(scope="module")
def text_directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny-text"
    save_model(MODEL.text, directory, tokenizer=TOKENIZER)
    return directory


@pytest.fixture
def files(tmp_path) -> Path:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "clip.gif").write_bytes(animated(5))
    return tmp_path


def said(messages: list[Message], root: Path, max_tokens: int) -> str:
    """What the model in memory says."""
    rendered = render(TOKENIZER, messages, generation_prompt=True)
    media = [medium for message in messages for medium in message.media]
    shown = [Shown(at, load(medium, root, MediaRules(), SHAPE)) for at, medium in zip(rendered.media, media, strict=True)]
    engine = Engine(MODEL.text, stop_ids=TOKENIZER.stop_ids, eyes=Eyes(MODEL, SHAPE))
    message = parse(TOKENIZER, engine.generate([Request(rendered.ids, media=shown, max_tokens=max_tokens)])[0][0].ids)
    return message.content + (message.tool_calls or "")


def test_a_directory_is_known_by_its_config(directory, text_directory, tmp_path):
    assert sees(directory) and not sees(text_directory) and not sees(tmp_path)
    with opened_model(text_directory) as (engine, _):
        assert engine.eyes is None
    with opened_model(directory) as (engine, tokenizer):
        assert engine.eyes.shape == SHAPE and engine.eyes.video and tokenizer.digest == TOKENIZER.digest
    with pytest.raises(InputError, match="answered by one process"), opened_model(directory, Layout(2, 1)):
        pass


def test_lora_adapters_of_the_text_leave_one_type(directory, tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file({name.format("A"): torch.ones(2, 32), name.format("B"): torch.zeros(32, 2)}, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    request = asked([picture(1), *words(3, 9)])
    plain, _ = load_engine(directory, opener=open_seeing, dtype=torch.bfloat16)
    merged, _ = load_engine(directory, opener=open_seeing, dtype=torch.bfloat16, lora=[(folder, 1.0)])
    assert {weight.dtype for weight in merged.eyes.model.parameters()} == {torch.bfloat16}
    assert merged.generate([request])[0][0].ids == plain.generate([request])[0][0].ids


def test_a_served_directory_answers_about_pictures(directory, files):
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    from puna.serve.app import create_app

    address = "data:image/png;base64," + base64.b64encode(png(1)).decode()
    parts = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": "What?"}]
    with TestClient(create_app(directory), base_url="http://127.0.0.1") as c:
        body = {"model": "tiny-eye", "messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 10}
        reply = c.post("/v1/chat/completions", json=body).json()
    message = Message("user", "What?", media=(Medium(0, "image", "a.png"),))
    assert reply["choices"][0]["message"]["content"] == said([message], files, 10)


def test_the_terminal_shows_pictures_with_a_prompt(directory, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    terminal.chat(directory, "What?", max_tokens=10, images=["a.png"], videos=[str(files / "clip.gif")])
    media = (Medium(0, "image", "a.png"), Medium(0, "video", "clip.gif"))
    assert capsys.readouterr().out == said([Message("user", "What?", media=media)], files, 10) + "\n"


def test_the_terminal_shows_pictures_in_a_conversation(directory, files, capsys, monkeypatch):
    lines = iter([f"/image {files}/a.png", "What?", f"/video {files}/none.gif", "And this?", "/image", "Bye", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    asked = []
    real = terminal.Conversation.request
    monkeypatch.setattr(terminal.Conversation, "request", lambda talk: asked.append(list(talk.messages)) or real(talk))
    terminal.chat(directory, max_tokens=6)
    out = capsys.readouterr().out
    assert terminal.SHOWING in out and "there is no such file" in out
    assert [[len(message.media) for message in messages] for messages in asked] == [[1], [1, 0, 1], [1, 0, 0]]


def test_a_text_model_shows_nothing(text_directory, files, monkeypatch, capsys):
    with pytest.raises(InputError, match="reads text alone"):
        terminal.chat(text_directory, "What?", images=[str(files / "a.png")])
    lines = iter([f"/image {files}/a.png", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    terminal.chat(text_directory)
    out = capsys.readouterr().out
    assert terminal.SHOWING not in out and out.count(terminal.COMMANDS) == 2


def test_a_media_root_that_is_not_there(directory, tmp_path):
    from puna.serve.app import serve

    with pytest.raises(InputError, match="no such folder"):
        serve(directory, media_root=tmp_path / "none")


def test_options_of_the_verbs(directory, monkeypatch):
    from puna.commands import models
    from puna.serve import app

    given = {}
    monkeypatch.setattr(app, "serve", lambda path, **options: given.update(options, path=path))
    models.serve(str(directory), allow_media_domains=["example.org, *.example.net", "b.test"], media_root=Path("photos"))
    assert given["rules"].domains == ("example.org", "*.example.net", "b.test")
    assert given["media_root"] == Path("photos") and given["path"] == directory
    models.serve(str(directory))
    assert given["rules"] == MediaRules() and given["media_root"] is None
