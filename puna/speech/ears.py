"""What gives an engine ears: every sound is heard once, and what was heard of it is kept for whoever sends it again.

Speech enters as embeddings at its placeholders (section 8.1.1), so all there is to keep of a sound are its tokens of 80 ms. They
are laid in by position: a prompt may be computed in pieces, beside others and from kept pages, and every piece finds its own.
Rows without sound take the text model's own steps, to the same bit.

Shape legend: B rows, T text positions, U tokens of 80 ms, D text width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.infer.request import Shown
from puna.model.llama import Llama
from puna.speech.adapter import STRIDE
from puna.speech.clip import Clip
from puna.speech.files import load_speech
from puna.speech.model import SpeechLlama

HEARD_BYTES = 128 << 20  # default size of what is kept of sounds that no prompt is using

Place = tuple[Tensor, int]  # tokens of a sound with its two marks around them [U + 2, D], and the position of the first mark


class Ears:
    """The encoder and adapter of a model, for the engine of its text model (`puna.infer.sight.Eyes`).

    Args:
        most_bytes: what is kept for later prompts; prompts that are being answered hold what they hear besides.

    Attributes:
        heard: how often a sound had to be heard.
    """

    def __init__(self, model: SpeechLlama, most_bytes: int = HEARD_BYTES):
        self.model, self.most_bytes, self.heard = model, most_bytes, 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def tokens(self, clip: Clip) -> int:
        """Placeholders that a sound takes in a prompt."""
        return self.model.tokens_of(len(clip.frames_FM))

    @property
    def room(self) -> float:
        """Seconds of sound that take half of the text model's context."""
        mel, tokens = self.model.sound.mel, self.model.config.max_seq_len // 2
        return tokens * STRIDE * self.model.encoder.config.stack * mel.hop / mel.rate

    def check(self, media: Sequence[Shown]) -> None:
        """InputError for what is no sound, and for one that is too short to have a token."""
        for shown in media:
            if not isinstance(shown.medium, Clip):
                raise InputError("this model listens and sees nothing", fix="leave pictures and videos out")
            if not self.tokens(shown.medium):
                raise InputError("the sound is empty", fix="leave it out")

    def keys(self, media: Sequence[Shown]) -> list[tuple[int, bytes]]:
        """Place and key of each sound, from its first mark on, which no text knows either."""
        return [(shown.at - 1, shown.medium.key) for shown in media]

    def see(self, media: Sequence[Shown]) -> tuple[Place, ...]:
        """What is heard of each sound, and where it stands in the text."""
        return tuple((self._heard(_clip(shown)), shown.at - 1) for shown in media)

    def attach(self, rows: Sequence[tuple[Place, ...]], positions_BT: Tensor) -> Placed | None:
        """What rows hear at these positions."""
        return Placed(rows, positions_BT) if any(rows) else None

    def to(self, dtype: torch.dtype) -> None:
        """Cast encoder, adapter and marks."""
        self.model.encoder.to(dtype)
        self.model.adapter.to(dtype)
        self.model.marks.data = self.model.marks.data.to(dtype)

    def forget(self) -> None:
        """Drop what is kept: needed when the weights have changed."""
        self._kept.clear()

    @torch.no_grad()
    def _heard(self, clip: Clip) -> Tensor:
        found = self._kept.pop(clip.key, None)
        if found is None:
            self.heard += 1
            marks_2D = self.model.marks
            frames_1FM = clip.frames_FM[None].to(marks_2D.device, marks_2D.dtype)
            tokens_UD = self.model.listen(frames_1FM, torch.tensor([len(clip.frames_FM)], device=marks_2D.device))
            found = torch.cat((marks_2D[:1], tokens_UD, marks_2D[1:]))
        self._kept[clip.key] = found
        while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > self.most_bytes:
            self._kept.popitem(last=False)
        return found


@dataclass
class Placed:
    """Sounds in their places, as the text network reads them.

    Attributes:
        rows: what each row hears, and from where. positions_BT: where the rows' tokens stand.
    """

    rows: Sequence[tuple[Place, ...]]
    positions_BT: Tensor

    def embed(self, ids_BT: Tensor, embedding: nn.Embedding) -> Tensor:
        """Embeddings: the text's, and those of sounds and their marks where they stand."""
        x_BTD = embedding(ids_BT.clamp(max=embedding.num_embeddings - 1))
        low, high = int(self.positions_BT.min()), int(self.positions_BT.max())
        for b, row in enumerate(self.rows):
            for tokens_UD, at in row:
                if at > high or at + len(tokens_UD) <= low:
                    continue
                offsets_T = self.positions_BT[b] - at
                here_T = (offsets_T >= 0) & (offsets_T < len(tokens_UD))
                x_BTD[b, here_T] = tokens_UD[offsets_T[here_T]].to(x_BTD.dtype)
        return x_BTD

    def before(self, layer: int, x_BTD: Tensor) -> Tensor:
        """Speech is in the stream already."""
        return x_BTD


def open_hearing(directory: Path, dtype: torch.dtype | None, device: str) -> tuple[Llama, Ears]:
    """The text model of a `speech_model` directory and its ears, for `puna.infer.load.load_engine`."""
    model = load_speech(directory, dtype=dtype, device=device).eval()
    return model.text, Ears(model)


def _clip(shown: Shown) -> Clip:
    assert isinstance(shown.medium, Clip)
    return shown.medium
