"""A `tokens` artifact as training sees it: shards per group, the two mixes, the tokenizer, and the loss on what was held out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from puna.core.errors import InputError
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
        mix, anneal_mix: weight per group for pre-training and for annealing (section 3.4.3 up-samples the best sources).
        tokenizer: what made the ids (`puna.tokenizer.bpe.Tokenizer`).
    """

    path: Path
    train: dict[str, Documents]
    held: dict[str, Documents]
    mix: dict[str, float]
    anneal_mix: dict[str, float]
    tokenizer: Any

    def stream(
        self, schedule: Schedule, seed: int, mix: Mapping[str, float] | None = None, micro_rows: int | None = None
    ) -> TokenStream:
        """Training batches of this rank for `schedule`, by `mix` or the corpus's own."""
        world = World.current()
        return TokenStream(self.train, mix or self.mix, schedule, seed, rank=world.rank, world=world.size, micro_rows=micro_rows)

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


def open_corpus(path: Path) -> Corpus:
    """Read a `tokens` artifact; InputError when a file is missing or there is nothing to train on."""
    from puna.data.shards import open_shard
    from puna.tokenizer.bpe import Tokenizer

    record_path = path / "mix.json"
    if not record_path.exists():
        raise InputError("this is no directory of token shards", where=str(record_path), fix="give the output of data.shards")
    record = json.loads(record_path.read_text())
    shards = {
        split: {p.stem.removeprefix(f"{split}-"): open_shard(p.with_suffix("")) for p in sorted(path.glob(f"{split}-*.bin"))}
        for split in ("train", "held")
    }
    if not shards["train"]:
        raise InputError("there are no training tokens here", where=str(path))
    mix = record["mix"]
    return Corpus(path, shards["train"], shards["held"], mix, record.get("anneal_mix") or mix, Tokenizer.load(path))


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
