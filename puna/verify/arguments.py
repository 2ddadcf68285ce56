"""Whether a call fits the description of the function it calls (paper 4.3.5): the name is offered, no required argument is
missing, none is unknown, and every value has the described type. Descriptions are OpenAI's: {"name", "parameters": JSON schema}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from puna.verify.calls import Call

MAX_DEPTH = 8  # of nested schemas


def misfit(call: Call, offered: Sequence[dict[str, Any]]) -> str | None:
    """What is wrong with a call, in a few words; None if it fits one of the functions offered."""
    name, arguments = call
    schema = next(
        (function.get("parameters") or {} for function in map(described, offered) if function.get("name") == name), None
    )
    if schema is None:
        return f"no function '{name}' is offered"
    return _object(arguments, {"additionalProperties": False, **schema}, "", 0)


def described(tool: dict[str, Any]) -> dict[str, Any]:
    """The description itself, whether or not it is wrapped as {"type": "function", "function": ...}."""
    inner = tool.get("function")
    return inner if isinstance(inner, dict) else tool


def _misfit(value: Any, schema: Any, where: str, depth: int) -> str | None:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return None
    if "enum" in schema and value not in schema["enum"]:
        return f"'{where}' is none of {schema['enum']}"
    wanted = schema.get("type")
    kinds = [wanted] if isinstance(wanted, str) else wanted or []
    if kinds and not any(kind in TYPES and TYPES[kind](value) for kind in kinds):
        return f"'{where}' is no {' or '.join(map(str, kinds))}"
    if isinstance(value, dict):
        return _object(value, schema, where, depth)
    if isinstance(value, list):
        found = (_misfit(one, schema.get("items"), f"{where}[{i}]", depth + 1) for i, one in enumerate(value))
        return next((reason for reason in found if reason), None)
    return None


def _object(value: dict[str, Any], schema: dict[str, Any], where: str, depth: int) -> str | None:
    properties = schema.get("properties") or {}
    prefix = f"{where}." if where else ""
    for name in schema.get("required") or ():
        if name not in value:
            return f"'{prefix}{name}' is missing"
    if schema.get("additionalProperties") is False:
        unknown = next((name for name in value if name not in properties), None)
        if unknown is not None:
            return f"'{prefix}{unknown}' is no parameter"
    found = (_misfit(one, properties.get(name), f"{prefix}{name}", depth + 1) for name, one in value.items())
    return next((reason for reason in found if reason), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}
