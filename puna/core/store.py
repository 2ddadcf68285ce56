"""The artifact store: a result is named by what made it, and exists only when it is whole.

`store/<stage file>/<name>-<hash8>/` holds an artifact; `runs/<run>/<NN>-<stage>` points to it. The hash is over the stage
file, its REVISION, its identity settings, the run's seed, the stage's name (its random streams hang on it) and the content
digests of its inputs, so equal bytes upstream never rerun what is downstream. A stage writes into `<place>.partial`; the
record `artifact.json` is written last and the directory renamed, so after a kill at any moment a directory with a record is
whole, and everything else does not exist. The idea of readable names with a hash follows Marin, cut-off by content follows redun.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from puna.core.errors import InputError, RunError
from puna.core.settings import Settings
from puna.core.stage import VOLATILE, Artifact

RECORD = "artifact.json"
PARTIAL, SCRATCH, OLD, LOCK = ".partial", ".scratch", ".old", ".lock"
OWNER = "fingerprint"  # file in a scratch directory: whose half-done work it is
FileList = dict[str, list]  # relative path -> [bytes, blake2b]


@dataclass(frozen=True)
class Identity:
    """What decides an artifact's content: `payload` in full, `fingerprint` its hash, `path` where the result belongs."""

    payload: dict[str, Any]
    fingerprint: str
    path: Path


def identify(
    root: Path,
    *,
    name: str,
    uses: str,
    revision: int,
    settings: Settings,
    seed: int,
    inputs: Sequence[Artifact],
    outside: dict[str, Any] | None = None,
) -> Identity:
    """Name the artifact that these settings and inputs make.

    Args:
        root: the directory that holds `store/`.
        outside: digests of what the stage reads besides its inputs (files the settings name), by name.
    Raises:
        InputError: a setting has no stable value (NaN, a function, a set).
    """
    payload = {
        "stage": uses,
        "revision": revision,
        "name": name,
        "seed": seed,
        "settings": stable_settings(settings, name),
        "inputs": [{"name": a.name, "kind": a.kind, "digest": a.digest} for a in inputs],
        "outside": outside or {},
    }
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return Identity(payload, fingerprint, _place(root / "store" / uses, name, fingerprint))


def stable_settings(settings: Settings, name: str) -> dict[str, Any]:
    """Identity settings as JSON values, refusing what would not hash alike twice."""
    _refuse_unstable(settings.model_dump(mode="python"), name)
    try:
        return settings.identity()
    except PydanticSerializationError as error:
        raise InputError(f"a setting of stage '{name}' has no stable form: {error}", where=name) from error


def find(identity: Identity) -> Artifact | None:
    """The finished artifact of this identity, or None."""
    artifact = read(identity.path)
    return artifact if artifact and artifact.record["fingerprint"] == identity.fingerprint else None


def read(path: Path) -> Artifact | None:
    """The artifact in a directory, or None where there is no whole one."""
    try:
        record = json.loads((path / RECORD).read_text())
        return Artifact(name=record["name"], kind=record["kind"], path=path, digest=record["digest"], record=record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            "the record of an artifact cannot be read",
            where=str(path / RECORD),
            fix="delete that directory; puna up makes it again",
        ) from error


def read_or_adopt(path: Path, name: str, kind: str) -> Artifact:
    """The artifact in a directory; a directory without a record is taken as `kind` under `name`, with the digest of its files."""
    return read(path) or Artifact(name=name, kind=kind, path=path, digest=digest_files(path)[0])


def artifacts(root: Path) -> Iterator[Artifact]:
    """Every whole artifact below `root/store`, in the order of their paths."""
    for record in sorted((root / "store").glob(f"*/*/{RECORD}")):
        if not record.parent.name.endswith((PARTIAL, SCRATCH, OLD)) and (artifact := read(record.parent)):
            yield artifact


def beside(path: Path, suffix: str) -> Path:
    """The working directory or lock that belongs to an artifact's place."""
    return path.with_name(path.name + suffix)


def prepare(path: Path, fingerprint: str) -> tuple[Path, Path]:
    """Fresh `.partial` and kept `.scratch` of an artifact about to be made.

    Half-done work of another fingerprint (`puna run --out` gives any work one place) is not resumed but removed.
    """
    partial, scratch = beside(path, PARTIAL), beside(path, SCRATCH)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if scratch.exists() and owner_of(scratch) != fingerprint:
        shutil.rmtree(scratch)
    scratch.mkdir(exist_ok=True)
    (scratch / OWNER).write_text(fingerprint)
    return partial, scratch


def owner_of(scratch: Path) -> str | None:
    """The fingerprint of the work that lies half done in a scratch directory, None where nothing says it."""
    owner = scratch / OWNER
    return owner.read_text() if owner.exists() else None


def tidy(path: Path) -> None:
    """Remove what lies beside an artifact's place after a kill or a refused input; the caller knows nobody is making it."""
    for suffix in (PARTIAL, SCRATCH, OLD):
        shutil.rmtree(beside(path, suffix), ignore_errors=True)


def commit(path: Path, record: dict[str, Any], files: FileList) -> Artifact:
    """Make `<path>.partial` the artifact: files to disk, record last, rename, scratch away.

    An artifact already there (a rebuild) is moved aside first. Raises OSError when the disk is full.
    """
    partial, scratch, old = beside(path, PARTIAL), beside(path, SCRATCH), beside(path, OLD)
    for name in files:
        _sync(partial / name)
    write_json(partial / RECORD, record)
    _sync(partial / RECORD)
    for directory in sorted({(partial / name).parent for name in files} | {partial}):
        _sync(directory)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
    made = read(path)
    assert made is not None  # written and renamed above
    return made


def digest_files(directory: Path) -> tuple[str, FileList]:
    """Content digest of a directory, and size and blake2b of each file it covers.

    Left out: `volatile/` at the top and the record. Links are refused, since what they point to may change.
    """
    files: FileList = {}
    for parent, folders, names in os.walk(directory):
        folders.sort()
        if Path(parent) == directory and VOLATILE in folders:
            folders.remove(VOLATILE)
        for name in sorted(names):
            path = Path(parent, name)
            relative = path.relative_to(directory).as_posix()
            if path.is_symlink():
                raise RunError("an artifact holds its files itself and no links", where=str(path))
            if relative != RECORD:
                files[relative] = [path.stat().st_size, file_digest(path)]
    text = json.dumps(sorted([name, *entry] for name, entry in files.items()), separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest(), dict(sorted(files.items()))


def changed_files(artifact: Artifact) -> list[str]:
    """What differs between an artifact's files and its record: `name: changed`, `missing` or `added`; empty when intact."""
    digest, now = digest_files(artifact.path)
    then: FileList = artifact.record.get("files", {})
    if digest == artifact.digest and now == then:
        return []
    lines = [f"{name}: missing" for name in then if name not in now]
    lines += [f"{name}: added" for name in now if name not in then]
    lines += [f"{name}: changed" for name in now if name in then and now[name] != then[name]]
    return sorted(lines) or [f"{RECORD}: its digest does not fit its file list"]


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys and a last newline, by rename; refuses NaN and infinity, which no other reader would take."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _place(folder: Path, name: str, fingerprint: str) -> Path:
    path = folder / f"{name}-{fingerprint[:8]}"
    other = read(path)
    return path if other is None or other.record["fingerprint"] == fingerprint else folder / f"{name}-{fingerprint}"


def _refuse_unstable(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_unstable(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_unstable(item, f"{where}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(
            f"{value} is no setting: it does not equal itself or has no JSON form", where=where, fix="give a finite number"
        )
    elif not (value is None or isinstance(value, (str, int, float, Path, Enum, BaseModel))):
        raise InputError(
            f"a {type(value).__name__} has no stable form to name a result by",
            where=where,
            fix="use numbers, text, lists and maps",
        )


def file_digest(path: Path) -> str:
    """BLAKE2b of a file, as records hold it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
