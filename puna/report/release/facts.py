"""What a release is made of, as plain values: every document of a bundle follows from these, here and on any other machine.

They are gathered from a run's artifacts once and travel with the bundle (`provenance/release.json` and `graph.json`), so a reader
can derive obligations, card and bills of materials again and compare.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna import __version__
from puna.core import store
from puna.core.errors import InputError
from puna.core.licences import Terms
from puna.core.lineage import OUTPUTS, WEIGHTS, Row, owed, terms_in
from puna.core.lineage_graph import Graph, Node, described
from puna.core.stage import VOLATILE, Artifact
from puna.model.checkpoint import CONFIG, read_config
from puna.model.config import ModelConfig
from puna.model.weight_file import sha256_of
from puna.report.release.contamination import overlap
from puna.vision.hf import adapter_parameters
from puna.vision.mllama import MODEL_TYPE, from_mllama

DATA_KINDS = ("pages", "documents", "tasks", "samples")  # data sets as a reader thinks of them


@dataclass
class Facts:
    """See the module.

    Attributes:
        name: of the released model. supplier: who releases it. profile: `commercial` or `research`. licence: of the release.
        created: when the weights were finished, so that the same model gives the same bundle.
        model: name, digest and stage of the artifact; files: its files with size and BLAKE2b, as its record has them.
        config: the numbers of the architecture.
        examples: for each node and source with rows of its own, an id of a row.
        datasets: name, kind, digest, rows, licences and files (with SHA-256) of each data set.
        scores: what evaluation stages of the run say of this model.
        overlap: prompts that training and evaluation share, by pair of splits; None where nothing was counted.
        licence_texts: file names of the licence texts that the user gave, by licence.
    """

    name: str
    supplier: str
    profile: str
    licence: str
    created: str
    run: str
    model: dict[str, Any]
    files: dict[str, list]
    config: dict[str, Any]
    graph: Graph
    key: str
    examples: dict[str, dict[str, str]] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    overlap: dict[str, int] | None = None
    licence_texts: dict[str, str] = field(default_factory=dict)
    puna: str = __version__

    @property
    def task(self) -> str:
        """What the model does, in the words of the Hugging Face hub."""
        return "image-text-to-text" if "adapters" in self.config else "text-generation"

    def sources(self) -> list[Row]:
        """Every source of the model."""
        return self.graph.sources(self.key)

    def terms(self) -> list[Terms]:
        """Model licences that say more than their duties, each once."""
        found = {terms.id: terms for row in self.sources() for terms in terms_of_row(row)}
        return [found[key] for key in sorted(found)]

    def bases(self) -> list[Row]:
        """Models from elsewhere whose weights this one goes on from."""
        return [row for row in self.sources() if row.get("use") == WEIGHTS]

    def teachers(self) -> list[Row]:
        """Models from elsewhere whose outputs improved this one."""
        return [row for row in self.sources() if row.get("use") == OUTPUTS]

    def owing(self, duty: str) -> list[Row]:
        """The sources that bring a duty."""
        every = self.sources()
        return [row for row in every if duty in owed(row, every)]

    def told(self, node: Node, row: Row) -> str:
        """A source of a node in words, with an id of one of its rows where it has some."""
        example = self.examples.get(node.key, {}).get(described(row))
        return described(row) + (f", such as row {example}" if example else "")

    def to_json(self) -> dict[str, Any]:
        """Everything but the graph, which is a file of its own."""
        return {name: value for name, value in vars(self).items() if name != "graph"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], graph: Graph, where: str) -> Facts:
        """What `to_json` gave; InputError for anything else."""
        try:
            return cls(**value, graph=graph)
        except TypeError as error:
            raise InputError(f"this is no record of a release: {error}", where=where, fix="release it again") from None


def terms_of_row(row: Row) -> list[Terms]:
    """The entries of all licences that count in a source's."""
    return terms_in(str(row.get("licence")), str(row.get("use", "")))


def gather(model: Artifact, artifacts: Sequence[Artifact], graph: Graph, **about: Any) -> Facts:
    """The facts of one model of a run.

    Args:
        artifacts: all of the run, for its scores. graph: holds the model and what it was made from.
        about: name, supplier, profile, licence, run and licence_texts.
    """
    key = graph.add(model)
    inside = {k: made for k in graph.upstream(key) if k in graph.places and (made := store.read(graph.places[k]))}
    files = {name: entry for name, entry in model.record.get("files", {}).items() if not name.startswith(VOLATILE + "/")}
    return Facts(
        created=str(model.record.get("finished_at", "1970-01-01T00:00:00+00:00")),
        model={"name": model.name, "digest": model.digest, "stage": model.record.get("stage", "")},
        files=files,
        config=shape_of(model.path),
        graph=graph,
        key=key,
        examples=_examples(graph, key),
        datasets=[_dataset(graph, k, a) for k, a in inside.items() if a.kind in DATA_KINDS],
        scores=[score for a in artifacts for score in _scores(a, model.name)],
        overlap=overlap(graph, inside, artifacts),
        **about,
    )


def shape_of(directory: Path) -> dict[str, Any]:
    """The numbers of an architecture, from `config.json`; InputError where it is none."""
    config = read_config(directory)
    shapes = from_mllama(config, str(directory / CONFIG)) if config.get("model_type") == MODEL_TYPE else None
    shape = ModelConfig.from_hf(config) if shapes is None else shapes.text
    adapters = 0 if shapes is None else adapter_parameters(shapes)
    quantised = config.get("quantization_config") or {}
    return {
        "parameters": shape.parameters() + adapters, "layers": shape.layers, "dim": shape.dim, "heads": shape.heads,
        "kv_heads": shape.kv_heads, "vocab_size": shape.vocab_size, "max_seq_len": shape.max_seq_len,
        "dtype": str(config.get("torch_dtype") or config.get("dtype") or ""), "quantisation": quantised.get("quant_method", ""),
        **({"adapters": adapters} if adapters else {}),
    }  # fmt: skip


def _examples(graph: Graph, key: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for one in graph.upstream(key):
        for row in graph.nodes[one].declared:
            groups = graph.rows(one, row)
            if groups and (example := groups[0].example):
                found.setdefault(one, {})[described(row)] = example
    return found


def _dataset(graph: Graph, key: str, artifact: Artifact) -> dict[str, Any]:
    names = sorted(n for n in artifact.record.get("files", {}) if n.endswith((".jsonl", ".parquet")) and "/annot" not in f"/{n}")
    files = [{"name": n, "bytes": (artifact.path / n).stat().st_size, "sha256": sha256_of(artifact.path / n)} for n in names]
    rows = graph.sources(key)
    return {
        "name": artifact.name, "kind": artifact.kind, "digest": artifact.digest, "files": files,
        "rows": sum(int(row.get("rows", 0)) for row in rows if not row.get("use")),
        "licences": sorted({str(row.get("licence", "unknown")) for row in rows if not row.get("use")}),
    }  # fmt: skip


def _scores(artifact: Artifact, model: str) -> list[dict[str, Any]]:
    path = artifact.path / "scores.json"
    if artifact.kind != "scores" or not path.is_file():
        return []
    scores = json.loads(path.read_text())
    if model not in scores["models"]:
        return []
    compared = [c for c in scores.get("comparisons", []) if model in (c.get("better"), c.get("control"))]
    return [
        {
            "artifact": artifact.name, "digest": artifact.digest, "sha256": sha256_of(path), "split": scores.get("split", ""),
            "result": scores["models"][model], "comparisons": compared,
        }
    ]  # fmt: skip
