"""Functions, shards and results as JSON, for workers that share nothing with us but files.

What may travel: plain values, lists, tuples, maps with text keys, paths, settings, functions of a module, and partials of these.
"""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from typing import Any

from puna.core.settings import Settings

KIND = "$"  # marks a map that stands for something else


def dump(value: Any) -> str:
    """A value as JSON text. TypeError for a value that may not travel."""
    return json.dumps(_encode(value), sort_keys=True)


def load(text: str) -> Any:
    """What `dump` was given."""
    return _decode(json.loads(text))


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {KIND: "path", "path": str(value.absolute())}
    if isinstance(value, list | range):
        return [_encode(item) for item in value]
    if isinstance(value, tuple):
        return {KIND: "tuple", "items": [_encode(item) for item in value]}
    if isinstance(value, dict):
        if KIND in value or not all(isinstance(key, str) for key in value):
            raise TypeError("only maps with text keys can be sent to another machine")
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, Settings):
        return {KIND: "settings", "name": _name(type(value)), "value": value.model_dump(mode="json")}
    if isinstance(value, functools.partial):
        return {
            KIND: "partial",
            "function": _encode(value.func),
            "args": _encode(list(value.args)),
            "kwargs": _encode(value.keywords),
        }
    if callable(value) and "<" not in getattr(value, "__qualname__", "<"):
        return {KIND: "name", "name": _name(value)}
    raise TypeError(f"a {type(value).__name__} cannot be sent to another machine")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(KIND)
    if kind == "path":
        return Path(value["path"])
    if kind == "tuple":
        return tuple(_decode(item) for item in value["items"])
    if kind == "settings":
        return _find(value["name"]).model_validate(value["value"])
    if kind == "partial":
        return functools.partial(_decode(value["function"]), *_decode(value["args"]), **_decode(value["kwargs"]))
    if kind == "name":
        return _find(value["name"])
    return {key: _decode(item) for key, item in value.items()}


def _name(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), importlib.import_module(module))
