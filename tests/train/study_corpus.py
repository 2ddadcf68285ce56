"""Tiny `tokens` artifacts whose groups differ in how hard they are, shared by the tests of reads and studies."""

import hashlib
import json
from pathlib import Path

import numpy as np

from puna.core.stage import Artifact, local_artifact, local_context
from puna.data.shards import ShardBuilder
from puna.tokenizer.bpe import Tokenizer

SHAPE = {"layers": 1, "dim": 16, "heads": 2, "kv_heads": 1}
LINES = 6  # of every document
SENTENCES = {
    "general": ["the cat sat on the mat", "a dog ran to the log", "the sun was low and red", "we saw a bird in the tree"],
    "code": ["x = x + 1", "for i in y: z(i)", "def f(a): return a", "if x == y: z()"],
    "maths": ["2 + 2 = 4", "7 - 3 = 4", "3 * 3 = 9", "8 / 2 = 4"],
}


def make_tokens(path: Path, groups=("general", "code"), documents=40, held=16, seed=0) -> Path:
    """A `tokens` artifact of bytes as tokens; every document is six random sentences, one a line, from one of two sources."""
    path.mkdir(parents=True)
    tokenizer = Tokenizer.from_ranks({bytes([i]): i for i in range(256)})
    tokenizer.save(path)
    draw = np.random.default_rng(seed)
    for group in groups:
        for split, count in (("train", documents), ("held", held)):
            builder = ShardBuilder(path / f"{split}-{group}")
            for i in range(count):
                text = "\n".join(draw.choice(SENTENCES[group], LINES))
                builder.add([tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id], (f"{split}-{group}-{i}", "ab"[i % 2]))
            builder.close({"group": group})
    weights = {group: 1 / len(groups) for group in groups}
    (path / "mix.json").write_text(json.dumps({"mix": weights, "anneal_mix": {groups[0]: 1.0}}))
    return path


def run_stage(module, out: Path, inputs, name="stage", seed=7, stopping=None, **settings) -> Artifact:
    """Run a stage file on artifacts and return what it made, with the part of its record that later stages read."""
    ctx = local_context(out, name=name, inputs=inputs, seed=seed)
    ctx.stopping = stopping or ctx.stopping
    made = module.Settings.model_validate(settings)
    summary = module.run(made, ctx)
    (out / "summary.json").write_text(json.dumps(summary))
    record = {"stage": module.__name__.removeprefix("puna."), "name": name, "identity": {"seed": seed},
              "settings": made.model_dump(mode="json"), "summary": summary}  # fmt: skip
    return Artifact(name, module.KIND, out, hashlib.blake2b(str(out).encode()).hexdigest(), record)


def tokens_artifact(path: Path, name="tokens") -> Artifact:
    """A directory of shards as an input."""
    return local_artifact(path, "tokens", name)
