"""The process a program under test runs in: it loads the program, and then answers calls to its functions until it is ended.

It is never told a test, only the arguments of each call, so there is nothing in it to read or to change that would make a test
hold. Everything below is in the hands of the program once that has been loaded.
"""

from __future__ import annotations

import linecache
import socket
import sys
import traceback
import types
from typing import Any

from puna.verify.box.values import Channel, Gone, by_name, decode, encode, plain_view

MUTABLE = (list, dict, set, bytearray)
MAIN, MODULE = "main.py", "candidate.py"  # what a program's file is called in tracebacks
TEXT_OF_ERROR = 500  # characters


def run_alone(code: str) -> None:
    """Run a whole program as `__main__`."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"], sys.argv = module, [MAIN]
    exec(_compiled(code, MAIN), module.__dict__)


def serve(code: str, connection: socket.socket) -> None:
    """Load the program as a module, say how that went, then answer the judge."""
    module = types.ModuleType("candidate")
    sys.modules["candidate"], sys.argv = module, [MODULE]
    server = Server(Channel(connection), module)
    try:
        exec(_compiled(code, MODULE), module.__dict__)
    except BaseException as error:
        if not isinstance(error, SystemExit):
            show_error(error)  # before the judge is told, who then ends everything
        sys.stdout.flush()
        server.channel.send({"error": server.describe(error)})
        raise SystemExit(1) from None
    server.channel.send({"names": [name for name in module.__dict__ if not name.startswith("__")]})
    server.answer_all()


def show_error(error: BaseException) -> None:
    """A traceback that begins in the program."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename not in (MAIN, MODULE):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)


def _compiled(code: str, name: str) -> types.CodeType:
    """The program, with its lines kept where tracebacks and `inspect` look for them."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    return compile(code, name, "exec")


class Server:
    """Objects that were referred to, by number, and the answers to calls."""

    def __init__(self, channel: Channel, module: types.ModuleType):
        self.channel, self.module = channel, module
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}

    def answer_all(self) -> None:
        """Answer until the judge has gone."""
        while True:
            try:
                self.answer(self.channel.receive())
            except Gone:
                return

    def answer(self, request: dict[str, Any]) -> None:
        """One call, or one name looked up."""
        try:
            if "get" in request:
                reply = {"ok": self.encode(getattr(self.module, request["get"]))}
            elif "look" in request:
                reply = {"ok": self.encode(self.objects[request["look"]])}
            else:
                function = decode(request["call"], self.find)
                arguments = decode(request["args"], self.find)
                result = function(*arguments, **{name: decode(v, self.find) for name, v in request["named"].items()})
                reply = {"ok": self.encode(result), "changed": self.changed(request["args"], arguments)}
        except BaseException as error:
            reply = {"error": self.describe(error)}
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.channel.send(reply)

    def changed(self, before: list[Any], arguments: list[Any]) -> dict[str, Any]:
        """Positional arguments that the call changed in place, as they are now."""
        now = {i: self.encode(a) for i, a in enumerate(arguments) if type(a) in MUTABLE}
        return {str(i): data for i, data in now.items() if data != before[i]}

    def encode(self, value: Any) -> Any:
        """A value as JSON; one that contains itself is referred to."""
        try:
            return encode(value, self.refer)
        except RecursionError:
            return {"t": "object", "v": self.number(value)}

    def refer(self, value: Any) -> dict[str, Any]:
        """A number for an object, with what the judge may know of it."""
        if isinstance(value, types.ModuleType) and value.__name__ in sys.modules:
            return {"t": "module", "v": value.__name__}
        number = self.number(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"t": "exception", "v": number, "name": value.__name__, "base": self.encode(value.__base__)}
        return {"t": "object", "v": number, "plain": plain_view(value, self.refer)}

    def number(self, value: Any) -> int:
        """The number of an object, which is kept from now on."""
        found = self.numbers.setdefault(id(value), len(self.objects))
        if found == len(self.objects):
            self.objects.append(value)
        return found

    def find(self, data: dict[str, Any]) -> Any:
        """What the judge refers to: an object from here, a function of the test, or one of the standard library."""
        if data["t"] == "object" or data["t"] == "exception":
            return self.objects[data["v"]]
        if data["t"] == "name":
            return by_name(*data["v"])
        return lambda *args, **kwargs: self.call_back(data["v"], args, kwargs)

    def call_back(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function that the test handed over, and answer the calls it makes in turn."""
        encoded = {name: self.encode(value) for name, value in kwargs.items()}
        self.channel.send({"callback": number, "args": [self.encode(a) for a in args], "named": encoded})
        while "returned" not in (message := self.channel.receive()):
            self.answer(message)
        return decode(message["returned"], self.find)

    def describe(self, error: BaseException) -> dict[str, Any]:
        """An exception: its class, its text, and what it carries if that is plain."""
        return {"class": self.encode(type(error)), "text": str(error)[:TEXT_OF_ERROR], "memory": isinstance(error, MemoryError)}
