"""One stage without a run around it: inputs by path, the artifact where the user wants it, committed as whole as in a run."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from puna.core import store
from puna.core.errors import InputError, Preempted
from puna.core.graph import Source, build_alone
from puna.core.kinds import check_unrecorded
from puna.core.layout import identity_of
from puna.core.modules import stage_files
from puna.core.recipe import recipe_from_data
from puna.core.stage import Artifact
from puna.core.worker import Job, job_for, make

PARTS = ".parts"  # folder beside the result: the stages it expands to, while they are needed

Report = Callable[[dict[str, Any]], None]


def run_alone(
    uses: str,
    out: Path,
    inputs: Mapping[str, Path],
    overrides: Sequence[str],
    *,
    seed: int,
    cores: int,
    report: Report,
    command: Sequence[str] = (),
) -> Artifact:
    """Run one stage file and commit its artifact at `out`.

    A stage that expands to several runs whole; what its parts leave lies beside `out` until the last of them is done, so that a
    killed or changed command goes on from the parts that still fit.

    Args:
        inputs: directories by name; one without a record is taken to be of the kind its name says.
        overrides: settings as `key.path=value`.
    Raises: InputError, also when `out` holds something else.
    """
    name = uses.rpartition(".")[2]
    data = {"name": "alone", "seed": seed, "stages": {name: {"uses": uses}}}
    recipe = recipe_from_data(data, "command line", [f"stages.{name}.{text}" for text in overrides])
    known = {label: _given(label, path, uses in stage_files()) for label, path in inputs.items()}
    graph = build_alone(recipe, name, [Source(label, artifact.kind) for label, artifact in known.items()])
    parts = store.beside(out, PARTS)
    if (there := store.read(out)) is not None:
        known = _as_recorded(there) | known  # digests of the parts that made what is there
        graph = {name: graph[name]}
    with _stop_flag() as stopping:
        for node in graph.values():
            artifacts = [known[source] for source in node.sources if source in known]
            place = out if node.name == name else parts / node.name
            identity = replace(identity_of(out.parent, recipe, node, artifacts), path=place)
            (_refuse_other if place == out else _clear_other)(place, identity)
            job = job_for(node, identity, artifacts, seed=seed, cores=cores, command=command)
            try:
                known[node.name] = _make(job, report, stopping)
            except InputError:
                store.tidy(place)
                with contextlib.suppress(OSError):  # absent, or it holds finished parts
                    parts.rmdir()
                raise
    shutil.rmtree(parts, ignore_errors=True)
    return known[name]


def _as_recorded(made: Artifact) -> dict[str, Artifact]:
    """The inputs of an artifact as its record names them."""
    return {row["name"]: Artifact(row["name"], row["kind"], made.path, row["digest"]) for row in made.record["inputs"]}


def _clear_other(place: Path, identity: store.Identity) -> None:
    """Remove a part that other settings or inputs made."""
    there = store.read(place)
    if there is not None and there.record["fingerprint"] != identity.fingerprint:
        shutil.rmtree(place)


def _make(job: Job, report: Report, stopping: Callable[[], bool]) -> Artifact:
    started = time.monotonic()
    report({"event": "stage", "stage": job.name, "state": "running"})
    result = make(job, report, stopping)
    facts = {"seconds": time.monotonic() - started, "summary": result["summary"]}
    report({"event": "stage", "stage": job.name, "state": result["state"], **facts})
    made = store.read(Path(job.path))
    assert made is not None  # committed above
    return made


def _given(name: str, path: Path, own: bool) -> Artifact:
    if not path.is_dir():
        raise InputError(f"the input '{name}' is no directory", where=str(path), fix="name the directory of an artifact")
    if own and store.read(path) is None:
        check_unrecorded(name, path)
    return replace(store.read_or_adopt(path.resolve(), name, name), name=name)  # what columns and settings call it here


def _refuse_other(out: Path, identity: store.Identity) -> None:
    there = store.read(out)
    if (there is None and out.is_dir() and any(out.iterdir())) or (
        there is not None and there.record["fingerprint"] != identity.fingerprint
    ):
        raise InputError(
            "the output directory holds something else", where=str(out), fix="choose another --out, or remove it first"
        )
    if there is None and out.is_dir():
        out.rmdir()


@contextlib.contextmanager
def _stop_flag() -> Iterator[Callable[[], bool]]:
    """`stopping` for a stage in this process: one signal asks it to save, a second one ends it."""
    received: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        if received:
            raise Preempted("stopped before the stage had saved its state", fix="the same command begins it again")
        received.append(number)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
