"""One line for each request that was answered: method, path, status, milliseconds, and the tokens read and written.

The lines go to the logger `puna.requests`, so a program around the app decides where they are kept; `puna serve --log-requests`
shows them. Neither prompts nor answers are in them, and no address of a client.
"""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.serve.generate import Job
from puna.serve.hearing import Hearing

LOGGER = logging.getLogger("puna.requests")
JOB = "puna.job"  # where the scope of a request keeps what it asked of the engine


class RequestLog:
    """Middleware that logs when the last byte is sent, or the client has hung up (status 499, as nginx has it)."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not LOGGER.isEnabledFor(logging.INFO):
            await self.app(scope, receive, send)
            return
        started, status, whole, gone = time.perf_counter(), 499, False, False

        async def received() -> Message:
            nonlocal gone
            message = await receive()
            # starlette then ends a stream without an error; after the last byte every client is told to have gone
            gone = gone or (message["type"] == "http.disconnect" and not whole)
            return message

        async def sent(message: Message) -> None:
            nonlocal status, whole, gone
            whole = whole or (message["type"] == "http.response.body" and not message.get("more_body", False))
            try:
                await send(message)
            except OSError:  # how a server says it while a message is sent
                gone = True
                raise
            if message["type"] == "http.response.start":
                status = message["status"]

        try:
            await self.app(scope, received, sent)
        except Exception:
            status = 500
            raise
        finally:
            status = 499 if gone else status
            took = 1000 * (time.perf_counter() - started)
            job: Job | Hearing | None = scope.get(JOB)
            tokens = "" if job is None else f" {job.prompt_tokens} + {job.completion_tokens} tokens"
            LOGGER.info("%s %s %d %.1f ms%s", scope["method"], quote(scope["path"]), status, took, tokens)


def show() -> None:
    """Write the lines to stderr, each behind the time of day."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
