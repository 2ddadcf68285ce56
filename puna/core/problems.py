"""What pydantic found wrong with settings, as what / where / fix: the key as the user wrote it, its place, and what it may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from puna.core.errors import InputError
from puna.core.modules import did_you_mean
from puna.core.settings import Settings
from puna.core.source import KeyPath

if TYPE_CHECKING:
    from puna.core.recipe import Recipe

SHOWN_CHARS = 80  # of a wrong value
WORDS = {"model_type": "a map", "dict_type": "a map", "list_type": "a list", "tuple_type": "a list"}


def explained(
    error: ValidationError,
    model: type[Settings],
    values: Mapping[str, Any],
    recipe: Recipe,
    path: KeyPath,
    owner: str,
    extra_keys: Sequence[str] = (),
) -> InputError:
    """The first problem as an InputError.

    Args:
        values: what was checked against `model`; it stands at `path` in the recipe.
        owner: what it is called in the message.
        extra_keys: keys that are allowed besides the model's fields, for the hint.
    """
    problems = error.errors(include_url=False)
    places = [_written(p["loc"], values, p["type"]) for p in problems]
    problem, loc = _blamed(problems, places)
    key_paths = set(places)
    whole = [k for k in key_paths if not any(other != k and other[: len(k)] == k for other in key_paths)]
    where, key = recipe.blamed(*path, *loc), ".".join(map(str, loc))
    more = f" (and {len(whole) - 1} more)" if len(whole) > 1 else ""
    if problem["type"] == "extra_forbidden":
        known = [*_fields_at(model, loc[:-1]), *extra_keys]
        return InputError(f"{owner} has no setting '{key}'{more}", where=where, fix=did_you_mean(str(loc[-1]), known))
    if problem["type"] == "missing" and isinstance(loc[-1], int):
        count = 1 + max(int(place[-1]) for place in places if place[:-1] == loc[:-1] and isinstance(place[-1], int))
        what = f"'{'.'.join(map(str, loc[:-1]))}' is {_short(problem['input'])} and is too short"
        return InputError(f"{owner}: {what}{more}", where=where, fix=f"give {count} values")
    if problem["type"] == "missing":
        return InputError(f"{owner} needs the setting '{key}'{more}", where=where, fix=f"add `{loc[-1]}: ...`")
    message = _message(problem)
    if problem["type"] == "value_error":
        fix = f"change `{key}`" if key else "change one of these settings"
        return InputError(f"{owner}: {key + ': ' if key else ''}{message}{more}", where=where, fix=fix)
    what = f"{owner}: '{key}' is {_short(problem['input'])} and should be {message}{more}"
    return InputError(what, where=where, fix=_remedy(model, loc, message))


def _blamed(problems: Sequence[Any], places: Sequence[KeyPath]) -> tuple[Any, KeyPath]:
    """The first problem, or the deepest one inside its value: of a union's branches the one that fits the value best."""
    inside = [number for number, place in enumerate(places) if place[: len(places[0])] == places[0]]
    number = max(inside, key=lambda number: len(places[number]))
    return problems[number], places[number]


def _message(problem: Any) -> str:
    """What a value should be, in the words of a recipe."""
    if problem["type"] in WORDS:
        return WORDS[problem["type"]]
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ").partition(", unable to parse")[0]
    return f"a number {message}" if message.startswith(("greater", "less")) else message


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."


def _written(loc: KeyPath, values: Any, kind: str, branch: bool = False) -> KeyPath:
    """A place as pydantic names it without the branches of unions, which no recipe holds.

    A branch may be called as a key is (`path`); what leads to the most parts, and to the later ones, is taken.
    """
    if not loc:
        return ()
    part, rest = loc[0], loc[1:]
    inside = (isinstance(values, Mapping) and part in values) or (
        isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)
    )
    if not inside and kind == "missing" and not rest:
        return (part,)
    as_branch = _written(rest, values, kind, branch) if branch or not inside else ()
    as_key = (part, *_written(rest, values[part], kind, branch=True)) if inside else ()
    return as_key if len(as_key) > len(as_branch) else as_branch


def _remedy(model: type[Settings], loc: KeyPath, message: str) -> str:
    field = _field_at(model, loc)
    default = field.get_default(call_default_factory=True) if field and not field.is_required() else None
    plain = default is not None and isinstance(default, str | int | float)
    return f"give {message}" + (f", or leave it out (the default is {default})" if plain else "")


def _field_at(model: type[Settings], loc: KeyPath) -> FieldInfo | None:
    """The field that sits at `loc`; None for an entry of a list or map."""
    fields = _fields_at(model, loc[:-1])
    return fields.get(str(loc[-1])) if loc else None


def _fields_at(model: type[Settings], loc: KeyPath) -> dict[str, FieldInfo]:
    """Fields of the settings classes that may sit at `loc`: those of every branch of a union, none where there is no class."""
    current = [model]
    for part in loc:
        found = [one.model_fields[str(part)] for one in current if part in one.model_fields]
        if found or not current:  # else a position in a list, or a key of a map
            current = [inner for field in found for inner in _classes(field.annotation)]
    return {name: field for one in reversed(current) for name, field in one.model_fields.items()}


def _classes(annotation: Any) -> list[type[Settings]]:
    """The settings classes inside an annotation, at any depth."""
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _classes(inner)]
