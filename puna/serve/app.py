"""The OpenAI-compatible server: chat, plain completions, sound in and out, streaming or not, and a chat page at `/`.

Every answer comes from one engine with continuous batching, through the renderer that training used. The server listens on
loopback unless told otherwise, refuses pages of other sites, and bounds what one client can ask for: size, answers, time, and
how many at once.
"""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from puna.core.errors import InputError, PunaError
from puna.infer.engine import Engine
from puna.infer.parallel import ONE, first_rank
from puna.infer.request import Shown
from puna.infer.shards import Layout
from puna.serve.audio_api import add_hearing, add_speaking
from puna.serve.forms import grammar_of
from puna.serve.generate import Generator
from puna.serve.local import BODY_BYTES, LOOPBACK, address, bind, listen, local_app, read_body
from puna.serve.media import MediaReader, ears_of, eyes_of, sounds_of
from puna.serve.models import opened_model
from puna.serve.protocol import ApiError, ChatRequest, CompletionRequest, Sampling, as_api_error, read_request
from puna.serve.replies import chat_reply, chat_stream, completion_reply, completion_stream
from puna.serve.request_log import JOB, RequestLog, show
from puna.serve.requests import EventStream, Limits, Running, check_model, unless_gone
from puna.serve.worker import EngineThread
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Message, render
from puna.vision.fetch import MediaRules

PAGE_FILES = {
    "/": ("chat.html", "text/html"),
    "/chat.css": ("chat.css", "text/css"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/chat_media.js": ("chat_media.js", "text/javascript"),
    "/chat_sound.js": ("chat_sound.js", "text/javascript"),
}
MEDIA_BODY_BYTES = 64 << 20  # of a request to a model that sees or listens
LARGE_BODY = 1 << 20  # bytes of a request that is parsed outside the event loop


@dataclass(frozen=True)
class Prompt:
    """Ids, and the places of the media among them."""

    ids: list[int]
    places: tuple[int, ...] = ()


def serve(
    directory: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    layout: Layout = ONE,
    *,
    log_requests: bool = False,
    rules: MediaRules | None = None,
    media_root: Path | None = None,
    speaker: Path | None = None,
    **options: Any,
) -> None:
    """Serve a model directory until Ctrl-C; InputError when the address cannot be used or the model cannot be loaded.

    With a `layout` of several ranks every process of it comes here, and the first one listens. `log_requests`: a line each on
    stderr (`puna.serve.request_log`). `rules`, `media_root`: what media may be read, for a model that sees or listens.
    `speaker`: a `speech_out` directory; speech out goes by rules without one.
    `options`: as in `opened_model`.
    """
    if media_root is not None and not media_root.is_dir():
        raise InputError("there is no such folder", where=f"--media-root {media_root}", fix="name a folder of pictures")
    if log_requests:
        show()
    listening = bind(host, port) if first_rank(layout) else None
    try:
        with opened_model(directory, layout, **options) as found:
            if found is not None and listening is not None:
                name = Path(directory).absolute().name
                app = build_app(*found, name, host=host, limits=limits, rules=rules, media_root=media_root, speaker=speaker)
                _listen(app, host, listening)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        if listening is not None:
            listening.close()


def _listen(app: FastAPI, host: str, listening: socket.socket) -> None:
    shown = address(host, listening)
    print(f"serving {app.title} · chat page {shown}/ · OpenAI API {shown}/v1 · Ctrl-C stops", flush=True)
    if host not in LOOPBACK:
        print("anyone who can reach this address can use the model: there are no passwords", flush=True)
    listen(app, listening)


def create_app(directory: str | Path, *, host: str = "127.0.0.1", limits: Limits | None = None) -> FastAPI:
    """The app for a model directory; its model is called like the directory."""
    with opened_model(directory) as found:
        assert found is not None
        return build_app(*found, Path(directory).absolute().name, host=host, limits=limits)


def build_app(
    engine: Engine, tokenizer: Tokenizer, name: str, *, host: str = "127.0.0.1", limits: Limits | None = None,
    rules: MediaRules | None = None, media_root: Path | None = None, speaker: Path | None = None,
) -> FastAPI:  # fmt: skip
    """The app around a loaded engine, which from now on belongs to the app's thread; `speaker` is a `speech_out` directory."""
    worker, ears = EngineThread(engine), ears_of(engine)
    senses = ears or eyes_of(engine)
    limits = limits or Limits(body_bytes=BODY_BYTES if senses is None else MEDIA_BODY_BYTES)
    reader = MediaReader(senses, rules or MediaRules(), media_root, limits.media)
    generator, running = Generator(worker, tokenizer, limits.max_tokens, limits.seconds), Running(limits.concurrent)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()
        reader.close()

    app = local_app(name, host, PAGE_FILES, lifespan=lifespan)
    app.add_middleware(RequestLog)
    app.state.worker = worker
    _add_models(app, worker, name, reader.modalities)
    _add_api(app, generator, running, name, limits, reader)
    add_hearing(app, generator, running, name, limits, ears)
    add_speaking(app, running, name, limits, speaker)
    return app


def _add_models(app: FastAPI, worker: EngineThread, name: str, modalities: list[str]) -> None:
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "puna",
            "max_model_len": worker.engine.max_seq_len, "input_modalities": modalities}  # fmt: skip

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model}")
    async def model(model: str) -> Any:
        check_model(model, name)
        return card

    @app.get("/health")
    async def health() -> Any:
        if worker.failure:
            raise as_api_error(worker.failure)
        return {"status": "ok"}


def _add_api(
    app: FastAPI, generator: Generator, running: Running, name: str, limits: Limits, reader: MediaReader
) -> None:  # fmt: skip
    tokenizer, engine = generator.tokenizer, generator.worker.engine

    async def answer(request: Request, cls: type[Sampling], kind: str) -> Any:
        chat = cls is ChatRequest
        asked = await _read(await read_body(request, limits.body_bytes), cls)
        check_model(asked.model, name)
        dialog = _prepared(ChatRequest.dialog, asked) if chat else []
        shows = [medium for message in dialog for medium in message.media]
        reader.check(shows)
        heard = any(medium.kind == "audio" for medium in shows)
        prompts = [] if heard else _prepared(partial(_prompts, tokenizer, dialog), asked)
        if asked.n * max(1, len(prompts)) > limits.answers:
            raise ApiError(400, f"at most {limits.answers} answers per request", param="n")
        head = {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        running.enter()
        try:
            grammar = await asyncio.to_thread(_prepared, lambda asked: grammar_of(asked, tokenizer), asked)
            loaded = await unless_gone(request, reader.read(shows)) if shows else []
            if heard:  # how long a prompt is, its sounds say
                prompts = _prepared(partial(_prompts, tokenizer, dialog, sounds=sounds_of(engine, loaded)), asked)
            media = [Shown(at, one) for prompt in prompts for at, one in zip(prompt.places, loaded, strict=True)]
            ids = [prompt.ids for prompt in prompts]
            job = generator.start(asked, ids, calls=chat and asked.offers_tools, grammar=grammar, media=media)
            request.scope[JOB] = job
        except BaseException:
            running.leave()
            raise

        def end() -> None:
            job.cancel()
            running.leave()

        try:
            await unless_gone(request, job.open() if asked.stream else job.collect())
        except BaseException:
            end()
            raise
        if asked.stream:
            return EventStream((chat_stream if chat else completion_stream)(job, asked, head), end)
        end()
        return JSONResponse((chat_reply if chat else completion_reply)(job, head))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Any:
        return await answer(request, ChatRequest, "chatcmpl")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Any:
        return await answer(request, CompletionRequest, "cmpl")


def _prepared(prepare: Callable[[Any], Any], asked: Any) -> Any:
    try:
        return prepare(asked)
    except PunaError as error:
        raise as_api_error(error) from None


async def _read(body: bytes, cls: type[Sampling]) -> Any:
    """A checked request; one with pictures in it takes a while to parse."""
    return read_request(body, cls) if len(body) < LARGE_BODY else await asyncio.to_thread(read_request, body, cls)


def _prompts(
    tokenizer: Tokenizer, dialog: Sequence[Message], asked: ChatRequest | CompletionRequest, sounds: Sequence[int] = ()
) -> list[Prompt]:
    """The prompt of a dialog whose sounds take so many tokens, or those of plain completions."""
    if isinstance(asked, CompletionRequest):
        return [Prompt([tokenizer.bos_id, *tokenizer.encode(p)] if isinstance(p, str) else list(p)) for p in asked.prompts()]
    rendered = render(tokenizer, dialog, generation_prompt=True, sounds=sounds)
    return [Prompt(rendered.ids, tuple(rendered.media))]
