"""Which JSON schemas an answer can be held to: every keyword is one that is enforced or one that asks for nothing.

The schema's meaning is JSON Schema's: an object may have further properties unless `additionalProperties` is false. A keyword
that nobody here knows is refused by name, so that neither a feature that is missing nor a slip of the pen is ignored in silence.
"""

from __future__ import annotations

import json
from typing import Any

from puna.core.errors import InputError

ENFORCED = {
    "type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "properties", "required",
    "additionalProperties", "patternProperties", "items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength",
    "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "$id", "$schema",
}  # fmt: skip
ANNOTATIONS = {
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", "$comment",
}  # fmt: skip
ONE = ("items", "additionalProperties")  # keywords whose value is a schema
MANY = ("anyOf", "oneOf", "allOf", "prefixItems")  # ... a list of schemas
NAMED = ("properties", "patternProperties", "$defs", "definitions")  # ... schemas by name
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
DRAFTS = ("2020-12", "2019-09", "draft-07", "draft-06")  # older ones mean other things by the same words

JSON_OBJECT: dict[str, Any] = {"type": "object"}  # any JSON object


def read_schema(schema: dict[str, Any] | bool | str) -> dict[str, Any]:
    """The schema, checked; InputError names the keyword that is not supported and where it stands.

    Args:
        schema: an object, `true`, or either as JSON text. A `false` has no answers and is refused.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the schema is not JSON ({error})", where="json_schema") from None
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise InputError("a JSON schema is an object", where="json_schema")
    left: list[tuple[str, Any]] = [("json_schema", schema)]
    while left:
        left += _parts(*left.pop())
    return schema


def _parts(where: str, schema: Any) -> list[tuple[str, Any]]:
    """The schemas inside a schema, with their places."""
    if isinstance(schema, bool):
        return []
    if not isinstance(schema, dict):
        raise InputError("a JSON schema is an object, true or false", where=where)
    for keyword, value in schema.items():
        _check(where, keyword, value)
    parts = [(f"{where}.{keyword}", schema[keyword]) for keyword in ONE if keyword in schema]
    for keyword in MANY:
        parts += [(f"{where}.{keyword}[{i}]", part) for i, part in enumerate(_of(list, schema, keyword, where))]
    for keyword in NAMED:
        parts += [(f"{where}.{keyword}.{name}", part) for name, part in _of(dict, schema, keyword, where).items()]
    return parts


def _check(where: str, keyword: str, value: Any) -> None:
    if keyword not in ENFORCED and keyword not in ANNOTATIONS:
        fix = "leave it out; supported are " + ", ".join(sorted(ENFORCED))
        raise InputError(f"the schema keyword '{keyword}' is not supported", where=where, fix=fix)
    if keyword in NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InputError(f"the schema keyword '{keyword}' takes a number", where=where)
    if keyword == "$schema" and not (isinstance(value, str) and any(draft in value for draft in DRAFTS)):
        raise InputError(f"JSON schemas of '{value}' are not supported", where=where, fix="write it for draft 2020-12")


def _of(kind: type, schema: dict[str, Any], keyword: str, where: str) -> Any:
    value = schema.get(keyword, kind())
    if not isinstance(value, kind):
        raise InputError(f"the schema keyword '{keyword}' takes {'a list' if kind is list else 'an object'}", where=where)
    return value
