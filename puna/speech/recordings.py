"""Recordings of training rows, decoded once and kept: the CPU that decodes and transforms again every epoch starves the rest.

What fits the limit stays, first come, first kept, as log-mel frames, or as samples where samples are changed before every use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor

from puna.speech.features import MelConfig, log_mel
from puna.speech.sound import SoundRules, at_rate, read_sound
from puna.tokenizer.chat import Medium
from puna.vision.fetch import read_url, shown
from puna.vision.tile_store import OWN_FILES

OWN_SOUNDS = SoundRules(max_bytes=OWN_FILES.max_bytes, max_seconds=3600.0)  # of rows to learn from: their owner put them there

Form = Literal["frames", "samples"]


class Recordings:
    """Looks recordings up, decodes them where they are not kept.

    Args:
        mel: how they become frames. limit: bytes to keep. form: in which they are wanted, and kept.
    """

    def __init__(self, mel: MelConfig, limit: int, form: Form = "frames"):
        self.mel, self.limit, self.form = mel, limit, form
        self.bytes = 0
        self._kept: dict[tuple[Path, str], Tensor] = {}

    def __call__(self, medium: Medium, root: Path) -> Tensor:
        """Log-mel frames [F, M], or samples [N] at `mel.rate`, of a sound of a row in a file of the folder `root`.

        InputError where it cannot be read.
        """
        found = self._kept.get((root, medium.url))
        if found is None:
            wave_N = at_rate(read_sound(read_url(medium.url, OWN_FILES, root), OWN_SOUNDS, shown(medium.url)), self.mel.rate)
            found = wave_N if self.form == "samples" else log_mel(wave_N, self.mel)
            if self.bytes + found.nbytes <= self.limit:
                self._kept[root, medium.url] = found
                self.bytes += found.nbytes
        return found

    def count(self, medium: Medium, root: Path) -> int:
        """Frames of a sound, unchanged."""
        found = self(medium, root)
        return self.mel.frames(len(found)) if self.form == "samples" else len(found)

    def frames(self, medium: Medium, root: Path) -> Tensor:
        """Log-mel frames [F, M] of a sound, unchanged."""
        found = self(medium, root)
        return log_mel(found, self.mel) if self.form == "samples" else found
