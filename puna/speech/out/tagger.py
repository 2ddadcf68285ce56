"""The streaming tagger of text normalisation (section 8.2.2): a rule for each written piece, `ahead` pieces later.

An LSTM reads the pieces; the rule of a piece is decided when `ahead` more have been read, from the LSTM's state then and from
cross-attention to the text model's states of what has been read. Which tokens belong to which piece is told by their distance, so
the alignment is the attention's to find.

Shape legend: B texts, T pieces, S tokens, D text width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.speech.out.reading import RULES, STOPS, by_shape, core
from puna.speech.out.states import Known
from puna.train.packing import IGNORED, PADDING, Batch

REACH = 8  # distances told apart, in pieces or phones, to each side
STYLES = len(RULES) * 2  # looks of a piece: its rule by shape, and whether a stop follows


@dataclass(frozen=True)
class TaggerShape:
    """Sizes: of embeddings and LSTM, buckets that words are hashed into, pieces of look-ahead, width of the states."""

    text_dim: int
    dim: int = 48
    buckets: int = 2048
    ahead: int = 3


class Near(nn.Module):
    """Cross-attention whose keys also say how far they are: one head, a learnt vector for each distance up to `REACH`."""

    def __init__(self, dim: int, key_dim: int):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(key_dim, dim), nn.Linear(key_dim, dim)
        self.far = nn.Embedding(2 * REACH + 1, dim)

    def forward(self, x_BTH: Tensor, keys_BSD: Tensor, distance_BTS: Tensor, sees_BTS: Tensor) -> Tensor:
        """What is found [B,T,H]; zeros for a query that sees nothing."""
        query_BTH = self.query(x_BTH)
        far_BTN = query_BTH @ self.far.weight.t()
        at_BTS = distance_BTS.clamp(-REACH, REACH) + REACH
        scores_BTS = query_BTH @ self.key(keys_BSD).transpose(1, 2) + far_BTN.gather(2, at_BTS)
        scores_BTS = (scores_BTS * x_BTH.shape[-1] ** -0.5).masked_fill(~sees_BTS, torch.finfo(x_BTH.dtype).min)
        return (scores_BTS.softmax(-1) * sees_BTS) @ self.value(keys_BSD)


@torch.no_grad()
def init_weights(model: nn.Module, seed: int) -> None:
    """Draw matrices with std 1 / sqrt(columns), embeddings with 1; norms 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, weight in model.named_parameters():
        if id(weight) in tables:
            weight.normal_(generator=generator)
        elif weight.dim() > 1:
            weight.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)
        else:
            weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)


class Tagger(nn.Module):
    """Embeddings, LSTM, cross-attention, a rule each."""

    def __init__(self, shape: TaggerShape):
        super().__init__()
        self.shape = shape
        self.words, self.styles = nn.Embedding(shape.buckets, shape.dim), nn.Embedding(STYLES, shape.dim)
        self.lstm = nn.LSTM(shape.dim, shape.dim, batch_first=True)
        self.near = Near(shape.dim, shape.text_dim)
        self.out = nn.Linear(3 * shape.dim, len(RULES))

    def forward(self, words_BT: Tensor, styles_BT: Tensor, known: Known) -> Tensor:
        """Logits [B,T,rules]; a piece's depend on no piece that comes more than `ahead` after it."""
        ahead, count = self.shape.ahead, words_BT.shape[1]
        x_BTH = self.words(words_BT) + self.styles(styles_BT)
        later_BTH = self.lstm(F.pad(x_BTH, (0, 0, 0, ahead)))[0][:, ahead:]
        at_T = torch.arange(count, device=words_BT.device)
        distance_BTS = known.pieces_BS[:, None] - at_T[None, :, None]
        sees_BTS = (known.pieces_BS[:, None] >= 0) & (distance_BTS <= ahead)
        found_BTH = self.near(later_BTH, known.states_BSD, distance_BTS, sees_BTS)
        return self.out(torch.cat([x_BTH, later_BTH, found_BTH], -1))

    @torch.no_grad()
    def rules(self, pieces: Sequence[str], known: Known) -> list[str]:
        """The likeliest rule of each piece of a text that is known as the only row."""
        words, styles = looks([pieces], self.shape.buckets)
        return [RULES[i] for i in self(words, styles, known)[0].argmax(-1).tolist()]


def looks(texts: Sequence[Sequence[str]], buckets: int) -> tuple[Tensor, Tensor]:
    """(bucket of each word, how each piece looks) [B,T]; 0 in padding, and every figure counts as 0."""
    longest = max(len(pieces) for pieces in texts)
    words, styles = torch.zeros(2, len(texts), longest, dtype=torch.int64)
    for row, pieces in enumerate(texts):
        for i, piece in enumerate(pieces):
            word = "".join("0" if letter.isdigit() else letter for letter in core(piece).lower())
            words[row, i] = int.from_bytes(blake2b(word.encode(), digest_size=4).digest(), "little") % buckets
            styles[row, i] = 2 * RULES.index(by_shape(piece)) + (piece[-1:] in STOPS)
    return words, styles


class Tagging:
    """Cross-entropy of the rules, as the training loop takes it."""

    weights = {"tag": 1.0}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Pieces with a known rule."""
        return {"tag": float(len(batch.supervised()))}

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The sum of -log p(rule)."""
        logits = model(batch.ids_BT, batch.extra["styles_BT"], Known(batch.extra["states_BSD"], batch.extra["pieces_BS"]))
        return {
            "tag": F.cross_entropy(logits.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORED, reduction="sum")
        }, {}


def tagging_batch(texts: Sequence[Sequence[str]], rules: Sequence[Sequence[str]], known: Known, buckets: int) -> Batch:
    """Texts with the rules of their pieces."""
    words, styles = looks(texts, buckets)
    targets, documents = torch.full_like(words, IGNORED), torch.full_like(words, PADDING)
    for row, own in enumerate(rules):
        targets[row, : len(own)] = torch.tensor([RULES.index(rule) for rule in own])
        documents[row, : len(own)] = row
    positions = torch.arange(words.shape[1]).expand_as(words).contiguous()
    extra = {"styles_BT": styles, "states_BSD": known.states_BSD, "pieces_BS": known.pieces_BS}
    return Batch(words, targets, positions, documents, extra=extra)
