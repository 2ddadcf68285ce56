"""The prosody model (section 8.2.2): a uni-directional Transformer writes log duration, pitch and power, a phone at a time.

Each layer attends to what was written, to phones up to `ahead` further (first cross-attention), and to the text model's states
of the pieces up to the end of the current chunk of `chunk` pieces (second). In the delayed pattern step s writes the duration of
phone s, the pitch of phone s - 1 and the power of phone s - 2, so each may lean on the others.

Shape legend: B phrases, P phones, T = P + 2 steps, S tokens, D text width, H hidden width, 3 values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.model.llama import Rope
from puna.speech.encoder import ROPE_THETA, RealRows, SpeechAttention
from puna.speech.out.prosody import Prosody
from puna.speech.out.states import Known
from puna.speech.out.tagger import Near
from puna.train.packing import IGNORED, PADDING, Batch
from puna.world.formants import CONSONANTS, VOWELS
from puna.world.phones import PAUSE, Phone

SYMBOLS = (PAUSE, *VOWELS, *CONSONANTS)
MARKS = ("", "comma", "end", "question")
VALUES, DELAY = 3, 2  # what is written of a phone; steps by which the last value lags
BEHIND = 8  # phones behind that are looked at
MEANS, SPREADS = (-2.5, 0.0, 0.0), (0.4, 3.0, 2.0)  # log seconds, semitones, dB: near those of the rules


@dataclass(frozen=True)
class ProsodyShape:
    """Sizes; `ahead` in phones, `chunk` in pieces (paper: 6 heads, feed-forward of 864)."""

    text_dim: int
    dim: int = 48
    heads: int = 2
    ffn_dim: int = 96
    layers: int = 2
    ahead: int = 6
    chunk: int = 3


class ProsodyLayer(nn.Module):
    """Self-attention over steps, cross-attention to phones and to the text's states, feed-forward."""

    def __init__(self, shape: ProsodyShape):
        super().__init__()
        dim = shape.dim
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.attn, self.phones, self.text = SpeechAttention(dim, shape.heads), Near(dim, dim), Near(dim, shape.text_dim)
        self.up, self.down = nn.Linear(dim, shape.ffn_dim), nn.Linear(shape.ffn_dim, dim)

    def forward(
        self, x_BTH: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, rows: RealRows, phones: Sequence[Tensor],
        text: Sequence[Tensor],
    ) -> Tensor:  # fmt: skip
        """Residual stream [B,T,H]; `phones` and `text` are keys, distances and what is seen, as `Near` takes them."""
        x_BTH = x_BTH + rows.padded(self.attn(rows.packed(self.norms[0](x_BTH)), rotation, mask, rows))
        x_BTH = x_BTH + self.phones(self.norms[1](x_BTH), *phones)
        x_BTH = x_BTH + self.text(self.norms[2](x_BTH), *text)
        return x_BTH + self.down(F.gelu(self.up(self.norms[3](x_BTH))))


class ProsodyModel(nn.Module):
    """Embeddings of phones, layers, three values a step."""

    def __init__(self, shape: ProsodyShape):
        super().__init__()
        self.shape = shape
        self.symbols, self.flags = nn.Embedding(len(SYMBOLS), shape.dim), nn.Embedding(4, shape.dim)
        self.marks = nn.Embedding(len(MARKS), shape.dim)
        self.written = nn.Linear(VALUES, shape.dim)
        self.layers = nn.ModuleList(ProsodyLayer(shape) for _ in range(shape.layers))
        self.norm, self.out = nn.LayerNorm(shape.dim), nn.Linear(shape.dim, VALUES)
        self.rope = Rope(shape.dim // shape.heads, ROPE_THETA, None)

    def forward(self, features_BPF: Tensor, before_BTV: Tensor, known: Known) -> Tensor:
        """Values [B,T,3] in units of `SPREADS`, delayed.

        Args:
            features_BPF: symbol (-1 in padding), flags, mark and piece of each phone. before_BTV: what the step before wrote.
        """
        symbol_BP, piece_BP = features_BPF[..., 0], features_BPF[..., 3]
        real_BP1 = (symbol_BP >= 0)[..., None]
        keys_BPH = self.symbols(symbol_BP.clamp(min=0)) + self.flags(features_BPF[..., 1]) + self.marks(features_BPF[..., 2])
        steps, phones = before_BTV.shape[1], symbol_BP.shape[1]
        at_T, at_P = torch.arange(steps, device=symbol_BP.device), torch.arange(phones, device=symbol_BP.device)
        far_BTP = (at_P[None] - at_T[:, None]).expand(len(symbol_BP), -1, -1)
        sees_BTP = (far_BTP <= self.shape.ahead) & (far_BTP >= -BEHIND) & (symbol_BP >= 0)[:, None]
        now_BT = piece_BP[:, at_T.clamp(max=phones - 1)]
        far_BTS = known.pieces_BS[:, None] - now_BT[..., None]
        until_BT = (now_BT // self.shape.chunk + 1) * self.shape.chunk
        sees_BTS = (known.pieces_BS[:, None] >= 0) & (known.pieces_BS[:, None] < until_BT[..., None])
        x_BTH = self.written(before_BTV) + F.pad(keys_BPH * real_BP1, (0, 0, 0, DELAY))[:, :steps]
        rotation = self.rope(steps, None, x_BTH.device)
        mask = torch.ones(steps, steps, dtype=torch.bool, device=x_BTH.device).tril()
        rows = RealRows(torch.ones(x_BTH.shape[:2], dtype=torch.bool))  # steps behind a phrase's end are seen by none before
        for layer in self.layers:
            x_BTH = layer(x_BTH, rotation, mask, rows, (keys_BPH, far_BTP, sees_BTP), (known.states_BSD, far_BTS, sees_BTS))
        return self.out(self.norm(x_BTH))

    @torch.no_grad()
    def write(self, features_BPF: Tensor, known: Known) -> Tensor:
        """Values [B,P,3] in units of `SPREADS`, each step from what the steps before wrote."""
        steps = features_BPF.shape[1] + DELAY
        before_BTV = torch.zeros(len(features_BPF), steps, VALUES, device=features_BPF.device)
        for step in range(steps):
            now_BTV = self(features_BPF, before_BTV[:, : step + 1], known)
            if step + 1 < steps:
                before_BTV[:, step + 1] = now_BTV[:, step]
        return undelayed(torch.cat([before_BTV[:, 1:], now_BTV[:, -1:]], 1))

    def read(self, phones: Sequence[Phone], first: int, known: Known) -> Prosody:
        """The prosody of a phrase whose first piece is number `first` of the text that is known as the only row."""
        return unscaled(self.write(features([phones], [first]), known)[0])


def features(phrases: Sequence[Sequence[Phone]], firsts: Sequence[int]) -> Tensor:
    """int64 [B,P,4]: symbol, flags (stressed, last of its word), mark and piece; padding has symbol -1 and the last piece."""
    found = torch.zeros(len(phrases), max(len(phones) for phones in phrases), 4, dtype=torch.int64)
    found[..., 0] = -1
    for row, (phones, first) in enumerate(zip(phrases, firsts, strict=True)):
        rows = [[SYMBOLS.index(p.symbol), 2 * p.stressed + p.last, MARKS.index(p.mark), p.word + first] for p in phones]
        found[row, : len(rows)] = torch.tensor(rows)
        found[row, len(rows) :, 3] = rows[-1][3]
    return found


def scaled(prosody: Prosody) -> Tensor:
    """The values [P,3] of a prosody in units of `SPREADS`."""
    values = np.stack([np.log(prosody.durations_s), prosody.semitones, prosody.power_db], 1)
    return torch.from_numpy((values - np.array(MEANS)) / np.array(SPREADS)).float()


def unscaled(values_PV: Tensor) -> Prosody:
    """The inverse of `scaled`, kept to what a voice can do."""
    values = values_PV.double().cpu().numpy() * np.array(SPREADS) + np.array(MEANS)
    return Prosody(np.exp(values[:, 0].clip(-5, 0.5)), values[:, 1].clip(-24, 24), values[:, 2].clip(-30, 12))


def delayed(values_BPV: Tensor) -> Tensor:
    """Values [B,P+2,3]: the second a step later, the third two; what has no value yet, or none any more, is 0."""
    return torch.stack([F.pad(values_BPV[..., i], (i, DELAY - i)) for i in range(VALUES)], -1)


def undelayed(values_BTV: Tensor) -> Tensor:
    """The inverse of `delayed` [B,P,3]."""
    phones = values_BTV.shape[1] - DELAY
    return torch.stack([values_BTV[:, i : i + phones, i] for i in range(VALUES)], -1)


class Speaking:
    """Squared error of the three values, as the training loop takes it."""

    weights = {"prosody": 1.0}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Phones, and three values of each."""
        return {"prosody": float(VALUES * len(batch.supervised()))}

    def sums(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The sum of squares, with the values before as they truly were."""
        values_BPV, extra = batch.extra["values_BPV"], batch.extra
        before_BTV = F.pad(delayed(values_BPV), (0, 0, 1, 0))[:, :-1]
        found_BPV = undelayed(model(extra["features_BPF"], before_BTV, Known(extra["states_BSD"], extra["pieces_BS"])))
        error_BPV = (found_BPV - values_BPV) * (batch.targets_BT != IGNORED)[..., None]
        return {"prosody": error_BPV.square().sum()}, {}


def prosody_batch(phrases: Sequence[Sequence[Phone]], spoken: Sequence[Prosody], known: Known) -> Batch:
    """Texts of one phrase each, with how they were spoken."""
    features_BPF = features(phrases, [0] * len(phrases))
    symbols = features_BPF[..., 0]
    values = torch.zeros(*symbols.shape, VALUES)
    for row, prosody in enumerate(spoken):
        values[row, : len(prosody.durations_s)] = scaled(prosody)
    real = symbols >= 0
    rows = torch.arange(len(symbols))[:, None].expand_as(symbols)
    positions = torch.arange(symbols.shape[1]).expand_as(symbols).contiguous()
    extra = {"features_BPF": features_BPF, "values_BPV": values, "states_BSD": known.states_BSD, "pieces_BS": known.pieces_BS}
    return Batch(
        symbols.clamp(min=0), torch.where(real, symbols, IGNORED), positions, torch.where(real, rows, PADDING), extra=extra
    )
