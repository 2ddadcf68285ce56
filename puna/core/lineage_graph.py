"""The graph of artifacts: who was made from whom, what each declared itself, and the path from a model to the rows behind a duty.

Every artifact records its inputs and the sources it declared itself, so the sources of any artifact follow by propagation and
can be derived again from a graph alone, on another machine. A Hugging Face directory that no stage made is a node without
inputs: what its model card states as licence is what it declares. What a record has and its inputs do not give, because they are
gone or because it is of the time before declared sources stood apart, is read as declared by it, so that no duty gets lost.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from puna.core import store
from puna.core.errors import InputError
from puna.core.lineage import MODEL, SPEECH_MODEL, VISION_MODEL, WEIGHTS, Row, carried_weights, combine, handed_on, identity, owed
from puna.core.lineage_rows import Group, groups, row_files
from puna.core.stage import Artifact

CARD = "README.md"
LINEAGE = "lineage.json"
RELEASED = f"provenance/model/{LINEAGE}"  # where a release keeps it


@dataclass(frozen=True)
class Edge:
    """An input: the key of its node, and whether its weights went on."""

    key: str
    carried: bool


@dataclass
class Node:
    """An artifact. `declared`: its own sources. `key`: unique in the graph; the directory below `store/` where there is one."""

    key: str
    name: str
    kind: str
    stage: str
    digest: str
    declared: list[Row] = field(default_factory=list)
    inputs: list[Edge] = field(default_factory=list)


@dataclass(frozen=True)
class Reason:
    """A node through which a duty comes, the sources of its own that bring it, and the inputs through which it comes."""

    node: Node
    own: list[Row]
    inputs: list[Reason] = field(repr=False)  # shared ones would be written once for every path

    def paths(self, told: Callable[[Node, Row], str]) -> Iterator[tuple[str, ...]]:
        """A shortest way down to each source, as names; `told` puts the source at its end in words."""
        ways: deque[tuple[tuple[str, ...], Reason]] = deque([((self.node.name,), self)])
        seen = {id(self)}
        while ways:
            here, reason = ways.popleft()
            yield from ((*here, told(reason.node, row)) for row in reason.own)
            for further in reason.inputs:
                if id(further) not in seen:
                    seen.add(id(further))
                    ways.append(((*here, further.node.name), further))


class Graph:
    """Nodes by key; inputs stand before what is made of them."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.places: dict[str, Path] = {}  # directory of a node, where it is on this machine
        self._sources: dict[str, list[Row]] = {}
        self._groups: dict[str, list[Group]] = {}

    def add(self, artifact: Artifact) -> str:
        """Take an artifact and everything it was made from; returns its key."""
        key = _key(artifact)
        if key in self.nodes:
            return key
        record = artifact.record
        given = record.get("inputs", [])
        carried = carried_weights(artifact.kind, [(i["name"], i.get("kind", "")) for i in given], record.get("teacher"))
        edges = [
            Edge(self.add(_input(artifact, entry)), goes_on) for entry, goes_on in zip(given, carried, strict=True)
        ]  # fmt: skip
        self.places[key] = artifact.path.resolve()
        self.nodes[key] = Node(key, artifact.name, artifact.kind, record.get("stage", ""), artifact.digest, [], edges)
        self.nodes[key].declared = _declared(artifact, [row for edge in edges for row in self._passed(edge)])
        return key

    def sources(self, key: str) -> list[Row]:
        """All sources of a node, propagated from those of its inputs."""
        if key not in self._sources:
            node = self.nodes[key]
            self._sources[key] = combine(node.declared, [self._passed(edge) for edge in node.inputs])
        return self._sources[key]

    def reason(self, key: str, wanted: Callable[[Row], bool]) -> Reason | None:
        """How sources for which `wanted` holds come into a node; None where none does. A node met twice is one and the same."""
        known: dict[tuple[str, bool], Reason | None] = {}

        def found(one: str, carried: bool) -> Reason | None:
            if (one, carried) not in known:
                node = self.nodes[one]
                own = [row for row in node.declared if wanted(handed_on([row], carried)[0])]
                through = [found(edge.key, carried and edge.carried) for edge in node.inputs]
                inputs = [reason for reason in through if reason is not None]
                known[one, carried] = Reason(node, own, inputs) if own or inputs else None
            return known[one, carried]

        return found(key, True)

    def owing(self, key: str, duty: str) -> Reason | None:
        """How a duty comes into a node."""
        every = self.sources(key)
        return self.reason(key, lambda row: duty in owed(row, every))

    def upstream(self, key: str) -> list[str]:
        """Keys of a node and of all it was made from, inputs first."""
        found: dict[str, None] = {}

        def visit(one: str) -> None:
            for edge in self.nodes[one].inputs:
                if edge.key not in found:
                    visit(edge.key)
            found[one] = None

        visit(key)
        return list(found)

    def affected(self, source: str) -> list[Node]:
        """Every artifact that a source, teacher or judge of this name is in, in the order in which they would be made again."""
        return [
            node for key, node in self.nodes.items() if any(row.get("source") == source for row in self.sources(key))
        ]  # fmt: skip

    def rows(self, key: str, row: Row) -> list[Group]:
        """The rows of a node's own files behind one of its sources."""
        if key not in self.places:
            return []
        if key not in self._groups:  # a pass over all rows
            self._groups[key] = groups(row_files(self.places[key]))
        wanted = row.get("source"), row.get("licence"), row.get("role")
        found = ((group, group.source()) for group in self._groups[key])
        return [group for group, s in found if (s["source"], s["licence"], s.get("role")) == wanted]

    def to_json(self, key: str) -> dict[str, Any]:
        """A node and all it was made from as JSON values."""
        return {"root": key, "nodes": [asdict(self.nodes[one]) for one in self.upstream(key)]}

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> Graph:
        """What `to_json` gave; InputError for anything else."""
        graph = cls()
        try:
            for entry in value["nodes"]:
                edges = [Edge(str(e["key"]), bool(e["carried"])) for e in entry["inputs"]]
                node = Node(**{**entry, "inputs": edges})
                if any(edge.key not in graph.nodes for edge in edges):
                    raise KeyError(node.name)
                graph.nodes[node.key] = node
            graph.nodes[value["root"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"this is no graph of artifacts: {error!r}", where=where, fix="release it again") from None
        return graph

    def _passed(self, edge: Edge) -> list[Row]:
        return handed_on(self.sources(edge.key), edge.carried)


def of_store(root: Path) -> Graph:
    """Every whole artifact below `root/store`."""
    graph = Graph()
    for artifact in store.artifacts(root):
        graph.add(artifact)
    return graph


def described(row: Row) -> str:
    """One source in words: how many rows, from whom, under what."""
    count, role = int(row.get("rows", 0)), row.get("role")
    what = f"{count:,} row{'s' if count != 1 else ''}"
    if role == "teacher":
        text = f"{what} written by {row['source']}"
    elif role:
        text = f"{what} judged by {row['source']}"
    elif row.get("use") == WEIGHTS:
        text = f"weights of {row['source']}"
    elif row.get("use"):
        text = f"outputs of {row['source']}"
    else:
        text = f"{what} of {row['source']}"
    declared = f", declared as {row['declared']}" if row.get("declared") else ""
    return f"{text} [{row.get('licence', 'unknown')}{declared}]"


def read_any(path: Path) -> Artifact:
    """An artifact, or any directory with a model in it, as a node can be made of it."""
    path = path.resolve()
    found = store.read(path)
    if found is None and not (path / "config.json").is_file():
        raise InputError("this directory holds neither an artifact nor a model", where=str(path), fix="check the path")
    return found or Artifact(path.name, kind_of_model(path), path, store.digest_files(path)[0])


def kind_of_model(directory: Path) -> str:
    """`speech_model` or `vision_model` for the directory of a model that listens or sees, else `model`."""
    if (directory / "speech.json").is_file():
        return SPEECH_MODEL
    try:
        described = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except ValueError:  # loading it says what is wrong
        return MODEL
    return VISION_MODEL if isinstance(described, dict) and described.get("model_type") == "mllama" else MODEL


def known_sources(directory: Path) -> list[Row]:
    """Sources of a model's directory: those of its record, of the provenance beside it, or what its card states."""
    directory = directory.resolve()
    artifact = store.read(directory)
    if artifact is None:
        return _declared(Artifact(directory.name, MODEL, directory, ""), [])
    graph = Graph()
    return graph.sources(graph.add(artifact))


def _key(artifact: Artifact) -> str:
    path = artifact.path
    return f"{path.parent.name}/{path.name}" if artifact.record else f"{path.name}-{artifact.digest[:8]}"


def _input(artifact: Artifact, entry: dict[str, Any]) -> Artifact:
    """An input as the artifact's record names it; one that is gone, or lies elsewhere, keeps what the record says of it."""
    path = (artifact.path / entry.get("path", "")).resolve()
    found = store.read(path) if entry.get("path") else None
    if found is not None and found.digest == entry.get("digest"):
        return found
    kind, digest = entry.get("kind", ""), entry.get("digest", "")
    return Artifact(entry["name"], kind, path if entry.get("path") and path.is_dir() else Path(entry["name"]), digest)


def _declared(artifact: Artifact, inherited: list[Row]) -> list[Row]:
    """What an artifact brings itself: what its record declares, and what that has which neither this nor the inputs give."""
    if artifact.record:
        own = list(artifact.record.get("declared", []))
        given = combine(own, [inherited])
        lost = [row for row in artifact.record.get("lineage", []) if row not in given]
        return list({identity(row): row for row in (*own, *lost)}.values())
    lineage = artifact.path / LINEAGE
    if lineage.is_file():
        return list(json.loads(lineage.read_text())["sources"])
    if artifact.kind not in (MODEL, VISION_MODEL, SPEECH_MODEL):
        return []
    card = {"source": artifact.name, "licence": card_licence(artifact.path), "rows": 0, "use": WEIGHTS}
    released = artifact.path / RELEASED
    return [card, *(json.loads(released.read_text())["sources"] if released.is_file() else ())]


def card_licence(directory: Path) -> str:
    """The licence that a directory's model card states: `license_name` where `license` is `other`; unknown without one."""
    front = front_matter(directory / CARD)
    stated = front.get("license")
    stated = front.get("license_name") if stated == "other" else stated
    return str(stated) if isinstance(stated, str) and stated else "unknown"


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML block at the head of a card; empty where there is none or it cannot be read."""
    import yaml

    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    if not text.startswith("---\n") or "\n---" not in text[3:]:
        return {}
    try:
        found = yaml.safe_load(text[4 : text.index("\n---", 3)])
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
