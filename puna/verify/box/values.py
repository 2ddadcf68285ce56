"""Values between a program under test and its judge, as JSON that can say nothing but plain data.

What arrives is rebuilt from genuine built-in types, so an object that claims to equal everything arrives as what it holds, or, if
it is of the program's own making, as a reference to it. Nothing is unpickled and no name the other side chooses is imported.
"""

from __future__ import annotations

import builtins
import datetime
import importlib
import json
import socket
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_MESSAGE = 64 * 2**20  # bytes
END = b"end"  # the host's word to the box that a program's time is over
SMALL = 2**53
SEQUENCES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
MAPPINGS: dict[str, Any] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter, "defaultdict": dict}
TEXTS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "Decimal": (str, Decimal),
    "Fraction": (str, Fraction),
    "bytes": (lambda b: b.hex(), bytes.fromhex),
    "bytearray": (lambda b: bytes(b).hex(), bytearray.fromhex),
    "complex": (repr, complex),
    "range": (lambda r: [encode_int(n) for n in (r.start, r.stop, r.step)], lambda v: range(*map(decode_int, v))),
    "date": (lambda d: d.isoformat(), datetime.date.fromisoformat),
    "datetime": (lambda d: d.isoformat(), datetime.datetime.fromisoformat),
    "time": (lambda d: d.isoformat(), datetime.time.fromisoformat),
    "timedelta": (lambda d: [d.days, d.seconds, d.microseconds], lambda v: datetime.timedelta(*v)),
}
EXACT = {
    **{kind: name for name, kind in SEQUENCES.items()},
    **{kind: name for name, kind in MAPPINGS.items() if name != "defaultdict"},
    defaultdict: "defaultdict", Decimal: "Decimal", Fraction: "Fraction", bytes: "bytes", bytearray: "bytearray",
    complex: "complex", range: "range", datetime.date: "date", datetime.datetime: "datetime", datetime.time: "time",
    datetime.timedelta: "timedelta",
}  # fmt: skip
HELD: dict[type, Callable[[Any], Any]] = {  # by the methods of the built-in type, whatever a subclass makes of them
    int: lambda value: int.__add__(value, 0),
    float: lambda value: float.__add__(value, 0.0),
    str: lambda value: str.__getitem__(value, slice(None)),
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    list: lambda value: list.__getitem__(value, slice(None)),
    tuple: lambda value: tuple.__getitem__(value, slice(None)),
    dict: lambda value: {key: dict.__getitem__(value, key) for key in dict.__iter__(value)},
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}


class Gone(Exception):
    """The other process has ended or broken off."""


def encode(value: Any, refer: Callable[[Any], Any]) -> Any:
    """A value as JSON; what is no plain data is given to `refer`, which answers with JSON of its own."""
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return encode_int(value)
    if kind is list:
        return [encode(item, refer) for item in value]
    name = EXACT.get(kind, "")
    if name in SEQUENCES:
        return {"t": name, "v": [encode(item, refer) for item in value]}
    if name in MAPPINGS:
        return {"t": name, "v": [[encode(k, refer), encode(v, refer)] for k, v in value.items()]}
    if name:
        return {"t": name, "v": TEXTS[name][0](value)}
    if isinstance(value, type) and getattr(builtins, called := getattr(value, "__name__", ""), None) is value:
        return {"t": "builtin", "v": called}
    return refer(value)


def plain_view(value: Any, refer: Callable[[Any], Any]) -> Any:
    """What an instance of a subclass of a built-in type holds, as JSON, else None; NumPy's arrays as lists."""
    for base, held in HELD.items():
        if isinstance(value, base):
            return encode(held(value), refer)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), refer)
    return None


def decode(data: Any, refer: Callable[[Any], Any]) -> Any:
    """The value that `encode` wrote; what was referred to is given to `refer`. ValueError or TypeError for other JSON."""
    if isinstance(data, list):
        return [decode(item, refer) for item in data]
    if not isinstance(data, dict):
        return data
    kind: str = data["t"]
    value: Any = data.get("v")
    if kind in SEQUENCES:
        return SEQUENCES[kind](decode(item, refer) for item in value)
    if kind in MAPPINGS:
        return MAPPINGS[kind]({decode(k, refer): decode(v, refer) for k, v in value})
    if kind in TEXTS:
        return TEXTS[kind][1](value)
    if kind == "int":
        return int(value, 16)
    if kind == "builtin" and isinstance(found := getattr(builtins, value), type):
        return found
    return refer(data)


def encode_int(value: int) -> Any:
    """An integer as JSON of any size: decimal digits of a long one would take quadratic time."""
    return value if -SMALL < value < SMALL else {"t": "int", "v": hex(value)}


def decode_int(data: Any) -> int:
    """The reverse of `encode_int`."""
    return int(data["v"], 16) if isinstance(data, dict) else int(data)


def named(value: Any) -> Any:
    """A function or class of the standard library as its name, None for any other."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module.split(".")[0] not in sys.stdlib_module_names:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return {"t": "name", "v": [module, name]} if found is value and module != "__main__" else None


def by_name(module: str, name: str) -> Any:
    """What `named` named."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


class Channel:
    """Messages over a stream socket: four bytes of length, then JSON."""

    def __init__(self, connection: socket.socket):
        self.connection = connection

    def send(self, message: Any) -> None:
        data = json.dumps(message).encode()
        try:
            self.connection.sendall(struct.pack("!I", len(data)) + data)
        except OSError as error:
            raise Gone from error

    def receive(self) -> Any:
        (length,) = struct.unpack("!I", self._exactly(4))
        if length > MAX_MESSAGE:
            raise ValueError(f"a value of {length} bytes is more than the {MAX_MESSAGE} that are compared")
        return json.loads(self._exactly(length))

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                part = self.connection.recv(min(count - len(data), 1 << 20))
            except OSError as error:
                raise Gone from error
            if not part:
                raise Gone
            data += part
        return bytes(data)
