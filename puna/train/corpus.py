"""A `tokens` artifact as training sees it: shards per group, the two mixes, the tokenizer, and the loss on what was held out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puna.core.errors import InputError
from puna.data.shards import document_column, open_shard
from puna.train.objectives import CrossEntropy
from puna.train.packing import Batch
from puna.train.schedule import Schedule
from puna.train.stream import Documents, GroupStream, TokenStream, batch_of
from puna.train.world import World


@dataclass
class Corpus:
    """Token shards of one artifact.

    Attributes:
        train, held: shard per group; a group may have nothing held out.
        mix, anneal_mix: weight per group, or per source that has its own (`puna.data.mix`), for pre-training and for annealing
            (section 3.4.3 up-samples the best sources).
        tokenizer: what made the ids (`puna.tokenizer.bpe.Tokenizer`).
        long_mix: the same for long context.
    """

    path: Path
    train: dict[str, Documents]
    held: dict[str, Documents]
    mix: dict[str, float]
    anneal_mix: dict[str, float]
    tokenizer: Any
    long_mix: dict[str, float] = field(default_factory=dict)

    def stream(
        self, schedule: Schedule, seed: int, mix: Mapping[str, float] | None = None, micro_rows: int | None = None
    ) -> TokenStream:
        """Training batches of this rank for `schedule`, by `mix` or the corpus's own."""
        world = World.current()
        return TokenStream(
            self.train, mix or self.mix, schedule, seed, rank=world.rank, world=world.size, micro_rows=micro_rows,
            sources=self.sources,
        )  # fmt: skip

    def sources(self, group: str) -> np.ndarray:
        """Source of every training document of a group, [documents]; of the document a piece was cut from, if it was cut.

        Raises InputError when the shards do not say it.
        """
        found = document_column(self.path / f"train-{group}", "source")
        shard = self.train[group]
        return found[shard.documents] if isinstance(shard, Pieces) else found

    def held_batches(self, seq_len: int, rows: int) -> dict[str, Batch]:
        """At most `rows` rows of each held-out group, spread evenly over it; groups shorter than half a row are left out."""
        found: dict[str, Batch] = {}
        for name, shard in sorted(self.held.items()):
            group = GroupStream(shard, None)
            if group.size < seq_len // 2:
                continue
            length = min(seq_len, group.size - 1)
            count = min(rows, group.size // (length + 1))
            found[name] = batch_of([group.read(i * (group.size // count), length + 1) for i in range(count)])
        return found


@dataclass
class Pieces:
    """Token shard whose documents are cut into pieces; see `cut_at_lines`. `documents` says which one a piece is of, [pieces]."""

    tokens: np.ndarray
    ends: np.ndarray
    documents: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def cut_at_lines(shard: Documents, line_ends: Mapping[int, list[int]], least: int, bos_id: int, eos_id: int) -> Pieces:
    """The documents of a shard cut at the first line end after `least` tokens, and again; each piece is [bos] + lines + [eos].

    A short piece holds few distractors, from which a tiny model learns to copy and to look up in a fraction of the tokens that
    whole pages take (docs/log.md). `line_ends` has the ids of every token that ends a line without its line breaks: the split
    pattern joins ".\\n" to one token, of which the full stop stays at a cut.
    """
    pieces: list[list[int]] = []
    counts: list[int] = []
    start = 0
    for end in np.asarray(shard.ends, np.int64).tolist():
        ids = np.asarray(shard.tokens[start:end], np.int64)
        start = end
        ids = ids[(ids != bos_id) & (ids != eos_id)]
        found = _pieces(ids, line_ends, least)
        pieces += found
        counts.append(len(found))
    framed = [np.array([bos_id, *piece, eos_id], np.int64) for piece in pieces]
    tokens = np.concatenate(framed or [np.empty(0, np.int64)])
    ends = np.cumsum([len(piece) for piece in framed], dtype=np.int64)
    return Pieces(tokens, ends, np.repeat(np.arange(len(counts)), counts))


def _pieces(ids: np.ndarray, line_ends: Mapping[int, list[int]], least: int) -> list[list[int]]:
    found, start = [], 0
    for end in [*(np.flatnonzero(np.isin(ids, list(line_ends))) + 1).tolist(), len(ids)]:
        if end - start >= least or (end == len(ids) and end > start):
            *body, last = ids[start:end].tolist()
            if piece := [*body, *line_ends.get(last, [last])]:
                found.append(piece)
            start = end
    return found


def line_end_tokens(tokenizer: Any) -> dict[int, list[int]]:
    """Every token id whose bytes hold a line break, with the ids of its text without the line breaks at its end."""
    texts = {i: tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size) if not tokenizer.is_special(i)}
    return {i: tokenizer.encode(text.rstrip(b"\n").decode("utf-8", "replace")) for i, text in texts.items() if b"\n" in text}


def open_corpus(path: Path, piece_tokens: int | None = None) -> Corpus:
    """Read a `tokens` artifact, documents cut into pieces of about `piece_tokens` if that is given.

    Raises InputError when a file is missing or there is nothing to train on.
    """
    from puna.tokenizer.bpe import Tokenizer

    record_path = path / "mix.json"
    if not record_path.exists():
        raise InputError("this is no directory of token shards", where=str(record_path), fix="give the output of data.shards")
    record = json.loads(record_path.read_text())
    shards: dict[str, dict[str, Documents]] = {
        split: {p.stem.removeprefix(f"{split}-"): open_shard(p.with_suffix("")) for p in sorted(path.glob(f"{split}-*.bin"))}
        for split in ("train", "held")
    }
    if not shards["train"]:
        raise InputError("there are no training tokens here", where=str(path))
    tokenizer = Tokenizer.load(path)
    if piece_tokens is not None:
        line_ends = line_end_tokens(tokenizer)
        shards = {
            split: {
                name: cut_at_lines(shard, line_ends, piece_tokens, tokenizer.bos_id, tokenizer.eos_id)
                for name, shard in groups.items()
            }
            for split, groups in shards.items()
        }
    mixes = _mixes(record)
    return Corpus(
        path, shards["train"], shards["held"], mixes["pretrain"], mixes["anneal"], tokenizer, long_mix=mixes["long_context"]
    )


def _mixes(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Weights of every phase; a record of version 1 has two mixes, and long context goes on with the first."""
    phases = {phase: plan["weights"] for phase, plan in record.get("phases", {}).items()}
    first = record["mix"]
    return {"pretrain": first, "long_context": first, "anneal": record.get("anneal_mix") or first} | phases


@torch.no_grad()
def held_losses(model: Any, batches: Mapping[str, Batch]) -> dict[str, float]:
    """{"held_loss": mean over the groups' tokens, "held_loss/<group>": ...} in nats per token; empty when nothing is held out."""
    objective = CrossEntropy()
    device = next(model.parameters()).device
    total = count = 0.0
    found: dict[str, float] = {}
    for name, batch in batches.items():
        tokens = objective.counts(batch)["ce"]
        if tokens == 0:
            continue
        loss = sum(
            float(objective.sums(model, batch.rows(row, row + 8).to(device))[0]["ce"]) for row in range(0, len(batch.ids_BT), 8)
        )
        found[f"held_loss/{name}"] = _digits(loss / tokens)
        total, count = total + loss, count + tokens
    return {"held_loss": _digits(total / count), **found} if count else {}


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
