"""Arguments and options that several verbs share, and how a verb prints rows for people or for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Dir = Annotated[Path, typer.Option("--dir", help="Where store/ and runs/ live.", file_okay=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Cores = Annotated[int | None, typer.Option("--cores", min=1, help="Cores to fill (default: all this process may use).")]
RecipeArgument = Annotated[str | None, typer.Argument(help="A .yaml file, file.py:function, or a bundled name (default: cria).")]
Values = Annotated[list[str] | None, typer.Argument(help="key.path=value ... changes values of the recipe.", show_default=False)]
HERE = Path()
DEFAULT_RECIPE = "cria"
WIDEST = 48  # a column is no wider than this; a longer cell pushes its own line only


def split_target(target: str | None, values: list[str] | None) -> tuple[str, list[str]]:
    """`puna up seed=8` names no recipe: the first word is a recipe only if it is no override."""
    words = [word for word in (target, *(values or ())) if word is not None]
    if words and ("=" not in words[0] or Path(words[0]).exists()):
        return words[0], gathered(words[1:])
    return DEFAULT_RECIPE, gathered(words)


def gathered(words: Sequence[str]) -> list[str]:
    """`data=a.jsonl b.jsonl` as one list: a word without `=`, as a pattern of the shell gives them, joins the one before."""
    lists: list[list[str]] = []
    for word in words:
        if "=" in word or not lists or "=" not in lists[-1][0]:
            lists.append([word])
        else:
            lists[-1].append(word)
    _once(first for first, *_ in lists)
    return [first if not more else _listed(first, more) for first, *more in lists]


def _once(words: Iterable[str]) -> None:
    """A value that is given twice is a mistake: the first would be lost without a word."""
    from puna.core.errors import InputError

    seen: set[str] = set()
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and key in seen:
            raise InputError(f"'{key}' is given twice", where=word, fix=f"once, as a list: {key}=FIRST SECOND")
        seen.add(key)


def _listed(first: str, more: list[str]) -> str:
    key, _, value = first.partition("=")
    return f"{key}={json.dumps([value, *more], ensure_ascii=False)}"


def show(value: Any, text: str, as_json: bool) -> None:
    """Print one result."""
    typer.echo(json.dumps(value, default=str) if as_json else text)


def table(rows: list[list[str]], head: list[str]) -> str:
    """Columns of text under their heads."""
    widths = [min(WIDEST, max(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
