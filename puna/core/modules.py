"""From `uses: data.curate` to the stage file it names, checked to be one."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import puna
from puna.core.errors import InputError
from puna.core.settings import Settings

PACKAGE = Path(puna.__file__).parent
CODE_FILES = (".py", ".json", ".txt", ".yaml")  # code, and the data that is part of it


def load_stage(uses: str, where: str | None = None) -> ModuleType:
    """The stage file called `uses`: inside puna (`train.pretrain`), or any importable module for a user's own stage."""
    name = _importable(uses)
    if name is None:
        raise InputError(f"there is no stage file '{uses}'", where=where, fix=did_you_mean(uses, stage_files()))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the stage file '{uses}' needs the package '{error.name}', which is not installed",
            where=where,
            fix=f"pip install {error.name}",
        ) from error
    missing = [part for part in ("KIND", "REVISION", "Settings", "run") if not hasattr(module, part)]
    if missing or not issubclass(module.Settings, Settings):
        raise InputError(
            f"'{uses}' is no stage file: it lacks {', '.join(missing) or 'a Settings class of puna.core.settings'}",
            where=where,
            fix=did_you_mean(uses, stage_files()),
        )
    return module


def stage_files() -> list[str]:
    """Names of the stage files in the package, found by reading and not by importing."""
    found = []
    for path in sorted(PACKAGE.glob("*/**/*.py")):
        source = path.read_text(encoding="utf-8")
        if re.search(r"^KIND\b.*=", source, re.MULTILINE) and re.search(r"^def run\(", source, re.MULTILINE):
            found.append(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    return found


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word: the nearest known ones, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    return "known: " + ", ".join(known) if known else "none is known here"


def source_hash(module: ModuleType) -> str:
    """Hash of the code a stage file stands in: its package inside puna, or the file alone for a user's own module."""
    path = Path(module.__file__ or "")
    files = [path]
    if path.is_relative_to(PACKAGE):
        files = sorted(file for file in path.parent.rglob("*") if file.suffix in CODE_FILES)
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _importable(uses: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", uses):
        return None
    for name in (f"puna.{uses}", uses):
        try:
            if importlib.util.find_spec(name) is not None:
                return name
        except ModuleNotFoundError:
            continue
    return None
