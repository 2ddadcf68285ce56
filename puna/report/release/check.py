"""A bundle checked on any machine, without the store it came from: files, digests, obligations, documents, weights.

Every file is hashed against `SHA256SUMS` and the model's record; the sources of the model are propagated again through the
shipped graph and held against what lies beside the weights; every document is written again from the facts and compared, so that
a card with another licence, base model, data set or figure is named by the key that was changed. Whoever forges all of it alike,
facts and sums included, is not found out by this: only a signature could do that.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from puna.core.errors import InputError
from puna.core.lineage_graph import Graph, front_matter
from puna.core.store import file_digest
from puna.model.weight_file import read_header, sha256_of
from puna.model.weight_source import recorded_sums
from puna.report.release import card
from puna.report.release.bundle import FACTS, GRAPH, LICENCE_TEXTS, documents, is_weights, place_of
from puna.report.release.facts import Facts, shape_of
from puna.report.release.refusals import licence_refusals

SUMS = "SHA256SUMS"


def is_release(path: Path) -> bool:
    """Whether a directory is a bundle."""
    return (path / FACTS).is_file()


def check(path: Path) -> list[str]:
    """What is wrong with a bundle, one line each; empty when all of it holds. Raises InputError where it is none."""
    facts = read_facts(path)
    try:
        return _complaints(path, facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"the facts of this release do not hold together: {error!r}"
        raise InputError(what, where=str(path / FACTS), fix="release it again") from None


def _complaints(path: Path, facts: Facts) -> list[str]:
    found = [*_sums(path), *_record(path, facts), *_lineage(path, facts), *_weights(path, facts), *_documents(path, facts)]
    found += [f"the release should have been refused: {reason.text()}" for reason in licence_refusals(facts)]
    return [*found, *_parts(path, facts)]


def read_facts(path: Path) -> Facts:
    """The facts that a bundle was made from."""
    return Facts.from_json(_json(path / FACTS), Graph.from_json(_json(path / GRAPH), str(path / GRAPH)), str(path / FACTS))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"a file of the release cannot be read: {error}", where=str(path), fix="copy it again") from None
    if not isinstance(found, dict):
        raise InputError("a file of the release holds no JSON object", where=str(path), fix="copy it again")
    return found


def _sums(path: Path) -> list[str]:
    stated = recorded_sums(path)
    there = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()} - {SUMS}
    found = [f"{name}: missing" for name in sorted(set(stated) - there)]
    found += [f"{name}: not among the checksums" for name in sorted(there - set(stated))]
    return found + [f"{name}: changed" for name in sorted(there & set(stated)) if sha256_of(path / name) != stated[name]]


def _parts(path: Path, facts: Facts) -> list[str]:
    """Licence texts that are missing, and files that no release has: loaders take adapters, weights or code that lie there."""
    texts = {f"{LICENCE_TEXTS}/{file}" for file in facts.licence_texts.values()}
    known = {*texts, *map(place_of, facts.files), *documents(facts, {}), FACTS, GRAPH, SUMS}
    there = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    found = [f"{name}: no part of this release" for name in sorted(there - known)]
    return found + [f"{name}: missing" for name in sorted(texts - there)]


def _record(path: Path, facts: Facts) -> list[str]:
    """The files of the model's artifact, and the digest that they make."""
    found = []
    for name, (size, digest) in facts.files.items():
        file = path / place_of(name)
        if not file.is_file():
            found.append(f"{place_of(name)}: missing, and the model's record names it")
        elif file.stat().st_size != size or file_digest(file) != digest:
            found.append(f"{place_of(name)}: not the file that the model's record names")
    text = json.dumps(sorted([name, *entry] for name, entry in facts.files.items()), separators=(",", ":"))
    made = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
    if made != facts.model["digest"] or facts.graph.nodes[facts.key].digest != made:
        found.append(f"{FACTS}: the files do not make the digest {facts.model['digest'][:16]} of the model")
    return found


def _lineage(path: Path, facts: Facts) -> list[str]:
    beside = path / place_of("lineage.json")
    stated = _json(beside).get("sources") if beside.is_file() else None
    if stated is None:
        return [f"{place_of('lineage.json')}: missing, so nothing says what the weights were made from"]
    if stated != facts.sources():
        return [f"{GRAPH}: the sources that follow from it are not those recorded beside the weights"]
    return []


def _weights(path: Path, facts: Facts) -> list[str]:
    """The architecture that config.json names, and the header of every file of weights."""
    found = []
    try:
        if shape_of(path) != facts.config:
            found.append("config.json: another model than the one released")
        for file in sorted(path.glob("*.safetensors")):
            read_header(file)
    except InputError as error:
        found.append(error.sentence())
    return found if any(path.glob("*.safetensors")) else [*found, "there are no weights"]


def _documents(path: Path, facts: Facts) -> list[str]:
    places = [place_of(name) for name in facts.files if is_weights(name)]
    weights = {place: sha256_of(path / place) for place in places if (path / place).is_file()}
    found = []
    for name, text in documents(facts, weights).items():
        file = path / name
        if not file.is_file():
            found.append(f"{name}: missing")
        elif file.read_text("utf-8", errors="replace") != text:
            found += _card(file, facts) if name == "README.md" else [f"{name}: not what follows from the lineage"]
    return found


def _card(file: Path, facts: Facts) -> list[str]:
    """What a forged card says, key by key."""
    stated, right = front_matter(file), card.front(facts)
    keys = [key for key in {**right, **stated} if stated.get(key) != right.get(key)]
    forged = [f"README.md: `{key}` is {_short(stated.get(key))} and should be {_short(right.get(key))}" for key in keys]
    return forged or ["README.md: its text is not what follows from the lineage"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else f"{text[:157]}..."
