"""The OpenAI-compatible server: chat and plain completions, streaming or not, and a chat page at `/`.

Every answer comes from one engine with continuous batching, through the renderer that training used. The server listens on
loopback unless told otherwise, refuses pages of other sites, and bounds what one client can ask for: size, answers, time, and
how many at once.
"""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from puna.core.errors import InputError, PunaError
from puna.infer.engine import Engine
from puna.infer.parallel import ONE, first_rank
from puna.infer.shards import Layout
from puna.serve.forms import grammar_of
from puna.serve.generate import Generator
from puna.serve.local import BODY_BYTES, LOOPBACK, address, bind, listen, local_app, read_body
from puna.serve.media import MediaReader, eyes_of
from puna.serve.models import opened_model
from puna.serve.protocol import ApiError, ChatRequest, CompletionRequest, Sampling, as_api_error, read_request
from puna.serve.replies import chat_reply, chat_stream, completion_reply, completion_stream
from puna.serve.request_log import JOB, RequestLog, show
from puna.serve.worker import EngineThread
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium, render
from puna.vision.fetch import MediaRules

PAGE_FILES = {
    "/": ("chat.html", "text/html"),
    "/chat.css": ("chat.css", "text/css"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/chat_media.js": ("chat_media.js", "text/javascript"),
}
ALIASES = ("", "default", "puna")  # model names a client may give when it does not care which model answers
MEDIA_BODY_BYTES = 64 << 20  # of a request to a model that sees
LARGE_BODY = 1 << 20  # bytes of a request that is parsed outside the event loop

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What one client may ask for.

    Attributes:
        body_bytes: size of a request.
        max_tokens: tokens of one answer; also what a chat request gets that names no number (the context bounds both).
        answers: answers to one request (prompts times n).
        concurrent: requests being answered or waiting at once.
        seconds: time for one request.
        media: pictures and videos of one request.
    """

    body_bytes: int = BODY_BYTES
    max_tokens: int = 4096
    answers: int = 64
    concurrent: int = 128
    seconds: float = 600.0
    media: int = 16


@dataclass(frozen=True)
class Prompt:
    """Ids, and what they show: each medium with the place of its token."""

    ids: list[int]
    media: tuple[tuple[int, Medium], ...] = ()


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
    **options: Any,
) -> None:
    """Serve a model directory until Ctrl-C; InputError when the address cannot be used or the model cannot be loaded.

    With a `layout` of several ranks every process of it comes here, and the first one listens. `log_requests`: a line each on
    stderr (`puna.serve.request_log`). `rules`, `media_root`: what pictures and videos may be read, for a model that sees.
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
                app = build_app(*found, name, host=host, limits=limits, rules=rules, media_root=media_root)
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
    rules: MediaRules | None = None, media_root: Path | None = None,
) -> FastAPI:  # fmt: skip
    """The app around a loaded engine, which from now on belongs to the app's thread."""
    worker, eyes = EngineThread(engine), eyes_of(engine)
    limits = limits or Limits(body_bytes=BODY_BYTES if eyes is None else MEDIA_BODY_BYTES)
    reader = MediaReader(eyes, rules or MediaRules(), media_root, limits.media)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()
        reader.close()

    app = local_app(name, host, PAGE_FILES, lifespan=lifespan)
    app.add_middleware(RequestLog)
    app.state.worker = worker
    _add_models(app, worker, name, reader.modalities)
    _add_api(app, Generator(worker, tokenizer, limits.max_tokens, limits.seconds), name, limits, reader)
    return app


def _add_models(app: FastAPI, worker: EngineThread, name: str, modalities: list[str]) -> None:
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "puna",
            "max_model_len": worker.engine.max_seq_len, "input_modalities": modalities}  # fmt: skip

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model}")
    async def model(model: str) -> Any:
        _check_model(model, name)
        return card

    @app.get("/health")
    async def health() -> Any:
        if worker.failure:
            raise as_api_error(worker.failure)
        return {"status": "ok"}


def _add_api(app: FastAPI, generator: Generator, name: str, limits: Limits, reader: MediaReader) -> None:
    running, tokenizer = Running(limits.concurrent), generator.tokenizer

    async def answer(request: Request, cls: type[Sampling], prepare: Callable[[Any], list[Prompt]], kind: str) -> Any:
        chat = cls is ChatRequest
        asked = await _read(await read_body(request, limits.body_bytes), cls)
        _check_model(asked.model, name)
        prompts = _prepared(prepare, asked)
        shows = [medium for prompt in prompts for medium in prompt.media]
        reader.check([medium for _, medium in shows])
        if asked.n * len(prompts) > limits.answers:
            raise ApiError(400, f"at most {limits.answers} answers per request", param="n")
        head = {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        running.enter()
        try:
            grammar = await asyncio.to_thread(_prepared, lambda asked: grammar_of(asked, tokenizer), asked)
            media = await _unless_gone(request, reader.shown(shows)) if shows else ()
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
            await _unless_gone(request, job.open() if asked.stream else job.collect())
        except BaseException:
            end()
            raise
        if asked.stream:
            return EventStream((chat_stream if chat else completion_stream)(job, asked, head), end)
        end()
        return JSONResponse((chat_reply if chat else completion_reply)(job, head))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Any:
        return await answer(request, ChatRequest, lambda asked: [_chat_prompt(tokenizer, asked)], "chatcmpl")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Any:
        return await answer(request, CompletionRequest, lambda asked: _prompts(tokenizer, asked), "cmpl")


class EventStream(StreamingResponse):
    """Server-sent events; `at_end` runs when they end or the client hangs up, even before the first one."""

    def __init__(self, events: AsyncIterator[str], at_end: Callable[[], None]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.at_end()


class Running:
    """Counts the requests being answered; one too many is refused with 429."""

    def __init__(self, most: int):
        self.most, self.now = most, 0

    def enter(self) -> None:
        if self.now >= self.most:
            raise ApiError(429, f"{self.most} requests are being answered: try again shortly", code="too_many_requests")
        self.now += 1

    def leave(self) -> None:
        self.now -= 1


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, but give up when the client hangs up."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, hangs_up = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait([working, hangs_up], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client closed the connection")
        return working.result()
    finally:
        working.cancel()
        hangs_up.cancel()


def _prepared(prepare: Callable[[Any], Any], asked: Any) -> Any:
    try:
        return prepare(asked)
    except PunaError as error:
        raise as_api_error(error) from None


async def _read(body: bytes, cls: type[Sampling]) -> Any:
    """A checked request; one with pictures in it takes a while to parse."""
    return read_request(body, cls) if len(body) < LARGE_BODY else await asyncio.to_thread(read_request, body, cls)


def _chat_prompt(tokenizer: Tokenizer, asked: ChatRequest) -> Prompt:
    dialog = asked.dialog()
    rendered = render(tokenizer, dialog, generation_prompt=True)
    media = [medium for message in dialog for medium in message.media]
    return Prompt(rendered.ids, tuple(zip(rendered.media, media, strict=True)))


def _prompts(tokenizer: Tokenizer, asked: CompletionRequest) -> list[Prompt]:
    return [Prompt([tokenizer.bos_id, *tokenizer.encode(p)] if isinstance(p, str) else list(p)) for p in asked.prompts()]


def _check_model(asked: str | None, name: str) -> None:
    if asked not in (None, name, *ALIASES):
        raise ApiError(404, f"the model '{asked}' is not served here; '{name}' is", param="model", code="model_not_found")
