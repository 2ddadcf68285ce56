"""What every request goes through: bounds, a count of those being answered, clients that hang up, answers that stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from puna.serve.local import BODY_BYTES
from puna.serve.protocol import ApiError

ALIASES = ("", "default", "puna")  # model names a client may give when it does not care which model answers

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
        media: pictures, videos and sounds of one request.
        audio_bytes, audio_seconds: of one sound to be written down.
    """

    body_bytes: int = BODY_BYTES
    max_tokens: int = 4096
    answers: int = 64
    concurrent: int = 128
    seconds: float = 600.0
    media: int = 16
    audio_bytes: int = 25 << 20
    audio_seconds: float = 4 * 3600.0


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


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
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


def check_model(asked: str | None, name: str) -> None:
    if asked not in (None, name, *ALIASES):
        raise ApiError(404, f"the model '{asked}' is not served here; '{name}' is", param="model", code="model_not_found")
