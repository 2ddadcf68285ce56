"""A text model that listens (section 8.1): speech enters as embeddings between two special tokens, the text model stays frozen.

Every token of 80 ms takes one position of the text, held by a placeholder, so positions, packing and page tables need to know
nothing of sound. The adapter owns the embeddings of the two special tokens; no row of the text model's table is touched.

Shape legend: B rows, T text positions, C clips, F frames of 10 ms, M mel channels, U tokens of 80 ms, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.model.adapted import Adapted
from puna.model.llama import Llama
from puna.speech.adapter import SpeechAdapter, SpeechAdapterConfig
from puna.speech.encoder import SpeechConfig, SpeechEncoder
from puna.speech.frames import SoundShape, frames_of
from puna.train.packing import Batch


@dataclass(frozen=True)
class SpeechTokens:
    """Ids of the tokens before and after speech, and of the placeholder for 80 ms of it."""

    start: int
    end: int
    placeholder: int


class SpeechLlama(Adapted):
    """A text model with a speech encoder and its adapter.

    Args:
        text: stays frozen. sound: how its sound becomes frames (`frames_of`).
        seed: draws the weights of encoder and adapter; None leaves them unset, for loading.

    InputError where the encoder takes other channels than the frames have.
    """

    def __init__(
        self, text: Llama, speech: SpeechConfig, adapter: SpeechAdapterConfig, tokens: SpeechTokens, *,
        sound: SoundShape = SoundShape(), seed: int | None = 0,
    ):  # fmt: skip
        super().__init__()
        if speech.channels != sound.mel.channels:
            raise InputError(f"the encoder takes {speech.channels} channels and frames have {sound.mel.channels}")
        self.sound = sound
        self.encoder = SpeechEncoder(speech)
        self.adapter = SpeechAdapter(adapter, speech, text.config.dim)
        self.marks = nn.Parameter(torch.empty(2, text.config.dim))
        self.tokens = tokens
        self.swap(text)
        if seed is not None and not self.marks.is_meta:
            self.init_weights(seed)

    def attach(self, batch: Batch) -> Heard | None:
        """What a batch's clips add: `extra` has `frames_CFM`, `frames_C`; rows and clips are in the order of the placeholders."""
        if "frames_CFM" not in batch.extra or not len(batch.extra["frames_C"]):
            return None
        return Heard(self, self.listen(batch.extra["frames_CFM"], batch.extra["frames_C"]))

    def listen(self, frames_CFM: Tensor, frames_C: Tensor) -> Tensor:
        """Tokens [N,D] of all clips, one after the other."""
        states_CSD, positions_C = self.encoder(frames_CFM, frames_C)
        tokens_CUD, tokens_C = self.adapter(states_CSD, positions_C)
        real_CU = torch.arange(tokens_CUD.shape[1], device=tokens_CUD.device) < tokens_C[:, None]
        return tokens_CUD[real_CU]

    def frames_of(self, wave_N: Tensor) -> Tensor:
        """Frames [F,M] as the encoder reads them, of mono samples at `sound.mel.rate`."""
        return frames_of(wave_N, self.sound)

    def tokens_of(self, frames: int) -> int:
        """Placeholders that so many frames of 10 ms take."""
        return self.adapter.config.tokens(self.encoder.config.positions(frames))

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw what is not the text model's, each part from its own stream."""
        device = self.marks.device
        for part, name in ((self.encoder, "encoder"), (self.adapter, "adapter")):
            part.init_weights(torch.Generator(device).manual_seed(derive_seed(seed, "init", name)))
        generator = torch.Generator(device).manual_seed(derive_seed(seed, "init", "marks"))
        self.marks.normal_(0.0, self.config.dim**-0.5, generator=generator)


@dataclass
class Heard:
    """What was heard, as the text network reads it.

    Attributes:
        model: whose embeddings stand for the special tokens. speech_ND: tokens in the order of their placeholders.
    """

    model: SpeechLlama
    speech_ND: Tensor

    def embed(self, ids_BT: Tensor, embedding: nn.Embedding) -> Tensor:
        """Embeddings: the text's, the adapter's for the special tokens, what was heard for placeholders."""
        tokens, vocabulary = self.model.tokens, embedding.num_embeddings
        x_BTD = embedding(ids_BT.clamp(max=vocabulary - 1))
        for row, token in enumerate((tokens.start, tokens.end)):
            x_BTD = torch.where((ids_BT == token)[..., None], self.model.marks[row].to(x_BTD.dtype), x_BTD)
        return x_BTD.masked_scatter((ids_BT == tokens.placeholder)[..., None], self.speech_ND.to(x_BTD.dtype))

    def before(self, layer: int, x_BTD: Tensor) -> Tensor:
        """Speech is in the stream already."""
        return x_BTD
