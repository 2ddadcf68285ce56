"""Dialogs as unit vectors, kept as float16 in a file that is mapped into memory (paper 4.2.3 takes RoBERTa; here a model of
one's own).

A model's vector is the mean of its last hidden states over the dialog. Without a model, words and pairs of words, weighted by
how rare they are, are hashed onto random directions: no meaning, but it knows a dialog in which two words were changed. From
both the mean of all rows is taken off before they are normalised, because what all dialogs share would make any two of them
alike (Mu and Viswanath 2018).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from puna.core.rng import derive_seed
from puna.data.words import scan
from puna.infer.fp8 import batches
from puna.model.llama import Llama
from puna.post.examples import encode_dialog
from puna.post.quality.rows import text_of
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Dialog

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUCKETS_LOG2 = 16  # of hashed words and pairs; 65,536 directions of `dim` floats
PAIR = np.uint64(0x9E3779B97F4A7C15)  # odd: makes a pair of words differ from the swapped pair
BLOCK = 8192  # rows that are normalised together


class HashedEmbedder:
    """Rare words and pairs of words as sums of random directions; `learn` must have seen every text once."""

    def __init__(self, dim: int, seed: int):
        generator = torch.Generator().manual_seed(derive_seed(seed, "directions"))
        self.dim = dim
        self.directions = torch.randn((1 << BUCKETS_LOG2, dim), generator=generator) / dim**0.5
        self.seen, self.rows = np.zeros(1 << BUCKETS_LOG2, dtype=np.int64), 0

    def learn(self, dialogs: Sequence[Dialog]) -> None:
        """Count in how many rows each word and pair stands."""
        buckets, row_of = _features(dialogs)
        keys = np.sort(row_of << BUCKETS_LOG2 | buckets)
        distinct = keys[np.diff(keys, prepend=-1) != 0] & ((1 << BUCKETS_LOG2) - 1)
        self.seen += np.bincount(distinct, minlength=len(self.seen))
        self.rows += len(dialogs)

    def vectors(self, dialogs: Sequence[Dialog]) -> Tensor:
        """Vectors before normalisation. Returns float32 [dialogs, dim]."""
        buckets, row_of = _features(dialogs)
        weights = np.log((1 + self.rows) / (1 + self.seen[buckets])).astype(np.float32)
        starts = np.searchsorted(row_of, np.arange(len(dialogs)))
        return F.embedding_bag(
            torch.from_numpy(buckets), self.directions, torch.from_numpy(starts), mode="sum",
            per_sample_weights=torch.from_numpy(weights),
        )  # fmt: skip


def _features(dialogs: Sequence[Dialog]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Buckets of the words and pairs of words of every row, and the row of each; rows ascend."""
    words = scan([text_of(dialog) for dialog in dialogs])
    row_of = np.repeat(np.arange(len(dialogs)), words.counts)
    pairs = words.hashes[:-1] * PAIR ^ words.hashes[1:]
    inside = row_of[:-1] == row_of[1:]
    hashes = np.concatenate([words.hashes, pairs[inside]])
    rows = np.concatenate([row_of, row_of[:-1][inside]])
    order = np.argsort(rows, kind="stable")
    return ((hashes[order] * PAIR) >> np.uint64(64 - BUCKETS_LOG2)).astype(np.int64), rows[order]


class ModelEmbedder:
    """The mean of a model's last hidden states over a dialog; of a longer one than it reads, over its beginning."""

    def __init__(self, model: Llama, tokenizer: Tokenizer):
        self.model, self.tokenizer, self.dim = model.eval(), tokenizer, model.config.dim

    def learn(self, dialogs: Sequence[Dialog]) -> None:
        """Nothing: the model is trained."""

    @torch.no_grad()
    def vectors(self, dialogs: Sequence[Dialog]) -> Tensor:
        """Vectors before normalisation, batched by length. Returns float32 [dialogs, dim]."""
        limit = self.model.config.max_seq_len
        rows = [encode_dialog(self.tokenizer, dialog).ids[:limit] for dialog in dialogs]
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
        found = torch.zeros((len(rows), self.dim))
        done = 0
        for ids_BT, real_BT in batches(rows[i] for i in order):
            x_BTD = self.model.hidden(ids_BT).float()
            mean_BD = (x_BTD * real_BT[..., None]).sum(1) / real_BT.sum(1, keepdim=True)
            found[order[done : done + len(ids_BT)]] = mean_BD
            done += len(ids_BT)
        return found


Embedder = HashedEmbedder | ModelEmbedder


def write_embeddings(path: Path, embedder: Embedder, parts: Iterable[Sequence[Dialog]], rows: int) -> None:
    """Write the unit vectors of all rows as an `.npy` file, float16 [rows, dim]; memory holds one part at a time.

    Args:
        parts: the rows in order, in lists; a hashed embedder must have learnt from them.
    """
    raw = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, embedder.dim))
    total, at = torch.zeros(embedder.dim, dtype=torch.float64), 0
    for part in parts:
        vectors = F.normalize(embedder.vectors(part))
        total += vectors.double().sum(0)
        raw[at : at + len(part)] = vectors.half().numpy()
        at += len(part)
    mean = (total / max(1, rows)).float()
    for block in blocks(rows):
        centred = torch.from_numpy(raw[block].astype(np.float32)) - mean
        raw[block] = F.normalize(centred).half().numpy()
    raw.flush()


def blocks(rows: int) -> Iterator[slice]:
    """Slices of BLOCK rows."""
    return (slice(start, min(rows, start + BLOCK)) for start in range(0, rows, BLOCK))
