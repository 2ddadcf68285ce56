"""Verbs about where things come from and what that asks for: why-licence, affected, release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puna.commands import latest
from puna.commands.options import HERE, Dir, Json, show, table
from puna.core.errors import InputError

if TYPE_CHECKING:
    from puna.core.lineage_graph import Graph, Reason
    from puna.core.stage import Artifact


def why_licence(
    model: Annotated[str | None, typer.Argument(help="A model's directory, an artifact, or a stage of the last run.")] = None,
    duty: Annotated[str | None, typer.Option("--duty", help="One duty (default: all it has).")] = None,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """What a model or data set is owed for, and the path to the very rows."""
    from puna.core.licences import DUTIES
    from puna.core.lineage import obligations
    from puna.core.lineage_graph import Graph, read_any
    from puna.core.modules import did_you_mean

    graph = Graph()
    key = graph.add(read_any(_place(directory, model)))
    owed = obligations(graph.sources(key))
    if duty is not None and duty not in DUTIES:
        raise InputError(f"'{duty}' is no duty", fix=did_you_mean(duty, DUTIES))
    lines, rows = [], []
    for name in owed if duty is None else [duty]:
        reason = graph.owing(key, name)
        lines.append(f"{name}: {DUTIES.get(name, name)}" if reason else f"{name}: not owed")
        rows.append({"duty": name, "owed": reason is not None, "path": _as_json(graph, reason, set()) if reason else None})
        lines += _branch(graph, reason, set()) if reason else []
    show(rows, "\n".join(lines) or "nothing is asked for", as_json)


def affected(
    source: Annotated[str, typer.Argument(help="A source, teacher or judge, as the lineage names it.")],
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Every artifact a source is in, in the order in which they would be made again without it."""
    from puna.core.lineage_graph import of_store
    from puna.core.modules import did_you_mean

    graph = of_store(directory)
    nodes = graph.affected(source)
    if not nodes:
        known = sorted({str(row["source"]) for key in graph.nodes for row in graph.sources(key)})
        raise InputError(f"no artifact holds anything of '{source}'", where=str(directory / "store"),
                         fix=did_you_mean(source, known) if known else "puna up")  # fmt: skip
    found = [
        {"name": node.name, "kind": node.kind, "stage": node.stage, "path": str(graph.places.get(node.key, "")),
         "rows": sum(int(row.get("rows", 0)) for row in graph.sources(node.key) if row["source"] == source)}
        for node in nodes
    ]  # fmt: skip
    cells = [[str(row[key]) for key in ("name", "stage", "rows", "path")] for row in found]
    show(found, table(cells, ["artifact", "made again by", "rows", "path"]), as_json)


def release(
    run: Annotated[str, typer.Argument(help="A run, or the directory of one model's artifact.")],
    dst: Annotated[Path, typer.Argument(help="A new directory.")],
    model: Annotated[str | None, typer.Option("--model", help="A stage of the run (default: its chat model).")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the released model (default: RUN-STAGE).")] = None,
    supplier: Annotated[str, typer.Option("--by", help="Who releases it.")] = "anonymous",
    profile: Annotated[str, typer.Option("--profile", help="commercial or research.")] = "commercial",
    licence: Annotated[str | None, typer.Option("--licence", help="Of the release (default: that of its weights).")] = None,
    licence_file: Annotated[
        list[str] | None, typer.Option("--licence-file", help="LICENCE=FILE: a text that must go along.")
    ] = None,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Write a model with card, licences, bills of materials and checksums; or say every reason against it."""
    from puna.report.release.bundle import release as write
    from puna.report.release.refusals import ReleaseRefused

    texts = dict(_pair(text) for text in licence_file or [])
    chosen, artifacts, unfinished, label = _of_run(directory, run, model)
    default = f"{label}-{chosen.name}" if label != chosen.name else label
    try:
        made = write(
            chosen, artifacts, dst, name=name or default, run=label, supplier=supplier, profile=profile, licence=licence,
            licence_files=texts, unfinished=unfinished,
        )  # fmt: skip
    except ReleaseRefused as refused:
        if not as_json:
            raise
        reasons = [{"what": reason.what, "paths": reason.paths, "fix": reason.fix} for reason in refused.reasons]
        typer.echo(json.dumps({"refused": reasons, "where": refused.where}))
        raise typer.Exit(refused.exit_code) from None
    owed = ", ".join(made["obligations"]) or "nothing"
    text = f"{made['name']}: {made['files']} files in {made['path']}, under {made['licence']}; asks for {owed}"
    show(made, f"{text}\npuna verify {made['path']} checks it anywhere", as_json)


def _of_run(directory: Path, run: str, model: str | None) -> tuple[Artifact, list[Artifact], list[str], str]:
    """The model, all artifacts of its run, stages that are not done, and the name of the run."""
    from puna.core.explain import pointed
    from puna.core.journal import read_status
    from puna.core.lineage_graph import read_any

    if (Path(run) / "config.json").is_file():
        alone = read_any(Path(run))
        return alone, [], [], alone.name
    run_dir = latest.run_dir(directory, run)
    made = pointed(run_dir)
    unfinished = [s["name"] for s in read_status(run_dir).get("stages", []) if s["state"] not in ("finished", "reused")]
    chosen = made.get(model or "") or read_any(latest.model_of(run_dir, model or ""))
    return chosen, list(made.values()), unfinished, run_dir.name


def _place(directory: Path, model: str | None) -> Path:
    """A directory as given, a stage of a run (also of data), or the last run's chat model."""
    if model is not None and Path(model).is_dir():
        return Path(model)
    from puna.core.explain import pointed

    run, slash, stage = (model or "").rpartition("/")
    if stage:
        made = pointed(latest.run_dir(directory, run if slash else None))
        if stage in made:
            return made[stage].path
    return latest.model_dir(directory, model)


def _pair(text: str) -> tuple[str, Path]:
    licence, equals, path = text.partition("=")
    if not equals:
        raise InputError("a licence text is given as LICENCE=FILE", where=text, fix="--licence-file llama3.1=LICENSE")
    return licence, Path(path)


def _tree(graph: Graph, reason: Reason, told: set[int]) -> list[str]:
    """The path as a tree below its node, each source with an id of one of its rows; what is below a node stands there once."""
    branches = [_branch(graph, part, told) for part in reason.inputs]
    branches += [[_leaf(graph, reason, row)] for row in reason.own]
    lines = []
    for number, (first, *rest) in enumerate(branches):
        last = number == len(branches) - 1
        lines += [("└─ " if last else "├─ ") + first, *(("   " if last else "│  ") + line for line in rest)]
    return lines


def _branch(graph: Graph, reason: Reason, told: set[int]) -> list[str]:
    """A node and its tree; one that is met again stands for it."""
    if id(reason) in told:
        return [f"{_title(reason)}, as above"]
    told.add(id(reason))
    return [_title(reason), *_tree(graph, reason, told)]


def _title(reason: Reason) -> str:
    return reason.node.name + (f" ({reason.node.stage})" if reason.node.stage else "")


def _leaf(graph: Graph, reason: Reason, row: dict[str, Any]) -> str:
    from puna.core.lineage_graph import described

    groups = graph.rows(reason.node.key, row)
    example = groups[0].example if groups else ""
    return described(row) + (f", such as row {example}" if example else "")


def _as_json(graph: Graph, reason: Reason, told: set[int]) -> dict[str, Any]:
    """The same as JSON; `again` where an artifact was told before."""
    head = {"artifact": reason.node.name, "stage": reason.node.stage}
    if id(reason) in told:
        return {**head, "again": True}
    told.add(id(reason))
    sources = []
    for row in reason.own:
        groups = graph.rows(reason.node.key, row)
        sources.append({**row, "example": groups[0].example if groups else None})
    return {**head, "sources": sources, "inputs": [_as_json(graph, part, told) for part in reason.inputs]}
