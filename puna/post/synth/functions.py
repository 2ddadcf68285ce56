"""Python functions to work on: those of accepted code dialogs, then those of documents of code (paper 4.3.1).

A function is taken when it parses, has arguments and returns something, and stands on its own: it uses no name but its own, the
language's, and those of the standard library that it imports.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator

from puna.core.errors import InputError
from puna.post.synth.code_text import blocks, free_names, parsed
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Item
from puna.tokenizer.dialog import content_id

MOST_LINES = 60


def functions(count: int, sources: Sources) -> Iterator[Item]:
    """At most `count` items whose `given` is the source of a function, each function once."""
    seen: set[str] = set()
    for text, source, licence, parent in _texts(sources):
        for code in standing_alone(text):
            key = content_id(code)
            if key not in seen and len(seen) < count:
                seen.add(key)
                yield Item(key, source, licence, code, (parent,))
        if len(seen) >= count:
            return


def _texts(sources: Sources) -> Iterator[tuple[str, str, str, str]]:
    """Code with its source, licence and parent: the last answers of dialogs about code, then documents of code."""
    if sources.has("samples") or sources.has("tasks"):
        for dialog in sources.dialogs():
            if dialog.capability == "code":
                where = dialog.provenance
                yield "\n".join(_python(dialog.messages[-1].content)), where.source, where.licence, dialog.id
    if sources.has("documents"):
        for document in sources.documents("code"):
            fenced = _python(document.text)
            yield "\n".join(fenced) if fenced else document.text, document.source, document.licence, document.id
    elif not (sources.has("samples") or sources.has("tasks")):
        raise InputError("a generator draws from samples, tasks or documents with code in them, and none is given",
                         fix="add one under `from`")  # fmt: skip


def _python(text: str) -> list[str]:
    return [body for named, body in blocks(text) if named in ("", "python", "py")]


def standing_alone(text: str) -> list[str]:
    """The sources of the functions in a program that need nothing else of it but its imports."""
    tree = parsed(text)
    if tree is None:
        return []
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list and _returns(node):
            used = [one for one in imports if _names(one) & free_names(node)]
            known = set(dir(builtins)).union({node.name}, *map(_names, used))
            code = "\n".join(map(ast.unparse, used)) + ("\n\n\n" if used else "") + ast.unparse(node)
            if free_names(node) <= known and all(map(_standard, used)) and code.count("\n") < MOST_LINES:
                found.append(code)
    return found


def name_of(code: str) -> str:
    """The name of the last function at the top level, empty without one."""
    tree = parsed(code)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] if tree else []
    return names[-1] if names else ""


def _returns(node: ast.FunctionDef) -> bool:
    given = bool(node.args.args) and not node.args.vararg and not node.args.kwarg
    return given and any(isinstance(n, ast.Return) and n.value is not None for n in ast.walk(node))


def _names(node: ast.Import | ast.ImportFrom) -> set[str]:
    return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}


def _standard(node: ast.Import | ast.ImportFrom) -> bool:
    modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return all(module.partition(".")[0] in sys.stdlib_module_names for module in modules)
