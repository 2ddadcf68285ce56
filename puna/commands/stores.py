"""Verbs about what is there: why, diff, verify, gc, doctor."""

from __future__ import annotations

import dataclasses
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from puna.commands import latest
from puna.commands.options import HERE, Dir, Json, show, size, table

# what the package is installed with (pyproject.toml), and what some verbs use when it is there
NEEDED = (
    "torch", "numpy", "safetensors", "pyarrow", "pydantic", "PyYAML", "typer", "rich", "fastapi", "uvicorn", "regex", "tiktoken",
    "numba", "fastwarc", "resiliparse", "py3langid", "xxhash", "fsspec", "gguf", "plotly", "llguidance",
    "pillow", "soundfile",
)  # fmt: skip
OPTIONAL = ("av", "ray", "transformers")

RunOption = Annotated[str | None, typer.Option("--run", help="A run (default: the last).")]


def why(
    stage: Annotated[str, typer.Argument(help="A stage of the run.")],
    values: Annotated[
        list[str] | None, typer.Argument(help="key.path=value ... as you would give to puna up.", show_default=False)
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Ask about this recipe and not the last run's.")] = None,
    run: RunOption = None,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Why a stage would run, field by field; or when it was made and what had changed then."""
    from puna.core import explain
    from puna.core.graph import build_graph
    from puna.core.layout import LOCK_RECIPE
    from puna.core.recipe import load_recipe

    loaded = load_recipe(recipe or latest.run_dir(directory, run) / LOCK_RECIPE, values or [])
    told = explain.why(loaded, build_graph(loaded), directory, stage)
    show([dataclasses.asdict(entry) for entry in told], "\n".join(line for entry in told for line in entry.lines()), as_json)


def diff(
    left: Annotated[str, typer.Argument(help="A run.")],
    right: Annotated[str, typer.Argument(help="Another run.")],
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """How two runs differ: stages, settings, numbers, and the documents that curation treats differently."""
    from puna.commands import explain_fates
    from puna.core import explain

    pair = latest.run_dir(directory, left), latest.run_dir(directory, right)
    rows = explain.diff_runs(*pair)
    explain_fates.add_fates(rows, *pair)
    lines = []
    for row in rows:
        lines.append(f"{row['stage']}: {row['state']}")
        lines += [f"  {c['field']}: {c['before']!r} -> {c['now']!r}" for c in row["changes"]]
        lines += explain_fates.lines(row["fates"]) if "fates" in row else []
    show(rows, "\n".join(lines), as_json)


def verify(
    run: Annotated[
        str | None, typer.Argument(help="A run, an artifact's directory, or a release (default: the whole store).")
    ] = None,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Hash artifacts again and name every file that changed; of a release, check all that it states."""
    from puna.core import explain, store
    from puna.report.release.check import is_release

    if run is not None and is_release(Path(run)):
        return _verify_release(Path(run), as_json)
    if run is None:
        chosen = list(store.artifacts(directory))
    elif (alone := store.read(Path(run))) is not None:
        chosen = [alone]
    else:
        chosen = list(explain.pointed(latest.run_dir(directory, run)).values())
    rows = explain.verify(chosen)
    broken = [row for row in rows if row["changed"]]
    lines = [f"{row['path']}: {change}" for row in broken for change in row["changed"]]
    show(rows, "\n".join([*lines, f"{len(rows)} artifact{'s' * (len(rows) != 1)} verified, {len(broken)} damaged"]), as_json)
    if broken:
        typer.echo("puna: remove the damaged directories; puna up makes them again", err=True)
        raise typer.Exit(1)


def _verify_release(path: Path, as_json: bool) -> None:
    from puna.report.release.check import check

    wrong = check(path)
    verdict = f"{path}: {len(wrong)} things do not hold" if wrong else f"{path}: all of it holds"
    show({"path": str(path), "wrong": wrong}, "\n".join([*wrong, verdict]), as_json)
    if wrong:
        raise typer.Exit(1)


def gc(
    directory: Dir = HERE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove artifacts no run points to, and half-done work that no run would go on from."""
    from puna.core import explain

    rows, kept = explain.collect_garbage(directory, dry_run=dry_run), explain.saved_states(directory)
    total = sum(row["bytes"] for row in rows)
    lines = [f"{size(row['bytes']):>10}  {row['path']}" for row in rows]
    lines += [f"{size(row['bytes']):>10}  {row['path']} is kept: the run '{row['run']}' goes on from it" for row in kept]
    show(
        {"removed": [] if dry_run else rows, "would_remove": rows if dry_run else [], "kept": kept, "bytes": total},
        "\n".join([*lines, f"{'would free' if dry_run else 'freed'} {size(total)} in {len(rows)} places"]),
        as_json,
    )


def doctor(
    directory: Dir = HERE, port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000, as_json: Json = False
) -> None:
    """What this machine has, what is installed, and what is missing."""
    from puna.core import hardware
    from puna.verify.sandbox import selftest

    free = hardware.memory_bytes()[1]
    facts: dict[str, Any] = {
        **hardware.machine_facts(),
        "memory_free_gb": round(free / 2**30, 1),
        "disk_free_gb": round(hardware.disk_free_bytes(directory) / 1e9, 1),
        "matmul_gflops_per_core": round(hardware.matmul_gflops(), 1),
        "device": hardware.device_name(),
        "python_supported": sys.version_info >= (3, 11),
        "directory_writable": _writable(directory),
        "port_free": _port_free(port),
        "sandbox": selftest.summary(),
        "packages": hardware.versions(NEEDED),
        "optional": hardware.versions(OPTIONAL),
    }
    problems = [name for name in ("python_supported", "directory_writable") if not facts[name]]
    problems += [f"{name} is missing" for name, version in facts["packages"].items() if version == "missing"]
    problems += ["less than 4 GB of memory free"] if 0 < free < 4e9 else []
    rows = [[key, _flat(value)] for key, value in facts.items()]
    verdict = "everything puna up needs is here" if not problems else "look at: " + ", ".join(problems)
    show({**facts, "problems": problems}, f"{table(rows, ['what', 'found'])}\n{verdict}", as_json)
    if problems:
        raise typer.Exit(1)


def _flat(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _writable(directory: Path) -> bool:
    import tempfile

    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def _port_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
