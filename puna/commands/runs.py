"""Verbs that make things: up, plan, config, status, report, run."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from puna.commands import latest
from puna.commands.options import HERE, Cores, Dir, Json, RecipeArgument, Values, gathered, show, split_target, table

Board = Annotated[Path | None, typer.Option("--tensorboard", help="Mirror the curves into event files in this directory.")]
Project = Annotated[str | None, typer.Option("--wandb", help="Mirror the curves into a run of this Weights & Biases project.")]
Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Port of the live page (default: the next free one).")]


def up(
    recipe: RecipeArgument = None,
    values: Values = None,
    directory: Dir = HERE,
    cores: Cores = None,
    strict: Annotated[bool, typer.Option("--strict", help="Make stages again whose code has changed.")] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Serve the live page while it works.")] = True,
    port: Port = None,
    tensorboard: Board = None,
    wandb: Project = None,
    as_json: Json = False,
) -> None:
    """Run a recipe to its end; type it again to continue where it stopped."""
    from puna.core import console, hardware
    from puna.core.explain import finished
    from puna.core.forkserver import ForkServer, preload_for
    from puna.core.graph import build_graph
    from puna.core.layout import run_directory
    from puna.core.recipe import load_recipe
    from puna.core.run import up as run_up
    from puna.core.trackers import Mirrored, trackers

    target, overrides = split_target(recipe, values)
    loaded = load_recipe(target, overrides)
    mirrors = trackers(tensorboard, wandb, loaded.name)
    run_dir = run_directory(directory, loaded)
    preload = preload_for(stage.uses for stage in loaded.stages.values())
    # imports while this process plans
    with contextlib.closing(ForkServer(run_dir / "logs" / "forkserver.txt", preload)) as server:
        graph = build_graph(loaded)
        cores = cores or hardware.usable_cores()
        if not as_json:
            memory, disk = hardware.memory_bytes()[1] / 1e9, hardware.disk_free_bytes(directory) / 1e9
            done = len(finished(loaded, graph, directory))
            typer.echo(console.plan_text(loaded, graph, cores, finished=done, memory_gb=memory, disk_gb=disk))
        listener = Mirrored(console.listener(as_json=as_json, stages=list(graph)), mirrors)
        with contextlib.closing(listener), contextlib.ExitStack() as stack:

            def ready(run_dir: Path) -> None:
                url = stack.enter_context(_live_page(run_dir, port))
                listener.event({"event": "note", "stage": "run", "text": f"live page: {url}", "url": url})

            outcome = run_up(
                loaded,
                graph,
                directory,
                cores=cores,
                listener=listener,
                strict=strict,
                command=["puna", *sys.argv[1:]],
                server=server,
                ready=ready if page else None,
            )
    if not as_json and outcome.state == "finished":
        typer.echo(_ending(outcome, has_report=any(node.kind == "report" for node in graph.values())))
    if outcome.error is not None:
        raise outcome.error
    if outcome.exit_code:
        typer.echo("puna: stopped; puna up continues", err=True)
        raise typer.Exit(outcome.exit_code)


def plan(
    target: Annotated[str | None, typer.Argument(help="A recipe, or a preset such as llama3.1-405b.")] = None,
    values: Values = None,
    as_json: Json = False,
) -> None:
    """Parameters, FLOPs, memory and a first estimate of time, before anything runs."""
    from puna.plan.report import plan as estimate

    name, overrides = split_target(target, values)
    result = estimate(name, overrides)
    show(result.json(), result.text(), as_json)


def config(recipe: RecipeArgument = None, values: Values = None, as_json: Json = False) -> None:
    """Every value of a recipe, and where it came from."""
    from puna.core.explain import config_rows
    from puna.core.graph import build_graph
    from puna.core.recipe import load_recipe

    target, overrides = split_target(recipe, values)
    loaded = load_recipe(target, overrides)
    rows = config_rows(loaded, build_graph(loaded))
    text = table(
        [[row["key"], json.dumps(row["value"], ensure_ascii=False), row["origin"]] for row in rows], ["key", "value", "origin"]
    )
    show(rows, text, as_json)


def status(
    run: Annotated[str | None, typer.Argument(help="A run (default: the last).")] = None,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """What a run has finished, and what it is doing."""
    from puna.core.console import clock
    from puna.core.explain import pointed
    from puna.core.journal import read_status
    from puna.core.lease import is_held

    run_dir = latest.run_dir(directory, run)
    found = read_status(run_dir)
    if found["state"] == "running" and not is_held(run_dir / "lease.json"):
        found["state"] = "interrupted"
        for stage in found["stages"]:
            stage["state"] = "interrupted" if stage["state"] == "running" else stage["state"]
    made, rows = pointed(run_dir), []
    for stage in found["stages"]:
        took = clock(stage["ended"] - stage["started"]) if stage["started"] and stage["ended"] else ""
        if stage["state"] == "reused" and stage["name"] in made:
            took = clock(made[stage["name"]].record["wall_s"])
        share = f"{100 * stage['done'] / stage['total']:.0f}%" if stage["state"] == "running" and stage["total"] else ""
        rows.append(
            [stage["name"], stage["kind"], f"{stage['state']} {share}".strip(), took, (stage["error"] or {}).get("what", "")]
        )
    counts = sum(stage["state"] in ("finished", "reused") for stage in found["stages"])
    head = f"{found['name']}: {found['state']}, {counts} of {len(rows)} stages finished" + (
        "; puna up continues" if found["state"] not in ("running", "finished") else ""
    )
    show(found, f"{head}\n{table(rows, ['stage', 'kind', 'state', 'took', ''])}", as_json)


def report(
    run: Annotated[str | None, typer.Argument(help="A run (default: the last).")] = None,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Where a run's report is."""
    from puna.core.errors import InputError

    run_dir = latest.run_dir(directory, run)
    path = run_dir / "report.html"
    if not path.exists():
        raise InputError(
            "this run has no report yet", where=str(run_dir), fix="puna up finishes it (the recipe needs a report stage)"
        )
    show({"report": str(path)}, str(path), as_json)


def run(
    stage: Annotated[str, typer.Argument(help="A stage file, for instance data.curate, or a bundled recipe, such as align.")],
    values: Annotated[
        list[str] | None, typer.Argument(help="key.path=value ... settings of the stage.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory the artifact goes to; of a recipe, where store/ and runs/ live.")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--input", help="name=DIRECTORY of an input; its kind=DIRECTORY if no stage made it."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    cores: Cores = None,
    tensorboard: Board = None,
    wandb: Project = None,
    as_json: Json = False,
) -> None:
    """One stage alone, its inputs given by path; or a bundled recipe: puna run align model=DIR data=FILE..."""
    from puna.core import console, hardware
    from puna.core.alone import run_alone
    from puna.core.errors import InputError
    from puna.core.recipe import bundled
    from puna.core.trackers import Mirrored, trackers

    if stage in bundled():
        if given:
            raise InputError("a recipe takes no --input", where=stage, fix="give its values as key=value")
        words = [*(values or ()), *([] if seed is None else [f"seed={seed}"])]
        up(stage, words, out or HERE, cores, tensorboard=tensorboard, wandb=wandb, as_json=as_json)
        return
    if out is None:
        raise InputError("a stage needs a directory for its artifact", where=stage, fix="add --out DIR")
    mirrors = trackers(tensorboard, wandb, stage)
    listener = Mirrored(console.listener(as_json=as_json, stages=[stage]), mirrors)
    with contextlib.closing(listener):
        made = run_alone(
            stage,
            out,
            _named_paths(given or []),
            gathered(values or []),
            seed=seed or 0,
            cores=cores or hardware.usable_cores(),
            report=listener.event,
            command=["puna", *sys.argv[1:]],
        )
    show(
        {"path": str(made.path), "kind": made.kind, "digest": made.digest},
        f"{made.kind} at {made.path}  (digest {made.digest[:12]})",
        as_json,
    )


def _named_paths(words: list[str]) -> dict[str, Path]:
    from puna.core.errors import InputError

    pairs: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name or not path:
            raise InputError("an input has the form name=DIRECTORY", where=word, fix="such as --input pages=runs/cria/01-pages")
        pairs[name] = Path(path)
    return pairs


@contextlib.contextmanager
def _live_page(run_dir: Path, port: int | None) -> Iterator[str]:
    from puna.serve.live import start

    page: Any = start(run_dir, port)
    try:
        yield page.url
    finally:
        page.stop()


def _ending(outcome: Any, *, has_report: bool) -> str:
    """The last words of a finished run: results, where the report is, what to type next."""
    from puna.core.console import clock

    lines: list[str] = []
    if has_report:
        from puna.report.results import table as results

        lines += ["", results(outcome.run_dir), "", f"report: {outcome.run_dir / 'report.html'}"]
    if any(artifact.kind == "model" for artifact in outcome.artifacts.values()):
        root = outcome.run_dir.parent.parent
        place = "" if root.resolve() == Path().resolve() else f" --dir {root}"
        lines += [f"chat:   puna chat{place}      (in the browser: puna serve{place})"]
    made, reused = len(outcome.made), len(outcome.reused)
    lines += [
        f"done in {clock(outcome.seconds)}, peak memory {outcome.peak_memory_mb / 1000:.2f} GB, {made} stages made, {reused} kept"
    ]
    return "\n".join(lines)
