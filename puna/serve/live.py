"""The page that shows a run while it works: stages filling, loss curves, samples, notes.

It only reads what the run writes (`status.json`, `events.jsonl`), so it can be deleted without touching the run, and it
works for a run of another process too. Standard-library server, loopback only, nothing from the network.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from puna.core.errors import InputError

HOST = "127.0.0.1"
DEFAULT_PORT = 8787
PORTS_TRIED = 20
EVENTS_PER_REPLY = 5000
STATIC = Path(__file__).parent / "static"


@dataclass
class LivePage:
    """A page being served; `url` is what a browser opens, `stop()` ends it."""

    server: ThreadingHTTPServer

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server.server_address[1]}/"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def start(run_dir: Path, port: int | None = None) -> LivePage:
    """Serve the page of one run on loopback.

    Args:
        run_dir: `runs/<name>`, which may not hold anything yet.
        port: a port that must be free, or None for the first free one from 8787.

    Raises:
        InputError: the given port is in use, or no port is free.
    """
    server = _bind(Path(run_dir), [port] if port is not None else list(range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED)))
    threading.Thread(target=server.serve_forever, name="live-page", daemon=True).start()
    return LivePage(server)


def _bind(run_dir: Path, ports: list[int]) -> ThreadingHTTPServer:
    handler = type("RunPage", (_Page,), {"run_dir": run_dir})
    for port in ports:
        try:
            return ThreadingHTTPServer((HOST, port), handler)
        except OSError:
            continue
    raise InputError(
        "the port for the live page is in use",
        where=f"{HOST}:{ports[0]}",
        fix="choose another with --port, or leave the page out with --no-page",
    )


class _Page(BaseHTTPRequestHandler):
    run_dir: Path

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if urlparse(f"//{self.headers.get('Host', '')}").hostname not in (HOST, "localhost"):
            self.send_error(403)  # a foreign name that resolves to this machine
        elif url.path == "/":
            self._send((STATIC / "live.html").read_bytes(), "text/html; charset=utf-8")
        elif url.path == "/plotly.js":
            self._send(_plotly(), "text/javascript; charset=utf-8")
        elif url.path == "/api/status":
            self._file(self.run_dir / "status.json", "application/json")
        elif url.path == "/api/events":
            asked = parse_qs(url.query).get("offset", ["0"])[0]
            offset = int(asked) if asked.isdecimal() and len(asked) < 16 else 0
            self._send(_events(self.run_dir / "events.jsonl", offset), "application/json")
        elif url.path == "/favicon.ico":  # asked for by browsers that show the report
            self.send_response(204)
            self.end_headers()
        elif url.path == "/report":
            self._file(self.run_dir / "report.html", "text/html; charset=utf-8")
        else:
            self.send_error(404)

    def _file(self, path: Path, content_type: str) -> None:
        if path.is_file():
            self._send(path.read_bytes(), content_type)
        else:
            self.send_error(404)

    def _send(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: the terminal belongs to the run."""


def _events(path: Path, offset: int) -> bytes:
    """Whole lines of the event log from a byte offset on, and the offset to ask from next."""
    rows: list[object] = []
    if path.is_file():
        with path.open("rb") as file:
            size = file.seek(0, 2)
            offset = 0 if offset > size else offset  # the log was started anew
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n") or len(rows) >= EVENTS_PER_REPLY:
                    break
                offset += len(line)
                try:
                    rows.append(json.loads(line))
                except ValueError:  # torn by a kill or a full disk
                    continue
    return json.dumps({"offset": offset, "events": rows}).encode()


@cache
def _plotly() -> bytes:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().encode()
