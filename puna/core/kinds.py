"""What a directory of each kind holds, and which stage file makes it: how a directory without a record is known.

A stage takes what another one made, or a directory of the user's own in the same form (a Hugging Face model, say). Only kinds
that a person may have at hand are listed; the others are parts that a stage makes for itself.
"""

from __future__ import annotations

from pathlib import Path

from puna.core.errors import InputError
from puna.core.modules import did_you_mean

MARKS = {  # kind: (pattern of a file that is always there, stage file that makes it)
    "pages": ("shards/*.parquet", "data.collect"),
    "documents": ("documents/*.parquet", "data.curate"),
    "tokenizer": ("tokenizer.model", "tokenizer.train"),
    "tokens": ("mix.json", "data.shards"),
    "tasks": ("test.jsonl", "post.collect"),
    "model": ("config.json", "train.pretrain"),
    "samples": ("accepted.jsonl", "post.reject"),
    "vision_model": ("preprocessor_config.json", "vision.pretrain"),
    "speech_model": ("speech.json", "speech.listen"),
    "speech_out": ("speech_out.json", "speech.speak"),
    "reward": ("reward_head.safetensors", "post.reward"),
}


def check_unrecorded(name: str, path: Path) -> None:
    """InputError unless the directory, given as `name=DIRECTORY`, holds what its kind always does."""
    if name not in MARKS:
        raise InputError(
            f"'{name}' is no kind of input, and this directory has no record that says what it holds",
            where=str(path),
            fix=did_you_mean(name, MARKS),
        )
    pattern, maker = MARKS[name]
    if not any(path.glob(pattern)):
        hint = " 'sources=[...]'" if maker in ("data.collect", "post.collect") else ""
        raise InputError(
            f"this is no `{name}` artifact: it has no {pattern}",
            where=str(path),
            fix=f"make one with `puna run {maker} --out DIR{hint}` and give that",
        )
