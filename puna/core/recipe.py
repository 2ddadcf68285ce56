"""Recipes: which stages, with which settings, from which inputs.

A recipe is a YAML file, a bundled name (`cria`), or a Python function (`my.py:herd`) that returns the same map. It may extend
another one, and the command line may override any value; every value remembers where it came from, because "where does this
number come from?" is the first question about any run. What only the user can give (a model, data) a recipe names under `takes`,
a short word for a setting of a stage: with `takes: {model: base.path}` it is given as `model=DIR`, and refused without. `copies`
makes stages several times over (`puna.core.copies`); a value that is overridden changes in every copy.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, ValidationError

from puna.core.copies import ALL, Copies, add_copies
from puna.core.errors import InputError, PunaError
from puna.core.modules import PACKAGE, did_you_mean
from puna.core.problems import explained
from puna.core.settings import Settings
from puna.core.source import KeyPath, Origins, load_file, parse_value, shown

OVERRIDE = "override "  # how an origin on the command line begins
STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Budget(Settings):
    """What the author measured, for the plan and for the order of work; nothing is enforced."""

    minutes: NonNegativeFloat | None = None
    memory_gb: NonNegativeFloat | None = None
    disk_gb: NonNegativeFloat | None = None
    seconds: dict[str, NonNegativeFloat] = {}


class _Head(Settings):
    name: str
    seed: int = 0
    description: str = ""
    chat: str | None = None
    budget: Budget = Budget()
    takes: dict[str, str] = {}
    copies: Copies | None = None


@dataclass(frozen=True)
class StageEntry:
    """One line of a recipe, before its settings are checked. `sources` is None for `from: all`."""

    name: str
    uses: str
    sources: tuple[str, ...] | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A loaded recipe. `data` is the merged map, `origins` says for each key path where its value was written."""

    name: str
    seed: int
    stages: dict[str, StageEntry]
    description: str = ""
    chat: str | None = None
    budget: Budget = field(default_factory=Budget)
    label: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    origins: Origins = field(default_factory=dict)

    def origin(self, *path: str | int) -> str:
        """Where the value at `path`, or the nearest value around it, was written."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return self.label

    def blamed(self, *path: str | int) -> str:
        """As `origin`, but the last override inside the value where there is one: a user's own change is looked at first."""
        inside = [place for known, place in self.origins.items() if known[: len(path)] == path and place.startswith(OVERRIDE)]
        return inside[-1] if inside else self.origin(*path)


def load_recipe(target: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load, extend and override a recipe.

    Args:
        target: a path, a bundled name, or `file.py:function`.
        overrides: `a.b.c=value` with a YAML value; a stage's name may come first (`pages.sources=[world]`).
    Raises:
        InputError: naming file and line.
    """
    data, origins, label = _read(str(target), ())
    return _finish(data, origins, label, overrides)


def recipe_from_data(data: dict[str, Any], label: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a map made in Python; `label` names it in errors."""
    return _finish(data, dict.fromkeys(_paths(data, ()), label), label, overrides)


def bundled() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    for folder in (PACKAGE / "recipes", PACKAGE.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def validate_settings(model: type[Settings], values: dict[str, Any], recipe: Recipe, stage: str) -> Settings:
    """Settings of one stage; every problem becomes an InputError with the key, its place and what was expected."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explained(error, model, values, recipe, ("stages", stage), f"stage '{stage}'") from error
    except PunaError as error:
        error.where = error.where or recipe.origin("stages", stage)
        raise


def _finish(data: dict[str, Any], origins: Origins, label: str, overrides: Sequence[str]) -> Recipe:
    for text in overrides:
        _override(data, origins, text)
    recipe = _checked(data, origins, label)
    _require_taken(recipe)
    return recipe


def _require_taken(recipe: Recipe) -> None:
    """InputError unless everything that the recipe takes from the user was given."""
    takes: dict[str, str] = recipe.data.get("takes", {})
    for short, target in takes.items():
        stage, _, key = target.partition(".")
        if stage not in recipe.stages or not key:
            raise InputError(f"`takes` names '{target}', which is no setting of a stage", where=recipe.origin("takes", short),
                             fix=did_you_mean(stage, recipe.stages))  # fmt: skip
        value: Any = recipe.stages[stage].settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            given = " ".join(f"{name}=..." for name in takes)
            raise InputError(f"recipe '{recipe.name}' needs {short}=...", where=recipe.label, fix=f"add {given} after its name")


def _read(target: str, seen: tuple[str, ...]) -> tuple[dict[str, Any], Origins, str]:
    if target in seen:
        raise InputError(
            "recipes extend each other in a circle", where=" -> ".join((*seen, target)), fix="take one `extends` out"
        )
    if re.search(r"\.py:\w+$", target):
        data, origins, label = _read_python(target)
    else:
        path = _locate(target)
        data, origins = load_file(path)
        label = shown(path)
        target = str(path)
    if not isinstance(data, dict):
        raise InputError(
            "a recipe is a map with `name` and `stages`",
            where=label,
            fix="begin with `name: mine` and `extends: cria`, or with `name` and `stages`",
        )
    parent = data.pop("extends", None)
    if parent is None:
        return data, origins, label
    beside = Path(target.rsplit(":", 1)[0] if ".py:" in target else target).parent / str(parent)
    base, base_origins, _ = _read(str(beside) if beside.is_file() else str(parent), (*seen, target))
    merged = _merge(base, data, (), base_origins, origins)
    merged["stages"] = {name: entry for name, entry in (merged.get("stages") or {}).items() if entry is not None}
    return merged, base_origins, label


def _locate(target: str) -> Path:
    path = Path(target)
    if path.is_file():
        return path
    known = bundled()
    if target in known:
        return known[target]
    if path.is_dir():
        raise InputError("this is a directory, not a recipe", where=target, fix="name a .yaml file")
    raise InputError("there is no such recipe", where=target, fix=did_you_mean(path.stem, known))


def _read_python(target: str) -> tuple[dict[str, Any], Origins, str]:
    file, function = target.rsplit(":", 1)
    path = Path(file)
    if not path.is_file():
        raise InputError("there is no such recipe file", where=file, fix="check the path before `.py`")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    build = getattr(module, function, None)
    if not callable(build):
        raise InputError(
            f"'{path.name}' has no function '{function}'", where=file, fix="name a function of that file after the colon"
        )
    data = build()
    if not isinstance(data, dict):
        raise InputError(
            f"'{function}' must return a map as a YAML recipe would hold",
            where=target,
            fix="return {'name': ..., 'stages': {...}}",
        )
    label = f"{shown(path)}:{function}()"
    return data, dict.fromkeys(_paths(data, ()), label), label


def _paths(value: Any, path: KeyPath) -> list[KeyPath]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, child in children for p in _paths(child, (*path, key)))]


def _merge(base: Any, top: Any, path: KeyPath, origins: Origins, top_origins: Origins) -> Any:
    """Maps merge key by key, everything else is replaced; `origins` (of the base) is brought up to date in place."""
    if isinstance(base, dict) and isinstance(top, dict):
        merged = dict(base)
        for key, value in top.items():
            merged[key] = _merge(base.get(key), value, (*path, key), origins, top_origins)
        if path in top_origins and not path:
            origins[path] = top_origins[path]
        return merged
    _forget(origins, path)
    origins.update({p: place for p, place in top_origins.items() if p[: len(path)] == path})
    return top


def _forget(origins: Origins, path: KeyPath) -> None:
    for known in [p for p in origins if p[: len(path)] == path]:
        del origins[known]


def _override(data: dict[str, Any], origins: Origins, text: str) -> None:
    key, equals, value = text.partition("=")
    parts: list[str] = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(
            "an override has the form key.path=value", where=text, fix="for instance seed=8 or pages.sources=[world]"
        )
    found, takes = data.get("stages"), data.get("takes")
    stages: dict[str, Any] = found if isinstance(found, dict) else {}
    if len(parts) == 1 and isinstance(takes, dict) and parts[0] in takes:
        parts = ["stages", *str(takes[parts[0]]).split(".")]
    elif parts[0] in stages and len(parts) > 1:
        parts = ["stages", *parts]
    elif parts[0] != "stages" and parts[0] not in _Head.model_fields:
        known = [*stages, *(takes or ()), "stages", *_Head.model_fields]
        raise InputError(f"'{parts[0]}' is no value of the recipe", where=text, fix=did_you_mean(parts[0], known))
    if parts[0] == "stages" and (len(parts) < 3 or parts[1] not in stages):
        raise InputError(
            "an override changes one value of a stage that the recipe has",
            where=text,
            fix=did_you_mean(parts[1] if len(parts) > 1 else "", stages),
        )
    _assign(data, origins, parts, parse_value(value), text)


def _assign(data: dict[str, Any], origins: Origins, parts: list[str], value: Any, text: str) -> None:
    place: Any = data
    path: KeyPath = ()
    for depth, part in enumerate(parts):
        key: str | int = part
        if isinstance(place, list):
            if not part.isdigit() or int(part) >= len(place):
                raise InputError(
                    f"'{part}' is no position in a list of {len(place)}", where=text, fix="count from 0, or give the whole list"
                )
            key = int(part)
        elif not isinstance(place, dict):
            raise InputError(
                f"'{'.'.join(map(str, path))}' is a single value and has nothing inside", where=text, fix="give the value itself"
            )
        path = (*path, key)
        if depth == len(parts) - 1:
            place[key] = value
        elif isinstance(place, dict) and place.get(part) is None:
            place[key] = {}
        place = place[key]
    _forget(origins, path)
    origins.update({(*path, *inner): f"{OVERRIDE}{text}" for inner in _paths(value, ())})


def _checked(data: dict[str, Any], origins: Origins, label: str) -> Recipe:
    head = {key: value for key, value in data.items() if key != "stages"}
    recipe = Recipe(name="", seed=0, stages={}, label=label, data=data, origins=origins)
    try:
        checked = _Head.model_validate(head)
    except ValidationError as error:
        raise explained(error, _Head, head, recipe, (), "the recipe", extra_keys=["stages", "extends"]) from error
    if not STAGE_NAME.fullmatch(checked.name):
        raise InputError(f"'{checked.name}' cannot name a run", where=recipe.origin("name"), fix="use letters, digits, - and _")
    stages = data.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise InputError("the recipe has no stages", where=label, fix="add `stages:` with at least one `name: {uses: ...}`")
    if checked.copies is not None:
        stages = data["stages"] = add_copies(stages, checked.copies, origins, recipe.origin("copies"))
        del data["copies"]
    entries = {name: _entry(name, value, recipe) for name, value in stages.items()}
    if checked.chat is not None and checked.chat.split(".")[0] not in entries:
        raise InputError(
            f"`chat` names '{checked.chat}', which is no stage",
            where=recipe.origin("chat"),
            fix=did_you_mean(checked.chat, entries),
        )
    return Recipe(
        name=checked.name,
        seed=checked.seed,
        stages=entries,
        description=checked.description,
        chat=checked.chat,
        budget=checked.budget,
        label=label,
        data=data,
        origins=origins,
    )


def _entry(name: str, value: Any, recipe: Recipe) -> StageEntry:
    where = recipe.origin("stages", name)
    if not STAGE_NAME.fullmatch(name):
        raise InputError(
            f"'{name}' cannot name a stage", where=where, fix="use letters, digits, - and _ (dots are for sub-stages)"
        )
    if name == ALL:
        raise InputError("'all' cannot name a stage: it means every stage in `from`", where=where, fix="choose another name")
    if not isinstance(value, dict):
        raise InputError(f"stage '{name}' must be a map", where=where, fix=f"{name}: {{uses: data.collect, ...}}")
    return parse_entry(name, value, where)


def parse_entry(name: str, value: dict[str, Any], where: str) -> StageEntry:
    """Split one stage's map into `uses`, `from` and settings."""
    uses, sources = value.get("uses"), value.get("from", [])
    if not isinstance(uses, str):
        raise InputError(
            f"stage '{name}' does not say which stage file it uses", where=where, fix="add `uses: data.collect` or another"
        )
    if isinstance(sources, str):
        sources = [sources]
    if not isinstance(sources, (list, tuple)) or not all(isinstance(s, str) for s in sources):
        raise InputError(
            f"`from` of stage '{name}' must be a stage's name, a list of names, or all",
            where=where,
            fix="for instance `from: [documents, tokenizer]`",
        )
    if len(set(sources)) < len(sources):
        raise InputError(f"`from` of stage '{name}' names a stage twice", where=where, fix="name it once")
    settings = {key: item for key, item in value.items() if key not in ("uses", "from")}
    return StageEntry(name, uses, None if list(sources) == [ALL] else tuple(sources), settings)
