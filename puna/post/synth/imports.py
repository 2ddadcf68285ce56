"""Which files of a small Python project import which, read from their syntax trees; nothing is imported or run."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import PurePosixPath

from puna.post.synth.code_text import parsed

MAX_SOURCE = 400_000  # characters of a file that is read


def dependents(files: Mapping[str, str], path: str) -> dict[str, set[str]]:
    """The files that import `path` directly, each with the names it takes of it ("" for the module itself).

    `files` maps paths relative to the project's root to source; a file that is no Python imports nothing.
    """
    found = {}
    for other, source in files.items():
        if other != path:
            names = _taken(source, other, module_of(path), set(map(module_of, files)))
            if names:
                found[other] = names
    return found


def module_of(path: str) -> str:
    """The dotted name under which a file is imported from the project's root."""
    parts = list(PurePosixPath(path).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def defined(source: str) -> set[str]:
    """The names that a module defines at its top level; empty if it is no Python."""
    tree = parsed(source, MAX_SOURCE)
    names: set[str] = set()
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def _taken(source: str, path: str, wanted: str, modules: set[str]) -> set[str]:
    """The names that one file takes of the module `wanted`."""
    tree, names = parsed(source, MAX_SOURCE), set()
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import) and any(alias.name == wanted for alias in node.names):
            bound = next(alias.asname or alias.name for alias in node.names if alias.name == wanted)
            names |= {""} | _attributes(tree, bound)
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, path)
            if origin == wanted:
                names |= {alias.name for alias in node.names if f"{wanted}.{alias.name}" not in modules}
            for alias in node.names:
                if f"{origin}.{alias.name}".strip(".") == wanted:
                    names |= {""} | _attributes(tree, alias.asname or alias.name)
    return names


def _origin(node: ast.ImportFrom, path: str) -> str:
    """The module an import takes from, relative ones resolved against the file's folder."""
    if not node.level:
        return node.module or ""
    folder = PurePosixPath(path).parent.parts
    kept = folder[: len(folder) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _attributes(tree: ast.AST | None, name: str) -> set[str]:
    """What is used of a module bound to a name: the X of each `name.X`."""
    found = ast.walk(tree) if tree else ()
    return {node.attr for node in found if isinstance(node, ast.Attribute) and ast.unparse(node.value) == name}
