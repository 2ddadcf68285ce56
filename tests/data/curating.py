"""The four parts of curation one after the other in this process, without store or run, for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from puna.core.graph import Source
from puna.core.modules import load_stage
from puna.core.stage import Artifact, local_artifact, local_context
from puna.data import collect, curate


def collected(out: Path, seed: int = 3, **settings: Any) -> tuple[dict[str, Any], Path]:
    return collect.run(collect.Settings(**settings), local_context(out, seed=seed)), out


def curated(pages: Path, out: Path, classifiers: tuple[Path, ...] = (), **settings: Any) -> dict[str, Any]:
    """Curate into `out`, with the first three parts beside it; returns the summary of the last."""
    known: dict[str, Artifact] = {"pages": local_artifact(pages, "pages", "pages")}
    known |= {path.name: local_artifact(path, "classifier") for path in classifiers}
    summary: dict[str, Any] = {}
    given = curate.Settings(**settings)
    sources = list(known.values())
    for name, entry in curate.expand(out.name, given, [Source(a.name, a.kind) for a in sources]).items():
        entry = dict(entry)
        module, inputs = load_stage(entry.pop("uses")), entry.pop("from")
        place = out if name == out.name else out.with_name(name)
        ctx = local_context(place, name=name, inputs=[known[source] for source in inputs])
        summary = module.run(module.Settings.model_validate(entry), ctx)
        known[name] = local_artifact(place, module.KIND, name)
    return summary


def digest(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and "volatile" not in path.parts)
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def digests(out: Path) -> dict[str, dict[str, str]]:
    """Files of all four parts."""
    names = (f"{out.name}.facts", f"{out.name}.duplicates", f"{out.name}.signals", out.name)
    return {name.removeprefix(out.name): digest(out.with_name(name)) for name in names}
