"""From a recipe to the graph of stages that runs: settings checked, stages expanded, order fixed.

A stage file may define `expand(name, settings, sources)`, which returns an ordered map of sub-stages
(`flagship-chat.r1.sft: {uses: post.sft, from: [...], ...}`) whose last entry carries the stage's own name. That is how a
post-training round is a graph of small cached stages and not one long program. Everything wrong with a recipe is found
here, before any work starts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from puna.core.errors import InputError
from puna.core.modules import did_you_mean, load_stage
from puna.core.recipe import Recipe, StageEntry, parse_entry, validate_settings
from puna.core.settings import Settings


class Source(str):
    """The name of an input as `expand` sees it; `kind` says what that stage makes (model, tasks, ...)."""

    kind: str

    def __new__(cls, name: str, kind: str) -> Source:
        made = super().__new__(cls, name)
        made.kind = kind
        return made


@dataclass(frozen=True)
class Node:
    """A stage of the graph. `raw` are the settings as written (plain JSON values), `owner` the recipe's stage it came from."""

    name: str
    uses: str
    kind: str
    revision: int
    cores: int
    sources: tuple[str, ...]
    settings: Settings
    raw: dict[str, Any]
    owner: str


Graph = dict[str, Node]  # in an order in which every stage follows its inputs


def build_graph(recipe: Recipe) -> Graph:
    """Check every stage of a recipe and put them in order. Raises InputError for the first thing that is wrong."""
    order, needs = _order_entries(recipe)
    nodes: Graph = {}
    for name in order:
        entry = recipe.stages[name]
        if entry.sources is None:
            sources = tuple(n.name for n in nodes.values() if n.owner in needs[name])
        else:
            sources = entry.sources
        for source in sources:
            if source not in nodes:
                raise InputError(
                    f"stage '{name}' takes its input from '{source}', which is no stage",
                    where=recipe.origin("stages", name, "from"),
                    fix=did_you_mean(source, nodes),
                )
        _add(nodes, entry, sources, recipe, owner=name)
    return {name: nodes[name] for name in _sorted({n: node.sources for n, node in nodes.items()}, recipe)}


def build_alone(recipe: Recipe, name: str, given: Sequence[Source]) -> Graph:
    """The graph of one stage whose inputs are not stages of the recipe: one node, or what the stage expands to."""
    nodes: Graph = {}
    _add(nodes, recipe.stages[name], tuple(given), recipe, owner=name)
    return nodes


def _add(nodes: Graph, entry: StageEntry, sources: tuple[str, ...], recipe: Recipe, owner: str, last: bool = False) -> None:
    """Add one entry, or the graph it expands to; `last` marks the entry that closes its own expansion."""
    if entry.name in nodes:
        raise InputError(f"two stages are called '{entry.name}'", where=recipe.origin("stages", owner), fix="rename one of them")
    module = load_stage(entry.uses, recipe.origin("stages", owner, "uses"))
    settings = validate_settings(module.Settings, entry.settings, recipe, owner if entry.name == owner else entry.name)
    expand = getattr(module, "expand", None)
    if expand is not None and not last:
        known = [Source(s, nodes[s].kind) if s in nodes else Source(s, getattr(s, "kind", "")) for s in sources]
        _add_all(nodes, entry, expand(entry.name, settings, known), recipe, owner)
        return
    cores: Any = getattr(settings, "cores", None) or getattr(module, "CORES", 1)
    nodes[entry.name] = Node(
        name=entry.name,
        uses=module.__name__.removeprefix("puna."),
        kind=module.KIND,
        revision=module.REVISION,
        cores=int(cores),
        sources=sources,
        settings=settings,
        raw=_plain(entry, recipe, owner),
        owner=owner,
    )


def _add_all(nodes: Graph, entry: StageEntry, expanded: Mapping[str, dict[str, Any]], recipe: Recipe, owner: str) -> None:
    names = list(expanded)
    where = recipe.origin("stages", owner)
    if not names or names[-1] != entry.name:
        raise InputError(f"'{entry.uses}' expands stage '{entry.name}' to a graph that does not end in it", where=where)
    for name, value in expanded.items():
        if name != entry.name and not name.startswith(f"{entry.name}."):
            raise InputError(f"'{entry.uses}' makes a sub-stage '{name}'; it must start with '{entry.name}.'", where=where)
        inner = parse_entry(name, value, where)
        _add(nodes, inner, inner.sources or (), recipe, owner, last=name == entry.name)


def _plain(entry: StageEntry, recipe: Recipe, owner: str) -> dict[str, Any]:
    """Settings as JSON values, which is how they travel to the process that runs the stage."""

    def encode(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        raise TypeError(type(value).__name__)

    try:
        return json.loads(json.dumps(entry.settings, default=encode))
    except TypeError as error:
        raise InputError(
            f"settings of stage '{entry.name}' hold a {error}, which no recipe file could hold",
            where=recipe.origin("stages", owner),
            fix="use numbers, text, lists and maps",
        ) from error


def _order_entries(recipe: Recipe) -> tuple[list[str], dict[str, set[str]]]:
    """Order of the recipe's own stages, and for each the stages it needs (`from: all` resolved)."""
    names = list(recipe.stages)
    takes_all = [name for name in names if recipe.stages[name].sources is None]
    needs: dict[str, set[str]] = {}
    for name in names:
        needs[name] = {_owner(source, name, recipe) for source in recipe.stages[name].sources or ()}
    for earlier, later in itertools.pairwise(takes_all):
        needs[later].add(earlier)
    for name in takes_all:
        needs[name] |= set(names) - _downstream(name, needs) - {name}
    return _sorted(needs, recipe), needs


def _owner(source: str, name: str, recipe: Recipe) -> str:
    head = source.split(".")[0]
    if head not in recipe.stages:
        raise InputError(
            f"stage '{name}' takes its input from '{source}', which is no stage",
            where=recipe.origin("stages", name, "from"),
            fix=did_you_mean(head, recipe.stages),
        )
    return head


def _downstream(name: str, needs: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    frontier = {name}
    while frontier:
        frontier = {n for n, sources in needs.items() if sources & frontier} - found
        found |= frontier
    return found


def _sorted(needs: Mapping[str, Iterable[str]], recipe: Recipe) -> list[str]:
    """Names so that each follows what it needs, otherwise in the given order. Raises InputError on a cycle."""
    done: dict[str, None] = {}
    while len(done) < len(needs):
        ready = next((n for n, sources in needs.items() if n not in done and all(s in done for s in sources)), None)
        if ready is None:
            cycle = _cycle({n: [s for s in sources if s not in done] for n, sources in needs.items() if n not in done})
            raise InputError(
                "stages wait for each other in a circle",
                where=f"{recipe.label}: {' <- '.join(cycle)}",
                fix="take one of them out of a `from`",
            )
        done[ready] = None
    return list(done)


def _cycle(waiting: Mapping[str, list[str]]) -> list[str]:
    path = [next(iter(waiting))]
    while (following := waiting[path[-1]][0]) not in path:
        path.append(following)
    return [*path[path.index(following) :], following]
