"""Pictures and videos of the user's files, kept once by content: read, looked at, and copied into the artifact.

What cannot be decoded is found here, before any training. A killed stage goes on where it was: what a line of `media.jsonl` tells
need not be decoded again.
"""

from __future__ import annotations

import json
from array import array
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from puna.core.errors import InputError
from puna.tokenizer.chat import Medium
from puna.vision.fetch import MediaRules, shown
from puna.vision.frames import frame_files, frames_of
from puna.vision.media import fetch
from puna.vision.near_pictures import COPY_BYTES, dhash, small_copy
from puna.vision.tiles import read_image

LOOKED_AT = 2  # frames of a video that are decoded to see that it can be
ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp"}  # the others have none
DIGEST_BYTES = 16


class Shelf:
    """Media numbered in the order in which they were first seen.

    Attributes:
        names: path of each below the folder.
        digests: of the content of each, DIGEST_BYTES.
    """

    def __init__(self, folder: Path, log: Path, rules: MediaRules):
        self.folder, self.rules = folder, rules
        self.names, self.digests, self._numbers = list[str](), list[bytes](), dict[bytes, int]()
        self._hashes, self._places, self._pictures = array("Q"), array("q"), bytearray()
        folder.mkdir(parents=True, exist_ok=True)
        self._log, self._copies = log, log.with_suffix(".copies")
        self._copies.touch()
        self._looked = {line["digest"]: line for line in _lines(log)}

    def __len__(self) -> int:
        return len(self.names)

    def take(self, medium: Medium, root: Path) -> int:
        """The number of a medium; InputError if it cannot be read or decoded."""
        try:
            source = self._fetch(medium, root)
        except OSError as error:
            raise InputError(f"the file cannot be read ({error.strerror})", where=shown(medium.url)) from error
        digest = _digest(source, medium.kind)
        if digest not in self._numbers:
            about = self._looked.get(digest.hex())
            if about is None or not (self.folder / about["name"]).exists():
                about = self._add(source, medium, digest)
            self._numbers[digest] = len(self.names)
            self.names.append(about["name"])
            self.digests.append(digest)
            self._note(about, medium)
        return self._numbers[digest]

    def pictures(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pictures among the media: their numbers int64, hashes uint64 and small copies uint8 [pictures, COPY_BYTES]."""
        which = np.flatnonzero(np.frombuffer(bytes(self._pictures), np.uint8))
        places = np.array(self._places, np.int64)[which]
        if not len(which):
            return which, np.zeros(0, np.uint64), np.zeros((0, COPY_BYTES), np.uint8)
        copies = np.memmap(self._copies, np.uint8, "r", shape=(self._copies.stat().st_size // COPY_BYTES, COPY_BYTES))
        in_order = np.array_equal(places, np.arange(len(copies)))  # then they stay in their file
        return which, np.array(self._hashes, np.uint64)[which], copies if in_order else copies[places]

    def _fetch(self, medium: Medium, root: Path) -> bytes | Path:
        """The content of a medium."""
        return fetch(medium, root, self.rules)

    def _look(self, source: bytes | Path, medium: Medium) -> dict[str, Any]:
        """What a new medium is known by besides its content; InputError if it cannot be decoded."""
        where = shown(medium.url)
        if medium.kind == "image":
            assert isinstance(source, bytes)
            image = read_image(source, self.rules, where)
            return {"hash": f"{dhash(image):016x}", "copy": self._keep_copy(small_copy(image))}
        frames_of(source, LOOKED_AT, self.rules, start=medium.start, end=medium.end, each=lambda frame: None, where=where)
        return {"hash": "0", "copy": -1}

    def _note(self, about: dict[str, Any], medium: Medium) -> None:
        """Keep in memory what `_look` found of the medium that comes next."""
        self._hashes.append(int(about["hash"], 16))
        self._places.append(about["copy"])
        self._pictures.append(medium.kind == "image")

    def _add(self, source: bytes | Path, medium: Medium, digest: bytes) -> dict[str, Any]:
        """Decode a new medium and put it on the shelf; its line in the log comes last."""
        seen = self._look(source, medium)
        name = f"{digest.hex()[:2]}/{digest.hex()}"
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(source, Path):
            path.mkdir(exist_ok=True)
            for file in frame_files(source):
                (path / file.name).write_bytes(file.read_bytes())
        else:
            name += next((ending for start, ending in ENDINGS.items() if source.startswith(start)), "")
            (self.folder / name).write_bytes(source)
        about = {"digest": digest.hex(), "name": name, **seen}
        with self._log.open("a") as log:
            log.write(json.dumps(about) + "\n")
        return about

    def _keep_copy(self, copy: np.ndarray) -> int:
        """Put a small copy into its file; returns its place there, in copies."""
        with self._copies.open("r+b") as file:
            place = file.seek(0, 2) // COPY_BYTES  # over what a kill left torn
            file.seek(place * COPY_BYTES)
            file.write(copy.tobytes())
        return place


def _digest(source: bytes | Path, kind: str) -> bytes:
    digest = blake2b(kind.encode(), digest_size=DIGEST_BYTES)
    for content in [source] if isinstance(source, bytes) else (file.read_bytes() for file in frame_files(source)):
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()


def _lines(log: Path) -> list[dict[str, Any]]:
    """Whole lines of the log; a kill may have torn the last."""
    found = []
    for line in log.read_bytes().splitlines() if log.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
