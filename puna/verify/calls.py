"""Tool calls read from what a model wrote, and compared as trees: same function, same arguments, order and spelling free.

Accepted spellings: Llama 3.1's {"name", "parameters"} (with or without "type"), OpenAI's {"function": {"name", "arguments"}} with
arguments as an object or as a JSON string, a list of these, several in one text separated by ";" or line ends, and Python's
`name(a=7, b=5)`.
"""

from __future__ import annotations

import ast
import json
from typing import Any

Call = tuple[str, dict[str, Any]]
MAX_CHARS = 20_000  # no call is longer; parsers slow down or recurse on what a looping model writes


def read_calls(text: str) -> list[Call] | None:
    """The calls in `text`, or None if it is anything but calls. Never raises."""
    text = text.strip().removeprefix("<|python_tag|>").strip()
    if not text or len(text) > MAX_CHARS:
        return None
    try:
        found = _from_json(json.loads(text))
    except (ValueError, RecursionError):
        found = _several(text) or _from_python(text)
    return found or None


def same_calls(found: list[Call], wanted: list[Call]) -> bool:
    """Whether both name the same calls, in any order, each as often."""
    left = list(wanted)
    for call in found:
        match = next((i for i, other in enumerate(left) if call[0] == other[0] and same_value(call[1], other[1])), None)
        if match is None:
            return False
        del left[match]
    return not left


def same_value(a: Any, b: Any) -> bool:
    """JSON equality: 7 equals 7.0 but neither "7" nor true; objects without order, lists with."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_value(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_value, a, b))
    return type(a) is type(b) and a == b


def _from_json(value: Any) -> list[Call] | None:
    calls = [_one(v) for v in value] if isinstance(value, list) else [_one(value)]
    return None if any(c is None for c in calls) else [c for c in calls if c]


def _one(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    arguments = value.get("parameters", value.get("arguments"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    name = value.get("name")
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def _several(text: str) -> list[Call] | None:
    """JSON objects one after another, with white space, commas or semicolons between them."""
    decoder, calls, at = json.JSONDecoder(), [], 0
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        found = _from_json(value)
        if found is None:
            return None
        calls += found
        while at < len(text) and text[at] in " \t\r\n;,":
            at += 1
    return calls


def _from_python(text: str) -> list[Call] | None:
    """`name(a=7)` or `[f(x=1), g(y=2)]`: keyword arguments that are literals; nothing is evaluated."""
    try:
        tree = ast.parse(text, mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List) else [tree]
        calls = [_python_call(node) for node in nodes]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return None if any(c is None for c in calls) else [c for c in calls if c]


def _python_call(node: ast.expr) -> Call | None:
    if not isinstance(node, ast.Call) or node.args or any(k.arg is None for k in node.keywords):
        return None
    return ast.unparse(node.func), {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
