"""Held-out loss of several models per group of the corpus, in nats per token and bits per byte, with intervals by document.

Documents, not tokens, are the independent units, so the interval comes from drawing whole documents with replacement. Bits per
byte (loss / ln 2 / bytes of text) compares models of different tokenizers; perplexity is exp(loss per token).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveInt

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.evals.stats import bootstrap_ratio
from puna.model.checkpoint import load_model
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer

if TYPE_CHECKING:
    from puna.data.shards import TokenShard

KIND = "perplexity"
REVISION = 1
BATCH_TOKENS = 8192  # positions per forward pass, padding included


class Settings(BaseSettings):
    """`tokens` held-out tokens of each group at most; `length`: documents are cut into windows of this many tokens."""

    tokens: PositiveInt = 8192
    length: PositiveInt = 128


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `perplexity.json`: {"models": {model: {group: ...}}, "length": ...}."""
    tokens, models = ctx.inputs.one("tokens"), ctx.inputs.all("model")
    if not models:
        raise InputError("there is no model to measure", where=ctx.name, fix="name at least one under `from`")
    groups = held_out(tokens, settings)
    if not groups:
        ctx.note("the token shards have no held-out part: nothing to measure")
    sizes = token_bytes(Tokenizer.load(tokens.path))
    result: dict[str, dict[str, Any]] = {}
    for done, artifact in enumerate(models):
        model = load_model(artifact.path).eval()
        if model.config.vocab_size != len(sizes):
            raise InputError(
                f"'{artifact.name}' has another vocabulary than the token shards",
                where=str(artifact.path),
                fix="measure models of one tokenizer in one stage",
            )
        result[artifact.name] = {
            group: measure(model, documents, sizes, settings.length, derive_seed(ctx.seed, "perplexity", group))
            for group, documents in groups.items()
        }
        ctx.progress(done + 1, len(models), model=artifact.name)
    summary = {"length": settings.length, "models": result}
    (ctx.out / "perplexity.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def held_out(tokens: Artifact, settings: Settings) -> dict[str, list[np.ndarray]]:
    """By group: its first held-out documents, at most `tokens` tokens in all (the last one is cut)."""
    from puna.data.shards import open_shard

    groups = {}
    for file in sorted(tokens.path.glob("held-*.bin")):
        documents = _first_documents(open_shard(file.with_suffix("")), settings.tokens)
        if documents:
            groups[file.stem.removeprefix("held-")] = documents
    return groups


def _first_documents(shard: TokenShard, budget: int) -> list[np.ndarray]:
    documents = []
    for i in range(shard.documents):
        document = np.asarray(shard.document(i), dtype=np.int64)[:budget]
        if len(document) < 2:
            continue
        documents.append(document)
        budget -= len(document)
        if budget < 2:
            break
    return documents


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """int64 [V]: bytes of text each token stands for; 0 for special tokens."""
    sizes = [0 if tokenizer.is_special(i) else len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    return np.array(sizes, dtype=np.int64)


def measure(model: Llama, documents: list[np.ndarray], sizes: np.ndarray, length: int, seed: int) -> dict[str, Any]:
    """Loss of documents with 95 % bootstrap intervals (None with a single document)."""
    losses = document_losses(model, documents, length)
    counts = np.array([len(document) - 1 for document in documents])
    spaces = np.array([int(sizes[document[1:]].sum()) for document in documents])
    loss = float(losses.sum() / counts.sum())
    many = len(documents) > 1
    low, high = bootstrap_ratio(losses, counts, seed) if many else (None, None)
    bits = losses / math.log(2)
    bits_interval = bootstrap_ratio(bits, spaces, seed) if many and spaces.all() else (None, None)
    return {
        "documents": len(documents),
        "tokens": int(counts.sum()),
        "bytes": int(spaces.sum()),
        "loss": loss,
        "low": low,
        "high": high,
        "perplexity": math.exp(loss),
        "bits_per_byte": float(bits.sum() / spaces.sum()) if spaces.sum() else None,
        "bits_per_byte_low": bits_interval[0],
        "bits_per_byte_high": bits_interval[1],
    }


@torch.no_grad()
def document_losses(model: Llama, documents: list[np.ndarray], length: int) -> np.ndarray:
    """float64 [documents]: summed cross-entropy of every token but the first, each seen once, within windows of `length`.

    A window's context starts at the window; it begins with the last token of the one before, which it does not predict.
    """
    windows = [(i, d[at : at + length + 1]) for i, d in enumerate(documents) for at in range(0, len(d) - 1, length)]
    windows.sort(key=lambda window: len(window[1]))  # rows of like length pad least
    sums = np.zeros(len(documents))
    rows = max(1, BATCH_TOKENS // length)
    for start in range(0, len(windows), rows):
        batch = windows[start : start + rows]
        width = max(len(ids) for _, ids in batch)
        ids_BT = torch.zeros(len(batch), width, dtype=torch.int64)
        valid_BT = torch.zeros(len(batch), width - 1, dtype=torch.bool)
        for row, (_, ids) in enumerate(batch):
            ids_BT[row, : len(ids)] = torch.from_numpy(ids)
            valid_BT[row, : len(ids) - 1] = True
        states = model.hidden(ids_BT[:, :-1])[valid_BT]
        losses_BT = torch.zeros(valid_BT.shape, dtype=torch.float64)
        losses_BT[valid_BT] = F.cross_entropy(model.lm_head(states).float(), ids_BT[:, 1:][valid_BT], reduction="none").double()
        np.add.at(sums, [document for document, _ in batch], losses_BT.sum(1).numpy())
    return sums
