"""The process that holds the tests: it runs them against references to the program, which lives in another process.

What it compares are genuine values of its own (`puna.verify.box.values`). Its verdict goes to a descriptor that only it has,
with a word that only it was told, after the last test; a judge that is killed or deceived into ending early has given none.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import itertools
import os
import socket
import sys
import types
import unittest
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from typing import Any

from puna.verify.box.remote import NOTHING, Remote
from puna.verify.box.values import Channel, Gone, decode, encode, named

ERROR_CHARS = 500
NEXT = named(next)
NOT_RUN = "It is deprecated to return a value"  # unittest's warning of a test that is a coroutine or a generator
PROGRAM_GONE = 3  # exit code where the program ended before its tests did


def judge(order: dict[str, Any], connection: socket.socket) -> tuple[dict[str, Any], bool]:
    """Run the tests of an order; the verdict, and whether the program was there to the end."""
    verdict: dict[str, Any] = {"word": order["word"], "loaded": False, "results": [], "memory": False, "error": ""}
    program = Program(Channel(connection))
    warnings.filterwarnings("error", NOT_RUN)
    try:
        program.load()
        verdict["loaded"] = True
        verdict["results"] = [outcome for text in order["tests"] for outcome in program.run(text, order["entry_point"])]
    except Gone:
        verdict["results"].append([False, "the program ended before the tests did"])
        return verdict, False
    except Exception as error:
        verdict["error"] = describe(error)
    finally:
        verdict["memory"] = program.out_of_memory
    return verdict, True


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}"[:ERROR_CHARS]


class Program:
    """The program at the other end: its names, and calls into it."""

    def __init__(self, channel: Channel):
        self.channel = channel
        self.names: set[str] = set()
        self.namespace: dict[str, Any] = {"__name__": "tests"}
        self.fetched: dict[str, Any] = {}
        self.callbacks: list[Any] = []
        self.classes: dict[int, type] = {}
        self.out_of_memory = False

    def load(self) -> None:
        """Wait until the program has loaded; raises what it raised."""
        message = self.channel.receive()
        if "error" in message:
            raise self.exception(message["error"])
        self.names = {str(name) for name in message["names"]}

    def run(self, text: str, entry_point: str) -> Iterator[list[Any]]:
        """Outcomes of one test text, [held, what it said]: of its statements as a whole, or of each test function it defines."""
        if entry_point and entry_point not in self.names:
            yield [False, f"NameError: the program defines no '{entry_point}'"]
            return
        before = dict(self.namespace)
        held = self.attempt(lambda: self.execute(text, entry_point))
        cases = [] if not held[0] else list(self.cases(before, entry_point))
        if not cases or not held[0]:
            yield held
        for case in cases:
            yield self.attempt(case)

    def attempt(self, test: Callable[[], object]) -> list[Any]:
        """Whether it runs without an exception; a coroutine or a generator has only begun to."""
        try:
            if isinstance(test(), Coroutine | Generator | AsyncGenerator):
                raise TypeError("a test must be a plain function, this one has not run")
        except Gone:
            raise
        except BaseException as error:
            return [False, describe(error)]
        return [True, ""]

    def execute(self, text: str, entry_point: str) -> None:
        """Run a text with the names it uses and does not bind itself."""
        code = compile(text, "test", "exec")
        wanted = _names(code) & self.names - (set(dir(builtins)) - {entry_point})
        modules = _modules(text, wanted & sys.stdlib_module_names)
        for name in sorted(wanted):
            if self.namespace.get(name) is self.fetched.get(name):
                self.namespace[name] = self.fetched[name] = modules.get(name) or self.fetch(name)
        if entry_point:
            self.namespace.setdefault("candidate", self.fetch(entry_point))
        exec(code, self.namespace)

    def cases(self, before: dict[str, Any], entry_point: str) -> Iterator[Callable[[], None]]:
        """What a text newly defined to be called: check(candidate), functions test_*, and cases of unittest."""
        new = {name: value for name, value in self.namespace.items() if before.get(name) is not value}
        for name, value in new.items():
            if name == "check" and isinstance(value, types.FunctionType) and entry_point:
                yield lambda check=value: check(self.namespace["candidate"])  # type: ignore[misc]
            elif name.startswith("test_") and isinstance(value, types.FunctionType):
                yield value
            elif isinstance(value, type) and issubclass(value, unittest.TestCase):
                for case in unittest.defaultTestLoader.loadTestsFromTestCase(value):
                    yield case.debug  # type: ignore[union-attr]

    def fetch(self, name: str) -> Any:
        """A name of the program."""
        return self.receive({"get": name})

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function in the program's process; lists and the like that it changed are changed here too."""
        encoded = {name: self.encode(value) for name, value in kwargs.items()}
        request = {"call": self.encode(function), "args": [self.encode(a) for a in args], "named": encoded}
        return self.receive(request, args)

    def look(self, remote: Remote) -> Any:
        """What an object of the program that may have changed holds by now."""
        found = self.receive({"look": remote._number})
        return found._plain if isinstance(found, Remote) else NOTHING

    def receive(self, request: dict[str, Any], args: tuple[Any, ...] = ()) -> Any:
        """Send a request and wait for its answer, serving the functions that the test handed over meanwhile."""
        self.channel.send(request)
        while "callback" in (reply := self.channel.receive()):
            self.channel.send({"returned": self.encode(self.called_back(reply))})
        if "error" in reply:
            error = self.exception(reply["error"])
            if isinstance(error, StopIteration) and request.get("call") != NEXT:
                raise RuntimeError("the program raised StopIteration")  # it would end a loop of the test
            raise error
        for index, data in (reply.get("changed") or {}).items():
            _replace(args[int(index)], self.decode(data))
        return self.decode(reply["ok"])

    def called_back(self, request: dict[str, Any]) -> Any:
        """Run a function of the test for the program."""
        keywords = {str(name): self.decode(value) for name, value in request["named"].items()}
        return self.callbacks[request["callback"]](*self.decode(request["args"]), **keywords)

    def encode(self, value: Any) -> Any:
        """A value for the program."""
        return encode(value, self.refer)

    def refer(self, value: Any) -> Any:
        """An object of the program as its number, the standard library's as its name, a function of the test as a callback."""
        if isinstance(value, Remote):
            return {"t": "object", "v": value._number}
        for number, local in self.classes.items():
            if local is value:
                return {"t": "exception", "v": number}
        if standard := named(value):
            return standard
        if not callable(value):
            raise TypeError(f"a {type(value).__name__} of the test cannot be handed to the program")
        self.callbacks.append(value)
        return {"t": "callback", "v": len(self.callbacks) - 1}

    def decode(self, data: Any) -> Any:
        """A value from the program."""
        return decode(data, self.resolve)

    def resolve(self, data: dict[str, Any]) -> Any:
        """A reference from the program: one of its objects or exception classes, or a module of the standard library."""
        if data["t"] == "module" and data["v"].split(".")[0] in sys.stdlib_module_names:
            return importlib.import_module(data["v"])
        if data["t"] == "exception":
            return self.exception_class(data)
        if data["t"] != "object":
            raise TypeError(f"a {data['t']} cannot be handed to the test")
        plain = data.get("plain")
        return Remote(self, int(data["v"]), NOTHING if plain is None else self.decode(plain))

    def exception_class(self, data: Any, depth: int = 0) -> type[Exception]:
        """The class that stands here for one of the program's, under the same built-in one."""
        if isinstance(data, dict) and data.get("t") == "exception" and depth < 20:
            base = self.exception_class(data["base"], depth + 1)
            return self.classes.setdefault(int(data["v"]), type(str(data["name"]), (base,), {}))
        found = getattr(builtins, str(data.get("v")), None) if isinstance(data, dict) else None
        return found if isinstance(found, type) and issubclass(found, Exception) else Exception

    def exception(self, data: dict[str, Any]) -> Exception:
        """An exception of the program, to be raised here."""
        self.out_of_memory |= data.get("memory") is True
        kind, text = self.exception_class(data["class"]), str(data["text"])
        try:
            return kind(text)
        except TypeError:  # the few that want more than a text
            return Exception(f"{kind.__name__}: {text}")


def _names(code: types.CodeType) -> set[str]:
    """Every name a text uses, those inside its functions too."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return {*code.co_names, *itertools.chain.from_iterable(_names(one) for one in inner)}


def _modules(text: str, names: set[str]) -> dict[str, types.ModuleType]:
    """Modules of the standard library that a text uses as such: they are meant then, whatever a program calls by their names."""
    nodes = list(ast.walk(ast.parse(text))) if names else []
    every = Counter(node.id for node in nodes if isinstance(node, ast.Name))
    of = [(node.value.id, node.attr) for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    found: dict[str, types.ModuleType] = {}
    for name in names:
        used = [part for module, part in of if module == name]
        with suppress(ImportError):
            if used and len(used) == every[name] and all(hasattr(importlib.import_module(name), part) for part in used):
                found[name] = sys.modules[name]
    return found


def _replace(target: Any, value: Any) -> None:
    """Change an argument in place to what the program made of it."""
    if type(target) is not type(value):
        return
    if isinstance(target, list | bytearray):
        target[:] = value
    elif isinstance(target, dict | set):
        target.clear()
        target.update(value)


def write_verdict(descriptor: int, data: bytes) -> None:
    """All of it, then the end."""
    while data:
        data = data[os.write(descriptor, data) :]
    os.close(descriptor)
