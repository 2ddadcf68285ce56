"""Why a stage would run, how two runs differ, what is broken, and what nobody uses any more: the store, read aloud."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.core import store
from puna.core.console import clock, moment
from puna.core.errors import InputError
from puna.core.graph import Graph
from puna.core.journal import STATUS, read_status
from puna.core.layout import identity_of, run_directory, stage_link
from puna.core.lease import is_held
from puna.core.modules import did_you_mean, load_stage, source_hash
from puna.core.recipe import Recipe
from puna.core.stage import Artifact


@dataclass
class Why:
    """State of one stage against the store: `finished`, `would run` or `waits`, and the differences that explain it."""

    stage: str
    state: str
    reason: str
    changes: list[dict[str, Any]] = field(default_factory=list)
    compared_with: str | None = None

    def lines(self) -> list[str]:
        found = [f"{self.stage}: {self.state}: {self.reason}"]
        found += [f"  {c['field']}: {c['before']!r} -> {c['now']!r}" for c in self.changes]
        return [*found, f"  (against {self.compared_with})"] if self.compared_with else found


def why(recipe: Recipe, graph: Graph, root: Path, name: str) -> list[Why]:
    """Explain one stage, and the inputs whose change or absence makes it run."""
    if name not in graph:
        raise InputError(f"the recipe has no stage '{name}'", where=recipe.label, fix=did_you_mean(name, graph))
    states = _walk(recipe, graph, root, name)
    told = [states[name]]
    if states[name].state == "waits":
        told += [state for state in states.values() if state.state == "would run"]
    return told


def _walk(recipe: Recipe, graph: Graph, root: Path, goal: str) -> dict[str, Why]:
    needed = _ancestors(graph, goal)
    made: dict[str, Artifact] = {}
    states: dict[str, Why] = {}
    run_dir = run_directory(root, recipe)
    for name in (n for n in graph if n in needed):
        node = graph[name]
        waits = [s for s in node.sources if s not in made]
        if waits:
            states[name] = Why(name, "waits", f"its input{'s' * (len(waits) > 1)} {', '.join(waits)} would run first")
            continue
        identity = identity_of(root, recipe, node, [made[s] for s in node.sources])
        found = store.find(identity)
        before = _previous(root, node.uses, name, stage_link(run_dir, graph, name), identity)
        changes = differences(before.record["identity"], identity.payload) if before else []
        if found is not None:
            made[name] = found
            drift = found.record.get("code") != source_hash(load_stage(node.uses))
            reason = f"made {moment(found.record['finished_at'])} in {clock(found.record['wall_s'])}"
            reason += "; the code has changed since (--strict makes it again)" if drift else ""
            states[name] = Why(name, "finished", reason, changes, before.path.name if before else None)
        else:
            reason = "what it is made from has changed" if before else "it was never made"
            states[name] = Why(name, "would run", reason, changes, before.path.name if before else None)
    return states


def finished(recipe: Recipe, graph: Graph, root: Path) -> dict[str, Artifact]:
    """The stages of a graph whose artifacts exist, as far as their inputs do."""
    made: dict[str, Artifact] = {}
    for name, node in graph.items():
        if all(s in made for s in node.sources):
            found = store.find(identity_of(root, recipe, node, [made[s] for s in node.sources]))
            if found is not None:
                made[name] = found
    return made


def differences(before: Any, now: Any, path: str = "") -> list[dict[str, Any]]:
    """Field-by-field differences of two JSON values. Lists of named things (a stage's inputs) are compared by name."""
    if before == now:
        return []
    if _named(before) and _named(now):
        before, now = ({row["name"]: row for row in rows} for rows in (before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        found: list[dict[str, Any]] = []
        for key in [*before, *(key for key in now if key not in before)]:
            inner = f"{path}.{key}" if path else str(key)
            if key in before and key in now:
                found += differences(before[key], now[key], inner)
            else:
                found.append({"field": inner, "before": before.get(key), "now": now.get(key)})
        return found
    return [{"field": path, "before": before, "now": now}]


def diff_runs(left: Path, right: Path) -> list[dict[str, Any]]:
    """Two runs stage by stage: same, only in one, or how settings and numbers differ."""
    one, two = pointed(left), pointed(right)
    rows: list[dict[str, Any]] = []
    for name in [*one, *(n for n in two if n not in one)]:
        if name not in one or name not in two:
            rows.append({"stage": name, "state": f"only in {left.name if name in one else right.name}", "changes": []})
        elif one[name].digest == two[name].digest:
            rows.append({"stage": name, "state": "same", "changes": []})
        else:
            a, b = one[name], two[name]
            rows.append(
                {
                    "stage": name,
                    "state": "differs",
                    "changes": [
                        *differences(a.record["identity"], b.record["identity"]),
                        *differences(a.summary(), b.summary(), "summary"),
                    ],
                }
            )
    return rows


def pointed(run_dir: Path) -> dict[str, Artifact]:
    """The artifacts a run points to, by stage, in the run's order."""
    found: dict[str, Artifact] = {}
    for link in sorted(run_dir.iterdir(), key=_number) if run_dir.is_dir() else ():
        if link.is_symlink() and not link.name.startswith(".") and (artifact := store.read(link.resolve())):
            found[link.name.partition("-")[2]] = artifact
    return found


def config_rows(recipe: Recipe, graph: Graph) -> list[dict[str, Any]]:
    """Every value of a recipe with its origin: a file and line, an override, a stage file's `expand`, or a default."""
    rows: list[dict[str, Any]] = [
        {"key": key, "value": value, "origin": recipe.origins.get((key,), "default")}
        for key, value in (
            ("name", recipe.name),
            ("seed", recipe.seed),
            ("description", recipe.description),
            ("chat", recipe.chat),
        )
    ]
    for node in graph.values():
        own = node.name == node.owner
        base = ("stages", node.name)
        rows.append(
            {
                "key": ".".join((*base, "uses")),
                "value": node.uses,
                "origin": recipe.origin(*base, "uses") if own else f"expanded from {node.owner}",
            }
        )
        rows.append(
            {
                "key": ".".join((*base, "from")),
                "value": list(node.sources),
                "origin": recipe.origins.get((*base, "from"), "default") if own else f"expanded from {node.owner}",
            }
        )
        written = recipe.stages[node.name].settings if own else node.raw  # a stage that expands is handed all its defaults
        values = node.settings.model_dump(mode="json")
        rows += _setting_rows(values, written, base, recipe, None if own else f"expanded from {node.owner}")
    return rows


def _setting_rows(
    values: dict[str, Any], written: Any, path: tuple[str, ...], recipe: Recipe, maker: str | None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for key, value in values.items():
        given = written.get(key) if isinstance(written, dict) and key in written else None
        present = given is not None or (isinstance(written, dict) and key in written)
        if not isinstance(written, dict) and written is not None:  # a short form, as `engine: ray` is of `engine: {name: ray}`
            present = value == written
        if isinstance(value, dict) and value:
            rows += _setting_rows(value, given, (*path, key), recipe, maker)
        else:
            origin = (maker or recipe.origin(*path, key)) if present else "default"
            rows.append({"key": ".".join((*path, key)), "value": value, "origin": origin})
    return rows


def verify(artifacts: Iterator[Artifact] | list[Artifact]) -> list[dict[str, Any]]:
    """Hash artifacts again; one row each with the files that are not what the record says."""
    return [{"name": a.name, "path": str(a.path), "changed": store.changed_files(a)} for a in artifacts]


def saved_states(root: Path) -> list[dict[str, Any]]:
    """Half-done work of stages that a run has not finished, which `puna up` goes on from; rows of path, bytes and run.

    Work of an earlier recipe, whose fingerprint is no longer the stage's, is not among it.
    """
    rows = []
    for run_dir in sorted(path.parent for path in (root / "runs").glob(f"*/{STATUS}")):
        stages = [s for s in read_status(run_dir).get("stages", []) if s["state"] not in ("finished", "reused")]
        for stage in stages:
            for path in sorted((root / "store" / stage["uses"]).glob(f"*{store.SCRATCH}")):
                if stage.get("fingerprint") and stage["fingerprint"] == store.owner_of(path):
                    rows.append({"path": str(path.relative_to(root)), "bytes": _bytes(path), "run": run_dir.name})
    return rows


def collect_garbage(root: Path, *, dry_run: bool) -> list[dict[str, Any]]:
    """Remove what no run points to and what a killed stage left behind, except `saved_states`; rows of path and bytes.

    Raises InputError while a run is going on, since its newest artifacts are not pointed to yet.
    """
    busy = [lease.parent.name for lease in sorted((root / "runs").glob("*/lease.json")) if is_held(lease)]
    if busy:
        raise InputError(
            f"the run '{busy[0]}' is going on", where=str(root / "runs" / busy[0]), fix="wait for its end, then puna gc"
        )
    kept = {link.resolve() for link in (root / "runs").glob("*/*") if link.is_symlink()}
    kept |= {(root / row["path"]).resolve() for row in saved_states(root)}
    rows = []
    for path in sorted((root / "store").glob("*/*")):
        if path.resolve() in kept or (path.name.endswith(store.LOCK) and is_held(path)) or is_held(_lock_of(path)):
            continue
        rows.append({"path": str(path.relative_to(root)), "bytes": _bytes(path)})
        if not dry_run:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return rows


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def _lock_of(path: Path) -> Path:
    name = path.name
    for suffix in (store.PARTIAL, store.SCRATCH, store.OLD):
        name = name.removesuffix(suffix)
    return path.with_name(name + store.LOCK)


def _previous(root: Path, uses: str, name: str, link: Path, identity: store.Identity) -> Artifact | None:
    """The record to compare with: what the run points to, else the newest other artifact of this stage."""
    if link.is_symlink() and (current := store.read(link.resolve())) and current.record["fingerprint"] != identity.fingerprint:
        return current
    others = [a for path in (root / "store" / uses).glob(f"{name}-*") if (a := store.read(path))]
    others = [a for a in others if a.name == name and a.record["fingerprint"] != identity.fingerprint]
    return max(others, key=lambda a: (a.record["finished_at"], a.path.name), default=None)


def _ancestors(graph: Graph, goal: str) -> set[str]:
    needed, frontier = {goal}, [goal]
    while frontier:
        frontier = [s for name in frontier for s in graph[name].sources if s not in needed]
        needed.update(frontier)
    return needed


def _named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) and "name" in row for row in value)


def _number(link: Path) -> tuple[int, str]:
    head = link.name.partition("-")[0]
    return (int(head) if head.isdigit() else 0, link.name)
