"""A small store for tests of releases: a model that learnt from licensed rows, its scores, and the bundle of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from puna.core.alone import run_alone
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.report.release.bundle import release
from puna.tokenizer.bpe import Tokenizer

SIZES = ("gold=10", "prompts=10", "dev=4", "test=10")


def make(root: Path, uses: str, name: str, inputs: dict, *overrides: str):
    paths = {label: artifact.path for label, artifact in inputs.items()}
    return run_alone(uses, root / "store" / uses / name, paths, overrides, seed=7, cores=1, report=lambda event: None)


def task(number: int) -> dict:
    asked = [{"role": "user", "content": f"question {number}"}]
    return {"id": str(number), "prompt": asked, "verifier": "exact", "reference": "yes", "gold": "yes",
            "provenance": {"source": "mine", "licence": "CC-BY-SA-4.0", "licence_concluded": "CC-BY-4.0",
                           "evidence": "the site's own page"}}  # fmt: skip


def started(root: Path, licence: str, rows: list[dict], name: str = "model"):
    """A model of `licence` that learnt from `rows`, and the scores of it."""
    file = root / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = make(root, "post.collect", f"{name}-tasks", {}, f"sources=[{{path: {file}, licence: CC0-1.0, name: shared}}]", *SIZES)
    base = make(root, "post.start", f"{name}-base", {}, f"path={root / 'given'}", f"licence={licence}")
    return make(root, "fake_tuned", name, {"model": base, "tasks": tasks}), tasks


def build(root: Path) -> SimpleNamespace:
    """The store, and the bundle beside it."""
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    shape = ModelConfig(vocab_size=tokenizer.vocab_size, dim=16, layers=2, heads=2, kv_heads=1, ffn_dim=32, max_seq_len=64)
    save_model(Llama(shape, seed=0), root / "given", tokenizer=tokenizer)
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "you"}]
    rows = [*map(task, range(40)), {"messages": said, "teacher": "Llama-3.3-70B-Instruct"}]
    model, tasks = started(root, "MIT", rows)
    scores = make(root, "evals.scores", "scores", {"fake_tuned": model, "tasks": tasks}, "max_tokens=2")
    release(model, [scores], root / "bundle", name="Llama-tuned", run="test", supplier="Puna's tests")
    return SimpleNamespace(root=root, model=model, tasks=tasks, scores=scores, bundle=root / "bundle")
