"""Evaluation prompts that a model may have learnt: what its tasks counted when they were split, and prompts from elsewhere.

A tasks artifact proves in `split.json` that its own splits share no prompt. The test prompts of every artifact that a model is
scored on are looked for among everything else it learnt from: other tasks, sampled and synthetic dialogs, preferences. Prompts
are compared whole, in canonical form (`puna.post.prompts`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from puna.core.lineage_graph import Graph
from puna.core.stage import Artifact
from puna.post.prompts import opening, prompt_id
from puna.tokenizer.dialog import Dialog, Preference, RowT, Task, read_rows

SPLIT, TEST = "split.json", "test.jsonl"
FOREIGN = "train/test"  # the pair that prompts from elsewhere are counted under


def overlap(graph: Graph, learnt: Mapping[str, Artifact], artifacts: Sequence[Artifact]) -> dict[str, int] | None:
    """Shared prompts by pair of splits; None where nothing was counted.

    Args:
        learnt: what the model was made from, by key. artifacts: of the run; those that hold scores name their tasks.
    """
    read = {key: artifact for key, artifact in learnt.items() if artifact.kind in ("tasks", "samples")}
    found: dict[str, int] | None = None
    for artifact in read.values():
        path = artifact.path / SPLIT
        counts = json.loads(path.read_text()).get("overlap", {}) if path.is_file() else {}
        for pair, count in counts.items():
            found = {**(found or {}), pair: (found or {}).get(pair, 0) + int(count)}
    for tested in _tested(graph, artifacts):
        others = [artifact for key, artifact in read.items() if key != tested]
        if (graph.places[tested] / TEST).is_file() and (others or tested not in read):
            found = found or {}
            found[FOREIGN] = found.get(FOREIGN, 0) + _shared(graph, tested, others)
    return found


def _tested(graph: Graph, artifacts: Sequence[Artifact]) -> list[str]:
    """Keys of the tasks that scores, or the answers they count, were made from."""
    scores = [graph.add(artifact) for artifact in artifacts if artifact.kind in ("scores", "answers")]
    answers = [edge.key for key in scores for edge in graph.nodes[key].inputs if graph.nodes[edge.key].kind == "answers"]
    inputs = (edge.key for key in (*scores, *answers) for edge in graph.nodes[key].inputs)
    return list(dict.fromkeys(key for key in inputs if graph.nodes[key].kind == "tasks" and key in graph.places))


def _shared(graph: Graph, tested: str, learnt: Iterable[Artifact]) -> int:
    """How many test prompts of one tasks artifact are learnt from in other artifacts."""
    asked = {prompt_id(task.prompt) for task in read_rows(graph.places[tested] / TEST, Task)}
    return len({key for artifact in learnt for key in _prompts(artifact) if key in asked})


def _prompts(artifact: Artifact) -> Iterator[str]:
    for dialog in _rows(artifact, "train.jsonl" if artifact.kind == "tasks" else "accepted.jsonl", Dialog):
        yield prompt_id(opening(dialog.messages))
    for task in _rows(artifact, "prompts.jsonl", Task):
        yield prompt_id(task.prompt)
    for preference in _rows(artifact, "preferences.jsonl", Preference):
        yield prompt_id(preference.context)


def _rows(artifact: Artifact, name: str, cls: type[RowT]) -> Iterator[RowT]:
    path = artifact.path / name
    return read_rows(path, cls) if path.is_file() else iter(())
