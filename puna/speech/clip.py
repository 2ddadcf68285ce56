"""A sound as the network takes it: fetched, decoded, cut into normalised frames, with a key that names exactly these."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from puna.core.errors import InputError
from puna.speech.frames import SoundShape, frames_of
from puna.speech.sound import SoundRules, blocks
from puna.tokenizer.chat import Medium
from puna.vision.fetch import MediaRules, read_url, shown

KEY_BYTES = 16
BLOCK_S = 60.0  # decoded at once; memory is bounded by it, not by the rate of a file


@dataclass(frozen=True, eq=False)
class Clip:
    """The frames [F, M] of a sound, normalised, and a digest of them."""

    frames_FM: Tensor
    key: bytes

    @property
    def bytes(self) -> int:
        """Memory its frames take."""
        return self.frames_FM.nbytes


def clip_of(wave_N: Tensor, shape: SoundShape) -> Clip:
    """Mono samples at `shape.mel.rate` as a model reads them."""
    frames_FM = frames_of(wave_N, shape)
    return Clip(frames_FM, blake2b(frames_FM.numpy().tobytes(), digest_size=KEY_BYTES).digest())


def load_clip(medium: Medium, root: Path | None, rules: MediaRules, shape: SoundShape, sounds: SoundRules = SoundRules()) -> Clip:
    """Fetch and decode one sound.

    Args:
        root: the folder of its file (`puna.vision.fetch`). rules: what may be fetched. sounds: what is decoded.

    Raises:
        InputError: it cannot be fetched or decoded, or is a picture or a video.
    """
    return decode_clip(fetch_sound(medium, root, rules), medium, shape, sounds)


def fetch_sound(medium: Medium, root: Path | None, rules: MediaRules) -> bytes:
    """The bytes of a sound."""
    if medium.kind != "audio":
        raise InputError("this model listens and sees nothing", where=shown(medium.url), fix="leave pictures and videos out")
    return read_url(medium.url, rules, root)


def decode_clip(source: bytes, medium: Medium, shape: SoundShape, sounds: SoundRules = SoundRules()) -> Clip:
    """The clip of what `fetch_sound` found."""
    pieces = list(blocks(source, sounds, BLOCK_S, shown(medium.url)))  # silence at 768 kHz packs small and would fill gigabytes
    return clip_of(torch.cat(pieces), shape)
