"""A tiny `tokens` artifact, for tests of training stages."""

import json
from pathlib import Path

import numpy as np

from puna.data.shards import write_shard
from puna.tokenizer.bpe import Tokenizer

TEXT = "the cat sat on the mat and the dog sat on the log while the sun was low "


def write_tokens(path: Path) -> Path:
    """Bytes as tokens: two groups, both with something held out."""
    path.mkdir()
    tokenizer = Tokenizer.from_ranks({bytes([i]): i for i in range(256)})
    tokenizer.save(path)
    draw = np.random.default_rng(0)
    for group, salt in (("code", "x = "), ("general", "")):
        for split, count in (("train", 40), ("held", 12)):
            docs = []
            for _ in range(count):
                start = int(draw.integers(0, len(TEXT)))
                docs.append([tokenizer.bos_id, *tokenizer.encode(salt + (TEXT * 3)[start : start + 90]), tokenizer.eos_id])
            write_shard(path / f"{split}-{group}", docs, {"group": group})
    (path / "mix.json").write_text(json.dumps({"mix": {"code": 0.5, "general": 0.5}, "anneal_mix": {"general": 1.0}}))
    return path
