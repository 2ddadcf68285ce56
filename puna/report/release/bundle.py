"""A model as it goes out: weights, tokenizer, card, licence files, bills of materials, reports and checksums in one directory.

Everything besides the model's own files is derived from the facts (`puna.report.release.facts`). Nothing is written where a
reason speaks against it; a bundle is written beside its place and renamed when it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puna.core import store
from puna.core.errors import InputError, resource_error
from puna.core.lineage import obligations
from puna.core.lineage_graph import Graph
from puna.core.stage import Artifact
from puna.model.weight_file import sha256_of
from puna.model.weight_source import write_sums
from puna.report.release import card, croissant, cyclonedx, notices, spdx
from puna.report.release.facts import Facts, gather
from puna.report.release.refusals import COMMERCIAL, Refusal, ReleaseRefused, as_id, licence_asked, licence_refusals

PARTIAL = ".partial"
MODEL_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*",
               "special_tokens_map.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json")  # fmt: skip
PROVENANCE, LICENCE_TEXTS = "provenance", "licences"
FACTS, GRAPH = f"{PROVENANCE}/release.json", f"{PROVENANCE}/graph.json"


def release(
    model: Artifact,
    artifacts: Sequence[Artifact],
    dst: Path,
    *,
    name: str,
    run: str,
    supplier: str = "anonymous",
    profile: str = COMMERCIAL,
    licence: str | None = None,
    licence_files: dict[str, Path] | None = None,
    unfinished: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the bundle of one model.

    Args:
        model: the artifact that is released. artifacts: all of its run, for its scores.
        licence: of the release; None takes that of the weights it goes on from, else `puna.report.release.refusals.OWN_LICENCE`.
        licence_files: texts that go along, by licence. unfinished: stages of the run that are not done.

    Returns: name, path, licence, obligations and number of files.
    Raises ReleaseRefused with every reason, InputError where `dst` holds files or a text does not exist.
    """
    given = {as_id(key): path for key, path in (licence_files or {}).items()}
    _check_places(dst, given.values())
    graph = Graph()
    facts = gather(
        model, artifacts, graph, name=name, supplier=supplier, profile=profile, run=run, licence=licence or "",
        licence_texts={key: f"{key}.txt" for key in given},
    )  # fmt: skip
    facts.licence = as_id(licence) if licence else licence_asked(facts)
    reasons = [*_model_refusals(model, unfinished), *licence_refusals(facts)]
    if reasons:
        raise ReleaseRefused(reasons, where=f"{model.name} ({model.path})")
    partial = dst.with_name(dst.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(facts, model, partial, given)
        if dst.exists():
            dst.rmdir()
        partial.rename(dst)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if (known := resource_error(error, dst)) is not None:
            raise known from error
        raise
    files = sum(path.is_file() for path in dst.rglob("*"))
    return {"name": name, "path": str(dst), "licence": facts.licence, "obligations": obligations(facts.sources()), "files": files}


def documents(facts: Facts, weights: dict[str, str]) -> dict[str, str]:
    """Every document of a bundle by its path in it. `weights`: SHA-256 of the files of weights by name."""
    maps: dict[str, Any] = {
        "eval_report.json": notices.evaluation(facts),
        "safety_report.json": notices.safety(facts),
        "sbom.spdx.json": spdx.document(facts, weights),
        "mlbom.cdx.json": cyclonedx.document(facts, weights),
        **{f"croissant/{name}": value for name, value in croissant.documents(facts).items()},
    }
    texts = {"README.md": card.card(facts), "LICENSE": notices.licence(facts), "NOTICE": notices.notice(facts),
             "ATTRIBUTION.md": notices.attribution(facts)}  # fmt: skip
    return {**texts, **{path: as_text(value) for path, value in maps.items()}}


def as_text(value: Any) -> str:
    """JSON as bundles hold it."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def place_of(name: str) -> str:
    """Where a file of the model's artifact lies in a bundle: what loaders read at the top, records below `provenance/model/`."""
    return name if any(Path(name).match(pattern) for pattern in MODEL_FILES) and "/" not in name else f"{PROVENANCE}/model/{name}"


def is_weights(name: str) -> bool:
    """Whether a file of a bundle holds weights."""
    return name.endswith(".safetensors")


def _write(facts: Facts, model: Artifact, out: Path, licence_files: dict[str, Path]) -> None:
    for name in facts.files:
        target = out / place_of(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path / name, target)
    for key, path in licence_files.items():
        (out / LICENCE_TEXTS).mkdir(exist_ok=True)
        shutil.copyfile(path, out / LICENCE_TEXTS / facts.licence_texts[key])
    sums = {path.relative_to(out).as_posix(): sha256_of(path) for path in sorted(out.rglob("*")) if path.is_file()}
    weights = {name: digest for name, digest in sums.items() if is_weights(name)}
    written = {**documents(facts, weights), FACTS: as_text(facts.to_json()), GRAPH: as_text(facts.graph.to_json(facts.key))}
    for name, text in written.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
        sums[name] = sha256_of(out / name)
    write_sums(out, sums)


def _model_refusals(model: Artifact, unfinished: Sequence[str]) -> list[Refusal]:
    found = []
    if model.name in unfinished:
        found.append(Refusal("the stage that makes this model is not finished", [(model.name,)], "puna up"))
    if not model.record:
        fix = "release what a run made: `post.start` takes any checkpoint into one"
        found.append(Refusal("these weights are of no recorded artifact, so nothing is known of them", [(model.name,)], fix))
    elif changed := store.changed_files(model):
        paths: list[tuple[str, ...]] = [(model.name, change) for change in changed]
        found.append(
            Refusal("the weights are not those that the record names", paths, "remove the directory; puna up makes it again")
        )
    return found


def _check_places(dst: Path, texts: Any) -> None:
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise InputError("the destination holds files already", where=str(dst), fix="give another one, or remove it first")
    for path in texts:
        if not path.is_file():
            raise InputError("the licence text does not exist", where=str(path), fix="check the path")
    dst.parent.mkdir(parents=True, exist_ok=True)
