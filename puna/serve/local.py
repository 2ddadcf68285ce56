"""What every server of ours with a page shares: its address, its files, who may talk to it, and how it says no.

A page on loopback is within reach of every site the user's browser visits. So requests that name another host or come from
another origin are refused, pages allow nothing but their own files, and a body has a bound.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from puna.core.errors import InputError
from puna.serve.protocol import ApiError

STATIC = Path(__file__).parent / "static"
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data:; media-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BODY_BYTES = 4 << 20  # of a request
NO_TELEMETRY: Any = {
    "auto_configure": False,
    "tracing": False,
    "metrics": False,
    "logs": False,
}  # newer FastAPI would export traces

PageFiles = Mapping[str, tuple[str, str]]  # address: (file among `static`, media type)


def local_app(name: str, host: str, files: PageFiles, lifespan: Any = None) -> FastAPI:
    """An app with these pages and nothing else yet; `lifespan` as FastAPI takes it."""
    app = FastAPI(title=name, docs_url=None, redoc_url=None, openapi_url=None, telemetry=NO_TELEMETRY, lifespan=lifespan)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), status_code=error.status)

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> Response:
        return JSONResponse(ApiError(error.status_code, str(error.detail)).body(), status_code=error.status_code)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse(ApiError(500, "the server failed on this request; see its log").body(), status_code=500)

    app.add_middleware(SameSite, host=host)
    for path, (file, media) in files.items():
        app.get(path, response_model=None)(_page(file, media))
    return app


def _page(file: str, media: str) -> Callable[[], Awaitable[FileResponse]]:
    async def send() -> FileResponse:
        headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        return FileResponse(STATIC / file, media_type=media, headers=headers)

    return send


class SameSite:
    """On loopback, refuses what another site's page sends through the user's browser (DNS rebinding, cross-site posts)."""

    def __init__(self, app: ASGIApp, host: str):
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._allowed(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        error = ApiError(403, "this server answers its own page and local programs only")
        await JSONResponse(error.body(), status_code=403)(scope, receive, send)

    def _allowed(self, headers: Headers) -> bool:
        called, origin = headers.get("host", ""), headers.get("origin")
        try:
            if self.host in LOOPBACK and urlsplit(f"//{called}").hostname not in LOOPBACK:
                return False
            if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
                return False  # a picture of another site's page that asks for our address
            return origin is None or urlsplit(origin).netloc == called
        except ValueError:  # a malformed host or origin
            return False


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request; ApiError 413 as soon as it is longer than `limit` bytes."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise ApiError(413, f"the request is larger than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; InputError when the address cannot be used."""
    if not 0 <= port <= 65535:
        raise InputError("a port is a number from 0 to 65535", where=f"{host}:{port}", fix="choose another with --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        busy = error.errno == errno.EADDRINUSE
        what = "the port is in use" if busy else f"the server cannot listen there ({error.strerror or error})"
        raise InputError(what, where=f"{host}:{port}", fix="choose another with --port (and --host)") from None
    return listening


def address(host: str, listening: socket.socket) -> str:
    """What to type into a browser."""
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"


def listen(app: FastAPI, listening: socket.socket) -> None:
    """Answer requests until Ctrl-C."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listening])
