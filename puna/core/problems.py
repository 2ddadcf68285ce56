"""What pydantic found wrong with settings, as what / where / fix: the key as the user wrote it, its place, and what it may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from puna.core.errors import InputError
from puna.core.modules import did_you_mean
from puna.core.settings import Settings
from puna.core.source import KeyPath

if TYPE_CHECKING:
    from puna.core.recipe import Recipe


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
    problem = problems[0]
    key_paths = {_written(p["loc"], values, p["type"]) for p in problems}
    whole = [k for k in key_paths if not any(other != k and other[: len(k)] == k for other in key_paths)]
    loc = _written(problem["loc"], values, problem["type"])
    where, key = recipe.blamed(*path, *loc), ".".join(map(str, loc))
    more = f" (and {len(whole) - 1} more)" if len(whole) > 1 else ""
    if problem["type"] == "extra_forbidden":
        known = [*_fields_at(model, loc[:-1]), *extra_keys]
        return InputError(f"{owner} has no setting '{key}'{more}", where=where, fix=did_you_mean(str(loc[-1]), known))
    if problem["type"] == "missing":
        return InputError(f"{owner} needs the setting '{key}'{more}", where=where, fix=f"add `{loc[-1]}: ...`")
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ").partition(", unable to parse")[0]
    message = f"a number {message}" if message.startswith(("greater", "less")) else message
    if problem["type"] == "value_error":
        fix = f"change `{key}`" if key else "change one of these settings"
        return InputError(f"{owner}: {key + ': ' if key else ''}{message}{more}", where=where, fix=fix)
    return InputError(
        f"{owner}: '{key}' is {problem['input']!r} and should be {message}{more}", where=where, fix=_remedy(model, loc, message)
    )


def _written(loc: KeyPath, values: Any, kind: str) -> KeyPath:
    """A place as pydantic names it without the branches of unions, which no recipe holds."""
    found: list[str | int] = []
    for number, part in enumerate(loc):
        inside = (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)
        )
        if inside:
            values = values[part]
        if inside or (kind == "missing" and number == len(loc) - 1):
            found.append(part)
    return tuple(found)


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
    """Fields of the settings class that sits at `loc`, empty where that is not one class."""
    current: Any = model
    for part in loc:
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            continue  # a list position
        annotation = fields[part].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")]
        if not inner:
            return {}
        current = inner[0]
    return dict(getattr(current, "model_fields", {}))
