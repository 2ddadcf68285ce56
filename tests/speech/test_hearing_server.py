"""Sound through the API: OpenAI's client as it is, and what is refused with a reason."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("httpx")
import soundfile
from fastapi.testclient import TestClient
from hearing import RATE, TOKENIZER, engine_of, hearing_model, sound_file, tone

import puna.serve.app
from puna.infer.engine import Engine
from puna.serve.app import Limits, build_app
from puna.serve.local import bind
from puna.serve.multipart import read_form
from puna.serve.protocol import ApiError
from puna.speech import cuts as cutting
from puna.speech.clip import load_clip
from puna.speech.ears import Ears
from puna.speech.hear import spoken_to
from puna.speech.prompts import recognition, translation
from puna.speech.sound import SoundRules, blocks, read_sound
from puna.speech.transcribe import transcript
from puna.tokenizer.chat import Medium, Message, parse
from puna.vision.fetch import MediaRules

MODEL = hearing_model()


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is loud counts as speech: tones are none."""

    def segments(wave_N: torch.Tensor, rate: int) -> list[tuple[float, float]]:
        loud_S = wave_N[: len(wave_N) // rate * rate].unflatten(0, (-1, rate)).abs().amax(1) > 0.05
        return [(float(i), float(i + 1)) for i in loud_S.nonzero().flatten().tolist()]

    monkeypatch.setattr(cutting, "segments", segments)


def client(engine: Engine | None = None, **options) -> TestClient:
    return TestClient(build_app(engine or engine_of(MODEL), TOKENIZER, "ear", **options), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def openai_client():
    openai, uvicorn = pytest.importorskip("openai"), pytest.importorskip("uvicorn")
    listening = bind("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(build_app(engine_of(MODEL), TOKENIZER, "ear"), log_level="warning"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield openai.OpenAI(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", api_key="none", max_retries=0)
    running.should_exit = True
    thread.join(timeout=10)


def long_sound() -> bytes:
    """Forty seconds with three stretches of tone, as FLAC."""
    quiet = torch.zeros(6 * RATE)
    wave_N = torch.cat([quiet, tone(300, 2), quiet, quiet, tone(900, 3), quiet, tone(500, 1), quiet])
    out = io.BytesIO()
    soundfile.write(out, wave_N.numpy(), RATE, format="FLAC")
    return out.getvalue()


def expected(content: bytes, system: str) -> list:
    """What the engine says of a sound without any server."""
    pieces = cutting.cuts(blocks(content, SoundRules(), 60.0))
    return list(transcript(engine_of(MODEL), TOKENIZER, Ears(MODEL), pieces, system))


def test_transcripts_in_every_form(openai_client):
    content = long_sound()
    said = expected(content, recognition("de"))
    assert len(said) == 3
    text = " ".join(piece.text for piece in said if piece.text)
    fields = {"model": "ear", "file": ("a.flac", content), "language": "de"}
    create = openai_client.audio.transcriptions.create
    found = create(**fields)
    assert found.text.split() == text.split() and found.usage.seconds == 36.0
    assert create(**fields, response_format="text").split() == text.split()
    told = create(**fields, response_format="verbose_json", timestamp_granularities=["segment"])
    assert (told.language, told.duration) == ("german", 36.0)
    assert [(each.start, each.end) for each in told.segments] == [(6.0, 8.0), (20.0, 23.0), (29.0, 30.0)]
    assert [tuple(each.tokens) for each in told.segments] == [piece.tokens for piece in said]
    assert create(**fields, response_format="srt").count(" --> ") == sum(bool(piece.text.strip()) for piece in said)
    assert create(**fields, response_format="vtt").startswith("WEBVTT\n\n")


def test_streamed_transcripts_are_the_whole_ones(openai_client):
    fields = {"model": "ear", "file": ("a.flac", long_sound())}
    events = list(openai_client.audio.transcriptions.create(**fields, stream=True))
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert events[-1].type == "transcript.text.done" and len(events) > 3
    assert "".join(event.delta for event in events[:-1]) == events[-1].text
    assert events[-1].text == openai_client.audio.transcriptions.create(**fields).text


def test_translations(openai_client):
    content = sound_file(400, 2.0)
    found = openai_client.audio.translations.create(model="ear", file=("a.wav", content))
    assert found.text.split() == expected(content, translation("en"))[0].text.split()
    other = openai_client.audio.translations.create(model="ear", file=("a.wav", content), extra_body={"to_language": "de"})
    assert other.text.split() == expected(content, translation("de"))[0].text.split()


def test_silence_has_an_empty_transcript(openai_client):
    out = io.BytesIO()
    soundfile.write(out, torch.zeros(RATE).numpy(), RATE, format="WAV")
    assert openai_client.audio.transcriptions.create(model="ear", file=("a.wav", out.getvalue())).text == ""
    events = list(openai_client.audio.transcriptions.create(model="ear", file=("a.wav", out.getvalue()), stream=True))
    assert [(event.type, event.text) for event in events] == [("transcript.text.done", "")]


def test_sound_in_chat(openai_client):
    content = sound_file(300)
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": "wav"}}
    parts = [{"type": "text", "text": "Hear: "}, part, {"type": "text", "text": "?"}]
    fields = {"model": "ear", "temperature": 0, "max_tokens": 8, "messages": [{"role": "user", "content": parts}]}
    medium = Medium(6, "audio", f"data:audio/wav;base64,{base64.b64encode(content).decode()}")
    clip = load_clip(medium, None, MediaRules(), MODEL.sound)
    request = spoken_to(TOKENIZER, Ears(MODEL), [Message("user", "Hear: ?", media=(medium,))], [clip], max_tokens=8)
    text = parse(TOKENIZER, engine_of(MODEL).generate([request])[0][0].ids).content
    found = openai_client.chat.completions.create(**fields)
    assert found.choices[0].message.content == text and found.usage.prompt_tokens == len(request.prompt_ids)
    streamed = openai_client.chat.completions.create(**fields, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == text
    by_url = [parts[0], {"type": "audio_url", "audio_url": {"url": medium.url}}, parts[2]]
    again = openai_client.chat.completions.create(**{**fields, "messages": [{"role": "user", "content": by_url}]})
    assert again.choices[0].message.content == text


def test_text_requests_are_what_a_text_server_says():
    body = {"messages": [{"role": "user", "content": "What is 7 plus 5?"}], "max_tokens": 9, "logprobs": True, "top_logprobs": 2}
    with client() as hears, client(Engine(MODEL.text, stop_ids=(), page_size=8)) as reads:
        found, plain = (c.post("/v1/chat/completions", json={**body, "temperature": 0}).json()["choices"] for c in (hears, reads))
        assert found == plain
        assert hears.get("/v1/models").json()["data"][0]["input_modalities"] == ["text", "audio"]
        assert reads.get("/v1/models").json()["data"][0]["input_modalities"] == ["text"]


def refused(reply, words: str, status: int = 400) -> None:
    error = reply.json()["error"]
    assert reply.status_code == status and words in error["message"], reply.text
    assert error["type"] == "invalid_request_error" and len(error["message"]) < 500


def test_what_is_refused_has_a_reason():
    good = sound_file(300)
    with client(limits=Limits(audio_bytes=200_000, audio_seconds=5.0)) as c:

        def sent(content: bytes = good, **fields):
            return c.post("/v1/audio/transcriptions", files={"file": ("a.wav", content)}, data=fields)

        assert sent().status_code == 200
        refused(sent(b""), "empty")
        refused(sent(b"RIFF" + bytes(100)), "no sound")
        refused(sent(b"%PDF-1.7 and so on" * 50), "no sound")
        refused(sent(good[: len(good) // 2]), "cut off")
        refused(sent(bytes(300_000)), "may have")
        refused(sent(bytes(2_000_000)), "larger than", 413)
        refused(sent(sound_file(300, 6.0)), "longer")
        refused(sent(language="klingon"), "klingon")
        refused(sent(response_format="docx"), "response_format")
        refused(sent(prompt="names: Ada"), "prompt")
        refused(sent(temperature="warm"), "temperature")
        refused(sent(beam_size="5"), "'beam_size' is not supported")
        refused(sent(**{"timestamp_granularities[]": ["word"]}), "timestamp_granularities")
        refused(c.post("/v1/audio/transcriptions", files={"sound": ("a.wav", good)}), "as 'file'")
        refused(c.post("/v1/audio/transcriptions", json={"file": "a.wav"}), "multipart/form-data")
        assert sent(model="other").status_code == 404
        assert sent().status_code == 200  # and nothing of it has hurt


def test_a_model_without_ears_says_so():
    with client(Engine(MODEL.text, stop_ids=(), page_size=8)) as c:
        refused(c.post("/v1/audio/transcriptions", files={"file": ("a.wav", sound_file(300))}), "no ears")
        shown = {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,AAAA"}}
        refused(c.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [shown]}]}), "reads text alone")


def test_a_picture_for_a_model_that_listens():
    with client() as c:
        for part, words in (
            ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "no content of kind 'image'"),
            ({"type": "input_audio", "input_audio": {"data": "AAAA"}}, "content.0"),
            ({"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}, "base64"),
            ({"type": "audio_url", "audio_url": {"url": "https://example.org/a.wav"}}, "not fetched from the web"),
        ):
            refused(c.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}]}), words)


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus", "pcm"])
def test_speech_in_every_form(openai_client, form):
    found = openai_client.audio.speech.create(model="ear", voice="alloy", input="Two small cats.", response_format=form).content
    if form == "pcm":
        assert len(found) % 2 == 0 and 0.3 < len(found) / 48_000 < 10
        return
    wave_N, rate = soundfile.read(io.BytesIO(found))
    assert 0.3 < len(wave_N) / rate < 10 and abs(wave_N).max() > 0.02


def test_speech_that_is_refused():
    with client() as c:

        def asked(**fields):
            return c.post("/v1/audio/speech", json={"model": "ear", "input": "One.", "voice": "alloy", **fields})

        assert asked(response_format="wav").status_code == 200
        refused(asked(voice="nobody at all"), "voice")
        refused(asked(response_format="aac"), "response_format")
        refused(asked(input=""), "input")
        refused(asked(input="a" * 5000), "4096")
        refused(asked(speed=9), "speed")
        refused(asked(instructions="cheerfully"), "'instructions' is not supported")
        refused(asked(language="xx"), "xx")
        refused(c.post("/v1/audio/speech", content=b"{"), "no JSON")
        slow, fast = (len(asked(response_format="pcm", speed=speed).content) for speed in (0.5, 2.0))
        assert slow > 1.5 * fast


def form_of(*parts: tuple[str, bytes], boundary: str = "xyz") -> bytes:
    written = [f"--{boundary}\r\n{head}\r\n\r\n".encode() + body + b"\r\n" for head, body in parts]
    return b"".join([*written, f"--{boundary}--\r\n".encode()])


def test_forms_are_read_to_the_byte():
    raw = bytes(range(256)) * 3 + b"\r\n--xy\r\n\r\n"
    body = form_of(
        ('Content-Disposition: form-data; name="file"; filename="a \\"b\\".wav"\r\nContent-Type: audio/wav', raw),
        ('content-disposition: form-data; name="x[]"', "é".encode()), ('Content-Disposition: form-data; name="x[]"', b"2"),
    )  # fmt: skip
    form = read_form("multipart/form-data; boundary=xyz", body)
    assert form.files["file"].content == raw and form.files["file"].name == 'a "b".wav'
    assert form.fields == {"x[]": ["é", "2"]}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--xyz--"),
        ("multipart/form-data; boundary=xyz", b""),
        ("multipart/form-data; boundary=xyz", form_of(('Content-Disposition: form-data; name="a"', b"1"))[:-9]),
        ("multipart/form-data; boundary=xyz", form_of(("Content-Disposition: form-data", b"1"))),
        ("multipart/form-data; boundary=xyz", form_of(('Content-Disposition: form-data; name="a"', b"\xff"))),
        ("multipart/form-data; boundary=xyz", form_of(*[('Content-Disposition: form-data; name="a"', b"1")] * 65)),
    ],
)
def test_forms_that_are_none(kind, body):
    with pytest.raises(ApiError) as caught:
        read_form(kind, body)
    assert caught.value.status == 400


def test_the_page_has_a_microphone():
    with client() as c:
        page, script = c.get("/").text, c.get("/chat_sound.js").text
        assert 'id="microphone"' in page and 'src="/chat_sound.js"' in page
        assert "getUserMedia" in script and "innerHTML" not in script and "http" not in script


@pytest.mark.cores
def test_recordings_are_files_that_we_read():
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is absent: the page's script is not run")
    script = (Path(puna.serve.app.__file__).parent / "static" / "chat_sound.js").read_text()
    run = script + "\nprocess.stdout.write(Buffer.from(asWave(Float32Array.from([0, 0.5, -0.5, 2, -2]))));"
    wave_N = read_sound(subprocess.run([node, "-e", run], capture_output=True, check=True, timeout=60).stdout)
    assert wave_N.rate == RATE and wave_N.wave_N.tolist() == pytest.approx([0, 0.5, -0.5, 1, -1], abs=1e-4)


@pytest.mark.parametrize(
    "parameter",
    ["filename*=idna''%ff.wav", "filename*=a%00''x", "filename*=utf-8''x; filename*0=a", f"filename*{'9' * 5000}*=x"],
)
def test_forms_with_foul_headers(parameter):
    body = f'--x\r\nContent-Disposition: form-data; name="file"; {parameter}\r\n\r\nhi\r\n--x--\r\n'.encode()
    with pytest.raises(ApiError) as told:
        read_form("multipart/form-data; boundary=x", body)
    assert told.value.status == 400
    with pytest.raises(ApiError):
        read_form("multipart/form-data; " + parameter.replace("filename", "boundary"), body)


def test_names_of_files_are_utf_8():
    body = '--x\r\nContent-Disposition: form-data; name="file"; filename="é.wav"\r\n\r\nhi\r\n--x--\r\n'.encode()
    assert read_form("multipart/form-data; boundary=x", body).files["file"].name == "é.wav"


def test_a_form_of_boundaries_alone_is_not_taken_apart():
    with pytest.raises(ApiError, match="64 parts"):
        read_form("multipart/form-data; boundary=x", b"\r\n--x" * 100_000)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"input": "a", "\\ud800": 1}', b'{"input": "\\ud800"}', b'{"input": "' + b"9" * 4096 + b'"}']
)
def test_foul_requests_for_speech(body):
    with client() as web:
        assert web.post("/v1/audio/speech", content=body).status_code in (200, 400)
