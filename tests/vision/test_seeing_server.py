"""Pictures and videos through the API: OpenAI's client as it is, and what is refused before anything is read."""

from __future__ import annotations

import base64
import importlib.util
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("httpx")
from fastapi.testclient import TestClient
from seeing import IMAGE, SHAPE, TOKENIZER, engine_of, noise, png, seeing_model
from video_cases import animated

from puna.infer.engine import Engine, Request
from puna.infer.request import Shown
from puna.serve import media as serve_media
from puna.serve.app import Limits, build_app
from puna.serve.local import bind
from puna.tokenizer.chat import Medium, Message, parse, render
from puna.vision.fetch import MediaRules
from puna.vision.media import load

MODEL = seeing_model()
DATA = Path(__file__).parents[3] / "shared" / "data"


def url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image_part(seed: int = 1, **more) -> dict:
    return {"type": "image_url", "image_url": {"url": url(png(seed)), **more}}


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}


def app(engine: Engine | None = None, **options):
    return build_app(engine or engine_of(MODEL), TOKENIZER, "eye", **options)


def client(engine: Engine | None = None, **options) -> TestClient:
    return TestClient(app(engine, **options), base_url="http://127.0.0.1")


def ask(c: TestClient, *parts, **fields):
    body = {"messages": [{"role": "user", "content": list(parts)}], "temperature": 0, "max_tokens": 12, **fields}
    return c.post("/v1/chat/completions", json=body)


def expected(messages: list[Message], max_tokens: int = 12) -> str:
    """What the engine says without any server."""
    rendered = render(TOKENIZER, messages, generation_prompt=True)
    media = [medium for message in messages for medium in message.media]
    shown = [Shown(at, load(medium, None, MediaRules(), SHAPE)) for at, medium in zip(rendered.media, media, strict=True)]
    engine = Engine(MODEL.text, stop_ids=TOKENIZER.stop_ids, page_size=8, eyes=engine_of(MODEL).eyes)
    return parse(TOKENIZER, engine.generate([Request(rendered.ids, media=shown, max_tokens=max_tokens)])[0][0].ids).content


def content(reply) -> str:
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def openai_client():
    openai, uvicorn = pytest.importorskip("openai"), pytest.importorskip("uvicorn")
    listening = bind("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(app(), log_level="warning"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield openai.OpenAI(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", api_key="none", max_retries=0)
    running.should_exit = True
    thread.join(timeout=10)


def test_openai_client_with_pictures_streaming_and_not(openai_client):
    parts = [text_part("Is "), image_part(1), text_part(" like "), image_part(2, detail="low"), text_part("?")]
    media = (Medium(3, "image", url(png(1))), Medium(9, "image", url(png(2)), detail="low"))
    text = expected([Message("user", "Is  like ?", media=media)])
    fields = {"model": "eye", "messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 12}
    whole = openai_client.chat.completions.create(**fields)
    assert whole.choices[0].message.content == text
    streamed = openai_client.chat.completions.create(**fields, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == text
    assert text != expected([Message("user", "Is  like ?", media=media[:1])])


def test_a_conversation_about_a_video(openai_client):
    clip = {"type": "video_url", "video_url": {"url": url(animated(8), "image/gif"), "num_frames": 4, "start": 0.1}}
    first = [{"role": "user", "content": [clip, text_part("What?")]}]
    medium = Medium(0, "video", url(animated(8), "image/gif"), frames=4, start=0.1)

    def reply(messages: list[dict]) -> str:
        found = openai_client.chat.completions.create(model="eye", messages=messages, temperature=0, max_tokens=12)
        return found.choices[0].message.content

    said = reply(first)
    assert said == expected([Message("user", "What?", media=(medium,))])
    turns = [*first, {"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]
    again = reply(turns)
    messages = [Message("user", "What?", media=(medium,)), Message("assistant", said), Message("user", "And then?")]
    assert again == expected(messages)


def test_a_picture_is_decoded_once_and_outside_the_event_loop(monkeypatch):
    threads: list[str] = []
    real = serve_media.decode
    monkeypatch.setattr(serve_media, "decode", lambda *a: (threads.append(threading.current_thread().name), real(*a))[1])
    engine = engine_of(MODEL)
    with client(engine) as c:
        first = content(ask(c, image_part(), text_part("a")))
        assert content(ask(c, image_part(), text_part("a"))) == first
        content(ask(c, image_part(), text_part("b"), n=2))
    assert len(threads) == 1 and threads[0].startswith("media") and engine.eyes.looked == 1


def test_the_server_answers_while_a_picture_is_decoded(monkeypatch):
    began, go_on = threading.Event(), threading.Event()
    real = serve_media.decode

    def slow(*args):
        began.set()
        assert go_on.wait(10)
        return real(*args)

    monkeypatch.setattr(serve_media, "decode", slow)
    with client() as c:
        replies = []
        asking = threading.Thread(target=lambda: replies.append(ask(c, image_part(), text_part("a"))))
        asking.start()
        assert began.wait(10)
        assert c.get("/health").json() == {"status": "ok"}
        assert ask(c, text_part("text alone")).status_code == 200 and not replies
        go_on.set()
        asking.join(10)
        assert replies[0].status_code == 200


def test_decoded_pictures_are_bounded(monkeypatch):
    with client() as c:
        assert ask(c, image_part(1), text_part("a")).status_code == 200
        monkeypatch.setattr(serve_media, "MOST_BYTES", 100)
        reply = ask(c, image_part(1), text_part("a"))
        assert reply.status_code == 429 and reply.json()["error"]["code"] == "too_many_requests"


def test_real_pictures_and_videos_pass():
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent")
    files = sorted([*DATA.glob("images/*.png"), *DATA.glob("images/*.jpg")])
    assert len(files) >= 10
    with client(media_root=DATA, limits=Limits(media=32)) as c:
        shown = [{"type": "image_url", "image_url": {"url": f"images/{file.name}"}} for file in files]
        for each in shown:
            assert ask(c, each, text_part("?"), max_tokens=3).status_code == 200, each
        assert ask(c, *shown, text_part("?"), max_tokens=3).status_code == 200
        clip = {"type": "video_url", "video_url": {"url": "video/video_180.mov", "num_frames": 8}}
        if importlib.util.find_spec("av"):
            assert ask(c, clip, text_part("?"), max_tokens=3).status_code == 200
            broken = {"type": "video_url", "video_url": {"url": "video/corrupted.mp4"}}
            refused(ask(c, broken, text_part("?")), "the video is")


def test_files_below_the_media_root(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "clip").mkdir()
    for i in range(3):
        noise(16, 16, i).save(tmp_path / "clip" / f"{i}.png")
    named = {"type": "image_url", "image_url": {"url": "a.png"}}
    with client(media_root=tmp_path) as c:
        assert content(ask(c, named, text_part("x"))) == content(ask(c, image_part(1), text_part("x")))
        assert ask(c, {"type": "video_url", "video_url": {"url": "clip"}}, text_part("x")).status_code == 200
        refused(ask(c, {"type": "image_url", "image_url": {"url": "../a.png"}}), "leads out of the media folder")
        refused(ask(c, {"type": "image_url", "image_url": {"url": f"file://{tmp_path}/a.png"}}), "are not read")
    with client() as c:
        refused(ask(c, named), "files are not read here")


def refused(reply, words: str, status: int = 400) -> None:
    error = reply.json()["error"]
    assert reply.status_code == status and words in error["message"], reply.text
    assert error["type"] == "invalid_request_error" and len(error["message"]) < 500


@pytest.mark.parametrize(
    ("rules", "address", "words"),
    [
        (MediaRules(), "https://example.org/a.png", "not fetched from the web"),
        (MediaRules(domains=("example.org",)), "https://example.com/a.png", "not among the allowed domains"),
        (MediaRules(domains=("*",)), "http://127.0.0.1:1/a.png", "private network"),
        (MediaRules(domains=("*",)), "http://169.254.169.254/latest/meta-data/", "private network"),
        (MediaRules(), "data:image/png;base64,AAAA", "no picture in a known format"),
        (MediaRules(), url(png(1)[:200]), "damaged"),
        (MediaRules(max_pixels=100), url(png(1)), "million pixels"),
        (MediaRules(max_bytes=100), url(png(1)), "send a smaller one"),
    ],
)  # fmt: skip
def test_pictures_that_are_refused(rules, address, words):
    with client(rules=rules) as c:
        reply = ask(c, {"type": "image_url", "image_url": {"url": address}}, text_part("x"))
        refused(reply, words)
        assert reply.json()["error"]["param"] == "messages"
        assert ask(c, text_part("x")).status_code == 200


def test_malformed_parts_are_named():
    with client(limits=Limits(media=2)) as c:
        for part, words in (
            ({"type": "image_url", "image_url": "x"}, "content.0"),
            ({"type": "image_url", "image_url": {"url": 3}}, "url"),
            ({"type": "image_url", "image_url": {"url": "a", "detail": "ultra"}}, "detail"),
            ({"type": "image_url", "image_url": {"url": "a", "size": 3}}, "'size'"),
            ({"type": "video_url", "video_url": {"url": "a", "num_frames": 0}}, "num_frames"),
            ({"type": "input_image", "image_url": "x"}, "'input_image' are not supported"),
            ({"type": "audio_url", "audio_url": {"url": "a"}}, "has no ears"),
        ):
            refused(ask(c, part), words)
        refused(ask(c, *[image_part(i) for i in range(3)]), "at most 2 pictures")
        shown = {"messages": [{"role": "system", "content": [image_part()]}, {"role": "user", "content": "x"}]}
        refused(c.post("/v1/chat/completions", json=shown), "the user's may")


def test_a_model_of_text_alone_refuses_pictures():
    with client(Engine(MODEL.text, stop_ids=(), page_size=8)) as c:
        refused(ask(c, image_part(), text_part("x")), "this model reads text alone")
        assert c.get("/v1/models").json()["data"][0]["input_modalities"] == ["text"]
    with client(engine_of(seeing_model(video=False))) as c:
        refused(ask(c, {"type": "video_url", "video_url": {"url": url(animated(3), "image/gif")}}), "no content of kind 'video'")
        assert c.get("/v1/models/eye").json()["input_modalities"] == ["text", "image"]


def test_text_requests_are_what_a_text_server_says():
    with client() as sees, client(Engine(MODEL.text, stop_ids=(), page_size=8)) as reads:
        for text in ("Hi", "What is 7 plus 5?"):
            fields = {"logprobs": True, "top_logprobs": 3}
            found, plain = (ask(c, text_part(text), **fields).json()["choices"] for c in (sees, reads))
            assert found == plain


def test_requests_with_pictures_may_be_large():
    with client() as c:
        large = noise(1300, 1400, 3)  # above 4 MB as base64
        import io

        out = io.BytesIO()
        large.save(out, "PNG")
        assert len(out.getvalue()) > 4 << 20
        assert ask(c, {"type": "image_url", "image_url": {"url": url(out.getvalue())}}, text_part("x")).status_code == 200
    with client(Engine(MODEL.text, stop_ids=())) as c:
        assert ask(c, text_part("x" * (5 << 20))).status_code == 413


def test_the_page_takes_attachments():
    with client() as c:
        page = c.get("/")
        assert 'id="attach"' in page.text and 'src="/chat_media.js"' in page.text
        assert "img-src 'self' data:; media-src 'self' data:" in page.headers["content-security-policy"]
        script = c.get("/chat_media.js").text
        assert "innerHTML" not in script and "http" not in script
        for event in ("'paste'", "'drop'", "'change'"):
            assert f"addEventListener({event}" in script


def test_prompts_hold_a_token_for_each_medium():
    engine = engine_of(MODEL)
    seen: list[Request] = []
    real = engine.add
    engine.add = lambda request: (seen.append(request), real(request))[1]
    with client(engine) as c:
        reply = ask(c, image_part(1), text_part("ab"), image_part(2))
    request = seen[0]
    assert [request.prompt_ids[shown.at] for shown in request.media] == [IMAGE, IMAGE]
    assert reply.json()["usage"]["prompt_tokens"] == len(request.prompt_ids)
