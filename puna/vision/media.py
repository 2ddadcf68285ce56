"""A medium of a message as the network takes it: fetched, decoded, cut into tiles, with a key that names exactly this.

Fetching is told apart from decoding, so that whoever keeps what a medium became finds it again by its key and decodes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from puna.core.errors import InputError
from puna.tokenizer.chat import Medium
from puna.vision.fetch import MediaRules, find_file, read_url, scheme_of, shown
from puna.vision.frames import check_frames, frames_of, picked_files, read_frame
from puna.vision.tiles import ImageShape, Tiled, read_image, tiles_of

FRAMES = 16  # of a video that names no number (paper 7.3: video pre-training)
KEY_BYTES = 16


@dataclass(frozen=True, eq=False)
class Loaded:
    """A picture, or the frames of a video, as tiles. `key` is a digest of the content and of how it was cut."""

    kind: Literal["image", "video"]
    images: list[Tiled]
    key: bytes

    @property
    def bytes(self) -> int:
        """Memory its tiles take."""
        return sum(image.pixels.nbytes for image in self.images)


def load(medium: Medium, root: Path | None, rules: MediaRules, shape: ImageShape, frames: int = FRAMES) -> Loaded:
    """Fetch and decode one medium.

    Args:
        root: the folder of its file (`puna.vision.fetch`).
        shape: how pictures are cut; `detail: low` takes one tile.
        frames: of a video that does not say how many.

    Raises:
        InputError: it cannot be fetched or decoded, or is a sound.
    """
    source = fetch(medium, root, rules)
    return decode(source, medium, rules, shape, frames)


def fetch(medium: Medium, root: Path | None, rules: MediaRules) -> bytes | Path:
    """The bytes of a medium, or the folder that holds the frames of a video."""
    if medium.kind == "audio":
        raise InputError("sounds are not read yet", where=shown(medium.url), fix="send pictures or videos")
    if medium.kind == "video" and medium.frames is not None:
        check_frames(medium.frames, rules, shown(medium.url))
    if medium.kind == "video" and not scheme_of(medium.url):
        path = find_file(medium.url, root)
        if path.is_dir():
            return path
    return read_url(medium.url, rules, root)


def decode(source: bytes | Path, medium: Medium, rules: MediaRules, shape: ImageShape, frames: int = FRAMES) -> Loaded:
    """Tiles of what `fetch` found."""
    key = media_key(source, medium, rules, shape, frames)
    cut = replace(shape, max_tiles=1) if medium.detail == "low" else shape
    where = shown(medium.url)
    if medium.kind == "image":
        assert isinstance(source, bytes)
        return Loaded("image", [tiles_of(read_image(source, rules, where), cut)], key)
    images = frames_of(
        source, medium.frames or frames, rules, start=medium.start, end=medium.end, each=lambda frame: tiles_of(frame, cut),
        where=where,
    )  # fmt: skip
    return Loaded("video", images, key)


def media_key(source: bytes | Path, medium: Medium, rules: MediaRules, shape: ImageShape, frames: int = FRAMES) -> bytes:
    """16 bytes that name what `decode` makes: equal content cut alike has one key, whatever its address.

    Of a folder only the frames that are picked are read; InputError where they cannot be.
    """
    digest = blake2b(digest_size=KEY_BYTES)
    seen = (medium.frames or frames, medium.start, medium.end) if medium.kind == "video" else ()
    digest.update(repr((medium.kind, medium.detail == "low", *seen, shape)).encode())
    if isinstance(source, bytes):
        digest.update(source)
        return digest.digest()
    where = shown(medium.url)
    for file in picked_files(source, medium.frames or frames, rules, where):
        content = read_frame(file, rules, where)
        digest.update(f"\n{file.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.digest()
