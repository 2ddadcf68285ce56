"""Recipe text to plain values, with the place where each value stands.

A user who mistypes a key wants the file and the line, and `puna config` shows the origin of every value, so the YAML is
read at the level of nodes, which carry line numbers. Plain scalars follow YAML 1.2: `no` is the language Norwegian and not
`false`, `2e-4` is a number and not a string. Only plain values are built; no tag of a file can make an object.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from puna.core.errors import InputError

KeyPath = tuple[str | int, ...]
Origins = dict[KeyPath, str]


class _Loader(yaml.SafeLoader):
    """SafeLoader with the plain scalars of YAML 1.2 and no others."""

    yaml_implicit_resolvers: dict[str, list] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def load_file(path: Path) -> tuple[Any, Origins]:
    """Values of a YAML file, and `file:line` for each key path. Raises InputError for a file that is missing or no YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError("the recipe is not UTF-8 text", where=shown(path), fix="save it as UTF-8") from error
    except OSError as error:
        raise InputError(
            f"the recipe cannot be read: {error.strerror}", where=shown(path), fix="check the path and its permissions"
        ) from error
    return load_text(text, shown(path))


def load_text(text: str, label: str) -> tuple[Any, Origins]:
    """Values of YAML text; `label` names it in origins and errors."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        origins: Origins = {}
        return (None if node is None else _build(loader, node, (), label, origins)), origins
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(
            f"this is not valid YAML: {error.problem or error}",
            where=f"{label}{line}",
            fix="check indentation, brackets and quotes on that line",
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"this is not valid YAML: {error}", where=label) from error
    finally:
        loader.dispose()


def parse_value(text: str) -> Any:
    """The value after `=` in an override: a YAML scalar, list or map."""
    return load_text(text, f"'{text}'")[0]


def shown(path: Path) -> str:
    """A path as a user would type it: relative to the working directory when it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _build(loader: _Loader, node: yaml.Node, path: KeyPath, label: str, origins: Origins) -> Any:
    origins[path] = f"{label}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(loader, node, path, label, origins)
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, child, (*path, i), label, origins) for i, child in enumerate(node.value)]
    if not node.tag.startswith("tag:yaml.org,2002:"):
        raise InputError(f"the tag {node.tag} means nothing in a recipe", where=origins[path], fix="write a plain value")
    return loader.construct_object(node)


def _build_mapping(loader: _Loader, node: yaml.MappingNode, path: KeyPath, label: str, origins: Origins) -> dict[str, Any]:
    written: set[str] = set()
    for key, _ in node.value:
        place = f"{label}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise InputError("a key must be a plain word", where=place, fix="write `word: value`")
        if key.value in written:
            raise InputError(f"the key '{key.value}' stands twice", where=place, fix="keep one of them")
        written.add(key.value)
    loader.flatten_mapping(node)  # resolves `<<`: merged pairs come first, so the map's own win below
    result: dict[str, Any] = {}
    for key, value in node.value:
        result[key.value] = _build(loader, value, (*path, key.value), label, origins)
        origins[(*path, key.value)] = f"{label}:{key.start_mark.line + 1}"
    return result
