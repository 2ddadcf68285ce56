"""Where a run's things lie, what a stage is called in the store, and which stage should go first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from puna.core import store
from puna.core.errors import InputError
from puna.core.graph import Graph, Node
from puna.core.modules import load_stage
from puna.core.recipe import Recipe
from puna.core.stage import Artifact

LOCK_RECIPE = "recipe.lock.yaml"  # the recipe as it was run, overrides included


def run_directory(root: Path, recipe: Recipe) -> Path:
    """Where a recipe's run lives under `root`."""
    return root / "runs" / recipe.name


def stage_link(run_dir: Path, graph: Graph, name: str) -> Path:
    """The human path of a stage: `<NN>-<stage>`."""
    return run_dir / f"{list(graph).index(name) + 1:02d}-{name}"


def identity_of(root: Path, recipe: Recipe, node: Node, inputs: Sequence[Artifact]) -> store.Identity:
    """The identity of a stage whose inputs are known. A stage file may define `outside(settings)`: digests of files it reads."""
    outside = getattr(load_stage(node.uses), "outside", None)
    try:
        read = outside(node.settings) if outside else None
    except OSError as error:
        raise InputError(
            f"stage '{node.name}' cannot read its file: {error.strerror}",
            where=error.filename,
            fix="check the path in its settings",
        ) from error
    return store.identify(
        root,
        name=node.name,
        uses=node.uses,
        revision=node.revision,
        settings=node.settings,
        seed=recipe.seed,
        inputs=inputs,
        outside=read,
    )


def priorities(recipe: Recipe, graph: Graph) -> dict[str, float]:
    """Seconds of work that wait behind each stage (itself included), so that the longest chain starts first."""
    hints = recipe.budget.seconds
    longest: dict[str, float] = {}
    for name in reversed(graph):
        after = max((longest[n.name] for n in graph.values() if name in n.sources), default=0.0)
        longest[name] = hints.get(name, 1.0) + after
    return longest


def point(link: Path, target: Path) -> None:
    """Make `link` a relative link to `target`, replacing what it pointed to in one step."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))
    beside.replace(link)
