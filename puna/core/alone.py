"""One stage without a run around it: inputs by path, the artifact where the user wants it, committed as whole as in a run."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from puna.core import store
from puna.core.errors import InputError, Preempted
from puna.core.graph import build_graph
from puna.core.layout import identity_of
from puna.core.modules import load_stage
from puna.core.recipe import recipe_from_data
from puna.core.stage import Artifact
from puna.core.worker import job_for, make

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

    Args:
        inputs: directories by name; one without a record is taken to be of the kind its name says.
        overrides: settings as `key.path=value`.
    Raises: InputError, also when `out` holds something else.
    """
    name = uses.rpartition(".")[2]
    if hasattr(load_stage(uses), "expand"):
        raise InputError(f"'{uses}' is a graph of stages and not one stage", fix="put it in a recipe and use puna up")
    data = {"name": "alone", "seed": seed, "stages": {name: {"uses": uses}}}
    recipe = recipe_from_data(data, "command line", [f"stages.{name}.{text}" for text in overrides])
    node = build_graph(recipe)[name]
    artifacts = [_given(label, path) for label, path in inputs.items()]
    identity = replace(identity_of(out.parent, recipe, node, artifacts), path=out)
    _refuse_other(out, identity)
    job = job_for(node, identity, artifacts, seed=seed, cores=cores, command=command)
    started = time.monotonic()
    report({"event": "stage", "stage": name, "state": "running"})
    with _stop_flag() as stopping:
        result = make(job, report, stopping)
    facts = {"seconds": time.monotonic() - started, "summary": result["summary"]}
    report({"event": "stage", "stage": name, "state": result["state"], **facts})
    made = store.read(out)
    assert made is not None  # committed above
    return made


def _given(name: str, path: Path) -> Artifact:
    if not path.is_dir():
        raise InputError(f"the input '{name}' is no directory", where=str(path), fix="name the directory of an artifact")
    return store.read_or_adopt(path.resolve(), name, name)


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
