"""Functions mined from Python source with their signatures and docstrings: the tools of zero-shot function calling (4.3.5).

The paper mines functions from The Stack; here from any documents that hold Python, or from modules of the installed standard
library, whose functions can also be run. Source is parsed and never imported. A function is kept if its docstring says what it
does and its parameters are of types that JSON can carry.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import InputError
from puna.post.synth.code_text import parsed

MAX_SOURCE = 400_000  # characters of a module that is parsed
MAX_DOC = 300  # characters of a docstring in a description
JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object"}

# standard-library modules whose functions take and give plain values, and touch neither files nor the network nor the clock
MODULES = ("calendar", "colorsys", "difflib", "heapq", "html", "shlex", "statistics", "string", "textwrap")


@dataclass(frozen=True)
class Parameter:
    """One parameter: its JSON type ("" where the source does not tell), and whether it may be left out."""

    name: str
    type: str
    required: bool


@dataclass(frozen=True)
class Signature:
    """One function; `source` defines or imports it, for the sandbox."""

    name: str
    parameters: tuple[Parameter, ...]
    doc: str
    source: str

    def description(self) -> dict[str, Any]:
        """The function as OpenAI and Llama 3.1 describe it to a model."""
        properties = {p.name: {"type": p.type} if p.type else {} for p in self.parameters}
        required = [p.name for p in self.parameters if p.required]
        parameters = {"type": "object", "properties": properties, "required": required}
        return {"name": self.name, "description": self.doc, "parameters": parameters}

    def program(self, arguments: Mapping[str, Any]) -> str:
        """A program that calls the function and prints what it returns as JSON; it fails for None and what JSON cannot carry."""
        given = json.dumps(arguments)
        return (
            f"{self.source}\n\nimport json\n\nresult = {self.name}(**json.loads({given!r}))\n"
            "if result is None:\n    raise SystemExit(1)\nprint(json.dumps(result))\n"
        )


def mine(source: str, module: str = "") -> list[Signature]:
    """The usable functions at the top level of some Python source, of an installed module if named; empty if it is no Python."""
    tree = parsed(source, MAX_SOURCE)
    body = tree.body if tree else []
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    found = [_signature(node, f"from {module} import {node.name}" if module else ast.unparse(node)) for node in functions]
    return [signature for signature in found if signature]


def installed(modules: Sequence[str] = MODULES) -> Iterator[Signature]:
    """The usable functions of modules of the standard library, in the order of their source; InputError for any other module.

    The sandbox shows no other library, and the rows that come of these functions carry Python's licence.
    """
    for name in modules:
        yield from mine(source_of(name).read_text(encoding="utf-8"), name)


def source_of(module: str) -> Path:
    """The file of a module of the standard library; InputError for any other module."""
    spec = importlib.util.find_spec(module) if module in sys.stdlib_module_names else None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise InputError(
            f"'{module}' is no module of the standard library written in Python",
            where="modules",
            fix="name one such as textwrap",
        )
    return Path(spec.origin)


def _signature(node: ast.FunctionDef, source: str) -> Signature | None:
    doc, arguments = ast.get_docstring(node) or "", node.args
    usable = not node.name.startswith("_") and doc and not node.decorator_list
    if not usable or arguments.vararg or arguments.kwarg or arguments.posonlyargs or not arguments.args:
        return None
    defaults: list[ast.expr | None] = [None] * (len(arguments.args) - len(arguments.defaults))
    pairs = [*zip(arguments.args, [*defaults, *arguments.defaults], strict=True),
             *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]  # fmt: skip
    parameters = tuple(_parameter(argument, default) for argument, default in pairs)
    summary = " ".join(inspect.cleandoc(doc).split("\n\n")[0].split())[:MAX_DOC]
    return None if any(p.name in ("self", "cls") for p in parameters) else Signature(node.name, parameters, summary, source)


def _parameter(argument: ast.arg, default: ast.expr | None) -> Parameter:
    return Parameter(argument.arg, _annotated(argument.annotation) or _type_of(default), default is None)


def _annotated(annotation: ast.expr | None) -> str:
    name = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return JSON_TYPES.get(name.id, "") if isinstance(name, ast.Name) else ""


def _type_of(default: ast.expr | None) -> str:
    """The JSON type of a literal default; none for None, which says nothing."""
    if isinstance(default, ast.UnaryOp):
        default = default.operand
    value: Any = default.value if isinstance(default, ast.Constant) else [] if isinstance(default, ast.List | ast.Tuple) else None
    return JSON_TYPES.get(type(value).__name__, "")
