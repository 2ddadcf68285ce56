"""Reading code out of answers: fenced blocks, the function a problem asks for, the asserts of a test, a first static check.

What a model wrote is only parsed here, never run; running is the sandbox's (paper 4.3.1: parser and linter come before tests).
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings

MAX_CHARS = 20_000  # no program of a dialog is longer
_FENCE = re.compile(r"^```[ \t]*([\w+#-]*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_SIGNATURE = re.compile(r"\bdef\s+([A-Za-z_]\w*)\s*\(")


def blocks(text: str) -> list[tuple[str, str]]:
    """Language (lower case, may be empty) and body of each fenced block, in order."""
    return [(match[1].lower(), match[2]) for match in _FENCE.finditer(text)]


def code_in(text: str, language: str = "python") -> str:
    """The body of the first block in `language` or in none; the whole text where nothing is fenced; else empty."""
    found = blocks(text)
    fitting = [body for named, body in found if named in ("", language)]
    return fitting[0] if fitting else "" if found else text


def entry_point(problem: str) -> str | None:
    """The name of the one function whose signature the problem gives; None for none or several."""
    names = set(_SIGNATURE.findall(problem))
    return names.pop() if len(names) == 1 else None


def parsed(code: str, most: int = MAX_CHARS) -> ast.Module | None:
    """The syntax tree of a program, None for what is none or has more than `most` characters. Never raises."""
    if len(code) > most:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def defines(code: str, name: str) -> bool:
    """Whether the code parses and defines the function at its top level."""
    tree = parsed(code)
    return tree is not None and any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body)


def asserts(text: str, name: str) -> tuple[str, ...]:
    """The different asserts of a test that call the function and need no other name, each as one line; empty for no Python."""
    tree = parsed(code_in(text))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Assert) and _calls(node, name)] if tree else []
    alone = [node for node in found if free_names(node) <= {name, *dir(builtins)}]
    return tuple(dict.fromkeys(map(ast.unparse, alone)))


def _calls(node: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name for n in ast.walk(node))


def free_names(node: ast.AST) -> set[str]:
    """Names that are read in a piece of code and bound nowhere in it."""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    bound = {n.id for n in names if isinstance(n.ctx, ast.Store)} | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    inner = {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.ExceptHandler) and n.name}
    return {n.id for n in names if isinstance(n.ctx, ast.Load)} - bound - inner


def fenced(code: str, language: str = "python") -> str:
    """Code as a block of a message."""
    return f"```{language}\n{code.strip()}\n```"
