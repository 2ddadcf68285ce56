"""A small Transformer as classifier of documents: dearer than the hashed linear one, and it reads words in their places.

The paper (section 3.1.1) lets a language model label pages and trains DistilRoberta on the labels, which is cheap enough to score
every document. This is that scorer without a pre-trained start: the Llama network of `puna.model` attending both ways over a
byte-level BPE made from the labelled texts, the mean over the tokens, and a linear layer over the classes. Long texts are read
through several windows. This file needs no torch, so that settings are read and other stages run without it; the network is in
`transformer_network`, which is imported where one is trained, loaded or asked.

A model is `transformer.json`, `transformer.safetensors` and `tokenizer.model`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from puna.core.errors import InputError
from puna.core.settings import Settings
from puna.data.linear import class_counts
from puna.model.config import ModelConfig
from puna.tokenizer.bpe import MODEL_FILE as TOKENIZER_FILE
from puna.tokenizer.bpe import Tokenizer, model_bytes

if TYPE_CHECKING:
    import pyarrow as pa

    from puna.data.transformer_network import Network

FORMAT = "puna-transformer-scorer-1"
MODEL_FILE, WEIGHTS_FILE = "transformer.json", "transformer.safetensors"
BYTES = 256
LEAST_PAIRS = 2  # a merge made only once in the labelled texts says nothing of others
LOSS_PARTS = 10  # of training, whose mean losses are noted


class TransformerSettings(Settings):
    """Shape of the network, what it reads, how it learns.

    Attributes:
        layers, dim, heads: of the network; `dim` is a multiple of twice `heads`.
        vocab: tokens of the BPE at most, the 256 bytes among them.
        seq_len: tokens of a window.
        windows: at most so many windows of a text are scored, evenly placed, and their probabilities averaged.
        max_chars: of a text's beginning that is looked at.
        steps, batch: optimiser steps, and texts in each.
        drop: share of the tokens left out, others each time: few labels are soon learned by heart.
        lr, warmup, weight_decay: of AdamW; the rate rises over `warmup` of the steps and falls to 0 on a line.
    """

    layers: int = Field(default=2, ge=1)
    dim: int = Field(default=64, ge=2)
    heads: int = Field(default=4, ge=1)
    vocab: int = Field(default=4096, ge=BYTES, le=2**20)
    seq_len: int = Field(default=128, ge=1)
    windows: int = Field(default=4, ge=1)
    max_chars: int = Field(default=100_000, ge=1)
    steps: int = Field(default=300, ge=1)
    batch: int = Field(default=32, ge=1)
    drop: float = Field(default=0.3, ge=0, lt=1)
    lr: float = Field(default=3e-3, gt=0)
    warmup: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.1, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> TransformerSettings:
        if self.dim % (2 * self.heads):
            raise ValueError(f"`dim` {self.dim} is no multiple of twice `heads` {self.heads} (each head turns pairs)")
        return self

    def shape(self, vocab: int) -> ModelConfig:
        """The network's shape for a vocabulary of so many tokens; the feed-forward is 8/3 of the width, in eights."""
        return ModelConfig(
            vocab_size=vocab,
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.heads,
            ffn_dim=-(-self.dim // 3) * 8,
            rope_theta=10_000.0,
            max_seq_len=self.seq_len,
            tied=True,
        )


@dataclass
class Transformer:
    """A trained classifier.

    Attributes:
        classes: names, in the order of the columns of every score.
        tokenizer: its own; special tokens do not occur.
        network: float32, on the CPU.
        settings: shape, windows and training.
        about: whatever its maker noted (labels, report); JSON values.
    """

    classes: list[str]
    tokenizer: Tokenizer
    network: Network
    settings: TransformerSettings
    about: dict[str, Any] = field(default_factory=dict)

    def score_batch(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Probability of each class for each text; an empty or missing text gets the network's bias, near the classes' shares.

        Windows of all texts are sorted by length and scored together; whom a text is scored with changes it by less than 1e-5.

        Args:
            texts: Arrow strings.

        Returns:
            float32 [texts, classes].
        """
        from puna.data.transformer_network import chances_of_nothing, window_chances

        rows = tokens_of(texts, self.tokenizer, self.settings)
        places = [evenly_placed(len(row), self.settings.seq_len, self.settings.windows) for row in rows]
        pieces = [
            row[start : start + self.settings.seq_len] for row, starts in zip(rows, places, strict=True) for start in starts
        ]
        owner = np.repeat(np.arange(len(rows)), [len(starts) for starts in places])
        sums = np.zeros((len(rows), len(self.classes)))
        np.add.at(sums, owner, window_chances(self.network, pieces))
        counts = np.bincount(owner, minlength=len(rows))
        sums[counts == 0] = chances_of_nothing(self.network)
        return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)

    def save(self, directory: Path) -> None:
        """Write the three files into an existing directory; the same model gives the same bytes."""
        from puna.data.transformer_network import write_weights

        directory = Path(directory)
        write_weights(self.network, directory / WEIGHTS_FILE)
        (directory / TOKENIZER_FILE).write_bytes(model_bytes(self.tokenizer.ranks))
        meta = {"format": FORMAT, "classes": self.classes, "settings": self.settings.model_dump(), "about": self.about}
        (directory / MODEL_FILE).write_text(json.dumps(meta, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def load_transformer(directory: Path) -> Transformer:
    """The classifier that `Transformer.save` wrote.

    Raises:
        InputError: the files are missing, broken, or contradict one another.
    """
    from puna.data.transformer_network import read_weights

    directory = Path(directory)
    try:
        meta = json.loads((directory / MODEL_FILE).read_text())
        if meta["format"] != FORMAT:
            raise ValueError(f"format is {meta['format']!r}")
        settings, classes = TransformerSettings(**meta["settings"]), [str(name) for name in meta["classes"]]
        tokenizer = Tokenizer.load(directory / TOKENIZER_FILE)
        network = read_weights(directory / WEIGHTS_FILE, settings.shape(tokenizer.base_size), len(classes))
    except Exception as error:  # safetensors and torch have error classes of their own for each fault
        raise InputError(
            f"this is no classifier of `data.classify`: {error}", where=str(directory), fix="train it again with `data.classify`"
        ) from error
    return Transformer(classes, tokenizer, network, settings, meta.get("about", {}))


def train_transformer(
    texts: pa.Array | pa.ChunkedArray,
    labels: np.ndarray,
    classes: list[str],
    settings: TransformerSettings,
    *,
    seed: int = 0,
    state: Path | None = None,
    after_step: Callable[[int, int, Callable[[], None]], None] = lambda done, total, save: None,
) -> Transformer:
    """Train a classifier; on one machine the same texts, labels, settings and seed give the same weights, also after a stop.

    Args:
        texts: Arrow strings.
        labels: int [texts], index into `classes`.
        seed: of the first weights, the order of the texts and the windows of long ones.
        state: file that a stopped training is continued from, where it is of the same training.
        after_step: called with steps done, steps in all, and what writes `state`; may raise to stop.

    Returns:
        The classifier; `about["losses"]` holds the mean loss of every tenth of training in nats.

    Raises:
        InputError: fewer than two classes, a class without a text, or nothing but empty texts.
    """
    from puna.data.transformer_network import fit

    labels = np.asarray(labels, dtype=np.int64)
    counts = class_counts(labels, classes)
    tokenizer = learn_tokenizer(texts, settings)
    rows = tokens_of(texts, tokenizer, settings)
    if not any(rows):
        raise InputError("no labelled text has anything in it", where="labels", fix="check `text_field` of the label files")
    network, losses = fit(
        rows, labels, np.log(counts / counts.sum()), settings, tokenizer, seed=seed, state=state, after_step=after_step
    )
    parts = np.array_split(np.array(losses), min(LOSS_PARTS, len(losses)))
    return Transformer(list(classes), tokenizer, network, settings, {"losses": [round(float(part.mean()), 6) for part in parts]})


def learn_tokenizer(texts: pa.Array | pa.ChunkedArray, settings: TransformerSettings) -> Tokenizer:
    """A byte-level BPE of at most `vocab` tokens from what is looked at of the texts."""
    from puna.tokenizer.merging import train_ranks
    from puna.tokenizer.pieces import PieceCounter

    counter = PieceCounter()
    for text in texts.to_pylist():
        counter.add((text or "")[: settings.max_chars])
    return Tokenizer.from_ranks(train_ranks(counter.counts(), settings.vocab, minimum=LEAST_PAIRS).ranks)


def tokens_of(texts: pa.Array | pa.ChunkedArray, tokenizer: Tokenizer, settings: TransformerSettings) -> list[list[int]]:
    """Token ids of the beginning of every text; none of an empty or missing one."""
    return tokenizer.encode_batch([(text or "")[: settings.max_chars] for text in texts.to_pylist()])


def evenly_placed(tokens: int, seq_len: int, windows: int) -> Sequence[int]:
    """Where the windows of a text begin: as many as cover it, at most `windows`, the first at its start, the last at its end."""
    count = min(windows, -(-tokens // seq_len))
    if count <= 1:
        return range(count)
    return [index * (tokens - seq_len) // (count - 1) for index in range(count)]
