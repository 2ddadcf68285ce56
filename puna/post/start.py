"""Any Llama checkpoint in Hugging Face's layout as the model that post-training begins with.

The directory may come from Meta, from transformers or from another run: weights in one file or many, FP8 or not, the tokenizer
as `tokenizer.model` or as the `tokenizer.json` of that family. Everything is checked here, before hours of work, and written in
our own form: stored precision kept, FP8 in that of the embedding (it cannot be trained), stop tokens those of the chat format
(section 4.1.1). What is known of where the weights come from goes on: the sources of a run's model or of a release, the licence
that a model card states.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from puna.core.lineage import WEIGHTS, Row
from puna.core.lineage_graph import known_sources
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import StageContext
from puna.model.checkpoint import load_model, read_config, save_model
from puna.tokenizer.bpe import Tokenizer

KIND = "model"
REVISION = 3  # the sources of the directory go on

UNKNOWN = "unknown"
READ = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.model", "tokenizer.json")


class Settings(BaseSettings):
    """`path` of the directory; `licence` of its weights (an SPDX identifier or a name), where its card states none or another."""

    path: str
    licence: str = UNKNOWN


def outside(settings: Settings) -> dict[str, str]:
    """Content digests of the files that are read, by name: other weights in the same place are another model."""
    directory = Path(settings.path)
    read_config(directory)
    found = {}
    for path in sorted({path for pattern in READ for path in directory.glob(pattern)}):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    known = json.dumps(known_sources(directory), sort_keys=True)
    return {**found, "sources": hashlib.blake2b(known.encode(), digest_size=16).hexdigest()}


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Read, check, write. Raises InputError for another architecture or tokenizer, and for files that are damaged or absent."""
    directory = Path(settings.path)
    tokenizer = Tokenizer.load(directory)
    model = load_model(directory, dtype=None, dequantize=True)
    save_model(model.to(model.model.embed_tokens.weight.dtype), ctx.out, tokenizer=tokenizer)
    ctx.lineage += _sources(directory, settings.licence)
    config = model.config
    return {
        "parameters": config.parameters(),
        "layers": config.layers,
        "dim": config.dim,
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_seq_len,
    }


def _sources(directory: Path, licence: str) -> list[Row]:
    """What is known of the directory; the licence that the user gives stands for what its card says."""
    known, name = known_sources(directory), directory.resolve().name
    if licence == UNKNOWN:
        return known
    others = [row for row in known if (row["source"], row.get("use")) != (name, WEIGHTS)]
    return [{"source": name, "licence": licence, "rows": 0, "use": WEIGHTS}, *others]
