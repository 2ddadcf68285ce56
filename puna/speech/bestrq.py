"""BEST-RQ (Chiu et al. 2022; section 8.1.2): self-supervised training of the encoder against labels from a random projection.

Stacked frames (320 numbers) are projected to 16 dimensions by a matrix nobody trains, and the nearest of 8,192 random codes, by
cosine, is the label; the paper has 16 books. Spans of 32 frames of 10 ms, each beginning with probability 2.5 %, are replaced
by noise, and the loss, one softmax a book, is taken where a stacked frame was masked.

Shape legend: B recordings, S stacked frames, F numbers of one, Q books, C codes of a book, N masked positions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.core.rng import derive_seed
from puna.model.llama import Linear
from puna.speech.encoder import SpeechConfig, SpeechEncoder, stacked
from puna.train.packing import Batch

NOISE = 0.1  # standard deviation of what stands for masked frames; features have 1


@dataclass(frozen=True)
class QuantizerConfig:
    """Books of codes and how much is masked: the paper's.

    Attributes:
        books, codes, code_dim: random-projection quantisers.
        span: masked frames of 10 ms in a row. start: probability that a span begins at a frame.
    """

    books: int = 16
    codes: int = 8192
    code_dim: int = 16
    span: int = 32
    start: float = 0.025


class Quantizer(nn.Module):
    """Labels of stacked frames; projections and codes are drawn from `seed` and never trained."""

    projection_FQ: Tensor
    codes_QCE: Tensor

    def __init__(self, config: QuantizerConfig, features: int, seed: int):
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(derive_seed(seed, "init", "quantizer"))
        width = config.books * config.code_dim
        bound = (6 / (features + config.code_dim)) ** 0.5  # Xavier's, for each book
        projection = torch.rand(features, width, generator=generator, dtype=torch.float64) * 2 * bound - bound
        codes = torch.randn(config.books, config.codes, config.code_dim, generator=generator, dtype=torch.float64)
        self.register_buffer("projection_FQ", projection.float(), persistent=False)
        self.register_buffer("codes_QCE", F.normalize(codes, dim=-1).float(), persistent=False)

    @torch.no_grad()
    def forward(self, stacked_NF: Tensor) -> Tensor:
        """Labels [N, Q] int64: the code of the largest cosine in each book."""
        projected_QNE = (stacked_NF.float() @ self.projection_FQ).unflatten(-1, (self.config.books, -1)).transpose(0, 1)
        return (projected_QNE @ self.codes_QCE.transpose(1, 2)).argmax(-1).t()


class BestRQ(nn.Module):
    """The encoder under training: what is masked is seen as noise, and a softmax for each book tells its label."""

    def __init__(self, encoder: SpeechEncoder, config: QuantizerConfig, seed: int = 0):
        super().__init__()
        self.encoder, self.rules = encoder, config
        shape = encoder.config
        self.quantizer = Quantizer(config, shape.channels * shape.stack, seed)
        self.heads = Linear(shape.dim, config.books * config.codes)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(derive_seed(seed, "init", "heads"))
            self.heads.weight.normal_(0.0, 0.02, generator=generator)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(logits [N,Q,C], labels [N,Q]) at the masked positions; see `masked_batch` for what a batch brings."""
        stacked_BSF = stacked(batch.extra["frames_BTM"], batch.extra["frames_B"], self.encoder.config.stack)
        masked_BS = batch.extra["masked_BS"]
        labels_NQ = self.quantizer(stacked_BSF[masked_BS])
        shown_BSF = torch.where(masked_BS[..., None], batch.extra["noise_BSF"], stacked_BSF)
        states_BSD, _ = self.encoder.encode(shown_BSF, -(-batch.extra["frames_B"] // self.encoder.config.stack))
        return self.heads(states_BSD[masked_BS]).unflatten(-1, (self.rules.books, -1)), labels_NQ


class MultiSoftmax:
    """Mean over books of the cross-entropy at masked positions, as a sum and a count."""

    weights = {"bestrq": 1.0}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Masked positions."""
        masked = float(batch.extra["masked_BS"].sum())
        return {"bestrq": masked, "label_accuracy": masked}

    def sums(self, model: BestRQ, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The loss, and how many labels are told right (mean over books)."""
        logits_NQC, labels_NQ = model(batch)
        loss = F.cross_entropy(logits_NQC.float().flatten(0, 1), labels_NQ.flatten(), reduction="sum")
        right = (logits_NQC.argmax(-1) == labels_NQ).sum()
        books = model.rules.books
        return {"bestrq": loss / books}, {"label_accuracy": right.detach() / books}


def masked_positions(positions: int, config: QuantizerConfig, shape: SpeechConfig, rng: np.random.Generator) -> np.ndarray:
    """bool [S]: stacked frames under a span; spans begin at stacked frames, as often as at any of the frames in one.

    At least one span is drawn, so that no recording is read for nothing.
    """
    width = max(1, config.span // shape.stack)
    begins = rng.random(positions) < 1 - (1 - config.start) ** shape.stack
    if not begins.any() and positions:
        begins[rng.integers(max(1, positions - width + 1))] = True
    reach = np.convolve(begins, np.ones(width, np.int64))[:positions]
    return reach > 0
