"""Stages of a recipe made several times over, each copy with random numbers of its own: three base seeds, one set of test items.

`copies: {of: [flagship, flagship-chat, scores], names: [b, c]}` adds `b-flagship`, `c-flagship`, `b-flagship-chat` and so on. A
copy has the settings of its original, and wherever its `from` names a stage that is copied, it reads the copy of its own letter;
so do its settings where they name such an input. What it `uses`, and a word that only looks like a stage it does not read, stay.
Everything random hangs on a stage's name, so the copies differ by chance alone and share whatever is not copied.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from puna.core.errors import InputError
from puna.core.modules import did_you_mean
from puna.core.settings import Settings
from puna.core.source import Origins

USES, ALL = "uses", "all"  # key of a stage's file; value of `from` for every stage
LABELS = ("name", "variant", "description")  # texts for readers, which name no stage even where they look so


class Copies(Settings):
    """Which stages (`of`) are made again, once for each of `names`."""

    of: tuple[str, ...] = Field(min_length=1)
    names: tuple[str, ...] = Field(min_length=1)


def copy_name(prefix: str, stage: str) -> str:
    """What the copy of a stage is called."""
    return f"{prefix}-{stage}"


def add_copies(stages: dict[str, Any], copies: Copies, origins: Origins, where: str) -> dict[str, Any]:
    """The stages with their copies, each behind the last original; `origins` learns where the values of the copies were written.

    Raises:
        InputError: for a stage that there is not, and for a copy whose name is taken.
    """
    unknown = next((name for name in copies.of if name not in stages), None)
    if unknown is not None:
        raise InputError(f"`copies` names '{unknown}', which is no stage", where=where, fix=did_you_mean(unknown, stages))
    made = {copy_name(prefix, name): (prefix, name) for prefix in copies.names for name in copies.of}
    taken = next((name for name in made if name in stages), None)
    if taken is not None or len(made) < len(copies.names) * len(copies.of):
        raise InputError(f"a copy cannot be called '{taken or copies.names[0]}', which is taken", where=where,
                         fix="choose other `names`")  # fmt: skip
    last = max(list(stages).index(name) for name in copies.of)
    found = list(stages.items())
    added = {copy: _copied(stages[name], prefix, copies.of) for copy, (prefix, name) in made.items()}
    for copy, (_, name) in made.items():
        kept = [(path, place) for path, place in origins.items() if path[:2] == ("stages", name)]
        origins.update({("stages", copy, *path[2:]): place for path, place in kept})
    return dict([*found[: last + 1], *added.items(), *found[last + 1 :]])


def _copied(stage: Any, prefix: str, of: tuple[str, ...]) -> Any:
    """A stage with its inputs, and the settings that name one of them, renamed."""
    if not isinstance(stage, dict):
        return stage
    given = stage.get("from") or ()
    read = {str(name).split(".")[0] for name in ([given] if isinstance(given, str) else given)}
    inputs = of if ALL in read else tuple(name for name in of if name in read)
    return {key: item if key == USES else _renamed(item, prefix, inputs) for key, item in stage.items()}


def _renamed(value: Any, prefix: str, of: tuple[str, ...]) -> Any:
    """A value in which every text but a label that names a copied stage, or a sub-stage of one, names the copy."""
    if isinstance(value, dict):
        return {key: item if key in LABELS else _renamed(item, prefix, of) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_renamed(item, prefix, of) for item in value]
    if isinstance(value, str) and value.split(".")[0] in of:
        return copy_name(prefix, value)
    return value
