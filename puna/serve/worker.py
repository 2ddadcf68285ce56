"""One thread drives one engine for all requests of the server: continuous batching, so a new request joins the running ones.

Only this thread touches the engine. Requests and cancellations reach it through an inbox between two steps; tokens go back
through each request's own callback, one call per step. If the engine fails, every request hears of it and later ones are refused
at once: a server that answers nothing must not look alive.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from puna.core.errors import PunaError, RunError
from puna.infer.engine import Engine, Request, Token

Sink = Callable[[list[Token] | PunaError], None]


@dataclass(eq=False)
class Ticket:
    """A submitted request; give it to `cancel`."""

    request: Request
    sink: Sink
    request_id: int | None = None


class EngineThread:
    """Runs an engine in the background.

    `submit` and `cancel` may be called from any thread; a sink is called from the engine's thread, with the new tokens of its
    request or with the error that ended it.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.failure: PunaError | None = None
        self._inbox: deque[tuple[str, Ticket]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._tickets: dict[int, Ticket] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """Queue a request; RunError if the engine has failed or is closed."""
        ticket = Ticket(request, sink)
        with self._wake:
            if self.failure or self._closing:
                raise self.failure or RunError("the server is shutting down")
            self._inbox.append(("add", ticket))
            self._wake.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Drop a request, finished or not; its sink is not called any more after the current step."""
        with self._wake:
            self._inbox.append(("cancel", ticket))
            self._wake.notify()

    def close(self) -> None:
        """End the thread after its current step."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        try:
            while self._take_inbox():
                if self.engine.busy:
                    self._deliver(self.engine.step())
        except PunaError as error:
            print(error, file=sys.stderr)
            self._fail(error)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._fail(RunError("the engine failed while answering", fix="see the server's log, then start it again"))

    def _take_inbox(self) -> bool:
        """Wait until there is something to do, then do what the inbox asks; False when closing."""
        with self._wake:
            while not (self._inbox or self._closing or self.engine.busy):
                self._wake.wait()
            if self._closing:
                return False
            jobs = list(self._inbox)
            self._inbox.clear()
        for action, ticket in jobs:
            if action == "add":
                self._add(ticket)
            elif ticket.request_id in self._tickets:
                del self._tickets[ticket.request_id]
                self.engine.cancel(ticket.request_id)
        return True

    def _add(self, ticket: Ticket) -> None:
        try:
            ticket.request_id = self.engine.add(ticket.request)
        except PunaError as error:
            ticket.sink(error)
            return
        except Exception:  # what is wrong with one request must not end the others
            traceback.print_exc(file=sys.stderr)
            ticket.sink(RunError("the engine could not take this request", fix="see the server's log"))
            return
        self._tickets[ticket.request_id] = ticket

    def _deliver(self, tokens: list[Token]) -> None:
        by_request: dict[int, list[Token]] = {}
        for token in tokens:
            by_request.setdefault(token.request_id, []).append(token)
        for request_id, new in by_request.items():
            if request_id in self._tickets:
                self._tickets[request_id].sink(new)

    def _fail(self, error: PunaError) -> None:
        with self._wake:
            self.failure = error
            waiting = [ticket for action, ticket in self._inbox if action == "add"]
            self._inbox.clear()
        for ticket in [*self._tickets.values(), *waiting]:
            ticket.sink(error)
        self._tickets.clear()
