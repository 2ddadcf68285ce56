"""A toy world for post-training tests: byte tokenizer, tiny random Llama, yes-or-no tasks a guess gets half right."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from puna.core.graph import Source
from puna.core.modules import load_stage
from puna.core.rng import python_stream
from puna.core.stage import Artifact, local_artifact, local_context
from puna.core.store import digest_files
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.post.collect import gold_dialog
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import MessageRow, Provenance, Task, content_id, write_rows

PROVENANCE = Provenance(source="toy", licence="CC0-1.0")
SHAPE = {"dim": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_dim": 32, "max_seq_len": 128}


def toy_tokenizer() -> Tokenizer:
    """The 256 bytes, and the words of the chat format as single tokens."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for word in (b"us", b"er", b"user", b"as", b"si", b"st", b"an", b"ant", b"\n\n"):
        ranks[word] = len(ranks)
    return Tokenizer.from_ranks(ranks)


def toy_model(seed: int = 0, **shape: int) -> Llama:
    """A random model over the toy tokenizer."""
    return Llama(ModelConfig(vocab_size=toy_tokenizer().vocab_size, **{**SHAPE, **shape}), seed=seed)


def toy_task(letters: str) -> Task:
    """Is the sum of the letters even? A yes-or-no question, checked exactly."""
    answer = "yes" if sum(map(ord, letters)) % 2 == 0 else "no"
    prompt = [MessageRow(role="user", content=letters)]
    return Task(id=content_id(letters), prompt=prompt, verifier="exact", reference=answer, family="toy", gold=answer,
                provenance=PROVENANCE)  # fmt: skip


def toy_tasks(count: int, seed: int = 0) -> list[Task]:
    """Different tasks of three letters."""
    rng, found = python_stream(seed, "toys"), {}
    while len(found) < count:
        letters = "".join(rng.choice("abcdefghij") for _ in range(3))
        found[letters] = toy_task(letters)
    return list(found.values())


def finished(directory: Path, kind: str, name: str, inputs: list[Artifact] | None = None) -> Artifact:
    """A directory as an artifact with its content digest and the record of its inputs."""
    record = {"inputs": [{"name": a.name, "digest": a.digest} for a in inputs or []]}
    return replace(local_artifact(directory, kind, name), digest=digest_files(directory)[0], record=record)


def base_artifact(directory: Path, seed: int = 0, **shape: int) -> Artifact:
    """A random base model on disk."""
    save_model(toy_model(seed, **shape), directory, tokenizer=toy_tokenizer())
    return finished(directory, "model", directory.name)


def tasks_artifact(directory: Path, gold: int = 24, prompts: int = 120, dev: int = 30) -> Artifact:
    """A tasks artifact of toy tasks."""
    directory.mkdir(parents=True, exist_ok=True)
    tasks = toy_tasks(gold + prompts + dev)
    held = tasks[gold + prompts :]
    write_rows(directory / "train.jsonl", [gold_dialog(task) for task in tasks[:gold]])
    write_rows(directory / "prompts.jsonl", [task.model_copy(update={"gold": None}) for task in tasks[gold : gold + prompts]])
    write_rows(directory / "dev.jsonl", held)
    write_rows(directory / "held.jsonl", [gold_dialog(task) for task in held])
    for name in ("test.jsonl", "preferences.jsonl"):
        write_rows(directory / name, [])
    return finished(directory, "tasks", "tasks")


def run_stage(root: Path, uses: str, name: str, inputs: list[Artifact], **settings: object) -> Artifact:
    """Run one stage file on local artifacts the way the runner does, and finish its artifact."""
    stage = load_stage(uses)
    ctx = local_context(root / name, name=name, inputs=inputs, seed=7)
    summary = stage.run(stage.Settings(**settings), ctx)
    (ctx.out / "summary.json").write_text(json.dumps(summary, sort_keys=True, allow_nan=False))
    made = finished(ctx.out, stage.KIND, name, inputs)
    return replace(made, record=made.record | {"stage": uses})


def run_graph(root: Path, uses: str, name: str, inputs: list[Artifact], **settings: object) -> dict[str, Artifact]:
    """Expand a stage and run its sub-stages in order."""
    stage = load_stage(uses)
    made = {artifact.name: artifact for artifact in inputs}
    entries = stage.expand(name, stage.Settings(**settings), [Source(a.name, a.kind) for a in inputs])
    for sub, entry in entries.items():
        own = {key: value for key, value in entry.items() if key not in ("uses", "from")}
        sources = [made[source] for source in entry["from"]]
        if sub != name and hasattr(load_stage(entry["uses"]), "expand"):
            made |= run_graph(root, entry["uses"], sub, sources, **own)
        else:
            made[sub] = run_stage(root, entry["uses"], sub, sources, **own)
    return made


def gradients(model: torch.nn.Module, objective: object, batches: list) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of one optimiser step, the way the loop forms them."""
    counts: dict[str, float] = defaultdict(float)
    for batch in batches:
        for term, count in objective.counts(batch).items():
            counts[term] += count
    model.zero_grad()
    total = 0.0
    for batch in batches:
        terms, _ = objective.sums(model, batch)
        loss = sum(weight * terms[term] / counts[term] for term, weight in objective.weights.items())
        loss.backward()
        total += loss.item()
    return total, [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_same_step(model: torch.nn.Module, objective: object, together: list, apart: list):
    """One optimiser step has the same loss and gradients in few micro-batches as in many, to 1e-5 of each gradient's norm.

    What is a rounding error as a whole is measured by a fiftieth of all gradients together.
    """
    loss, grads = gradients(model, objective, together)
    other, others = gradients(model, objective, apart)
    assert len(apart) > len(together)
    assert loss == pytest.approx(other, rel=1e-5)
    least = 2e-2 * torch.stack([gradient.norm() for gradient in grads]).norm()
    for a, b in zip(grads, others, strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm().clamp(min=least)
