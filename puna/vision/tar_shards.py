"""Rows out of WebDataset shards: tar files in which the members of one sample follow each other and share a name up to its first
dot, as img2dataset writes them (`000123.jpg`, `000123.txt`, `000123.json`).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from puna.vision.converters import LISTS

ENDINGS = {
    "images": ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2"),
    "videos": ("mp4", "webm", "mkv", "mov", "avi"),
}
NAMES = ("tar", "tgz")  # endings of such files; one more (`.gz`) may follow


def is_tar(path: Path) -> bool:
    """Whether a file is a shard, by its name."""
    return any(part in NAMES for part in path.name.lower().split(".")[1:])


def tar_rows(path: Path, folder: Path, max_bytes: int, bad: list[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
    """(number, row) of each sample of a shard, as `puna.vision.converters.to_parts` takes it.

    The files of a sample lie in `folder`, under their own names, until the next one is asked for. A shard that breaks off and
    samples that cannot be read go to `bad`.

    Args:
        max_bytes: larger members are left out, and with them the samples that need them.
    """
    number = 0
    try:
        with tarfile.open(path, "r|*") as shard:
            for number, (_, members) in enumerate(groupby(filter(tarfile.TarInfo.isreg, shard), _sample), start=1):
                files = {PurePosixPath(m.name).name: shard.extractfile(m).read() for m in members if m.size <= max_bytes}  # type: ignore[union-attr]
                try:
                    row = _row(files)
                except ValueError as error:
                    bad.append({"file": path.name, "line": number, "reason": f"not JSON: {error}"})
                    continue
                for name in (media := _media(files)):
                    (folder / name).write_bytes(files[name])
                yield number, row
                for name in media:
                    (folder / name).unlink()
    except (tarfile.TarError, EOFError, OSError) as error:
        bad.append({"file": path.name, "line": number + 1, "reason": f"the file breaks off: {error}"})


def _sample(member: tarfile.TarInfo) -> str:
    """What the members of one sample share: folder and name up to the first dot."""
    path = PurePosixPath(member.name)
    return str(path.parent / path.name.partition(".")[0])


def _media(files: dict[str, bytes]) -> list[str]:
    return [name for name in files if any(_ends(name, endings) for endings in ENDINGS.values())]


def _row(files: dict[str, bytes]) -> Any:
    """The sample's JSON, with its text as the caption and its files in lists where the JSON itself does not name them."""
    told: Any = next((json.loads(content) for name, content in files.items() if _ends(name, ("json",))), {})
    if not isinstance(told, dict):
        return told
    text = next((content.decode("utf-8", "replace").strip() for name, content in files.items() if _ends(name, ("txt",))), "")
    row = told if told.get("caption") or not text else {**told, "caption": text}
    turns = row.get("messages", row.get("conversations"))
    names_files = any(row.get(name) for names in LISTS.values() for name in names)
    parts = isinstance(turns, list) and any(isinstance(turn, dict) and isinstance(turn.get("content"), list) for turn in turns)
    if names_files or parts:
        return row
    return {**row, **{key: [name for name in files if _ends(name, endings)] for key, endings in ENDINGS.items()}}


def _ends(name: str, endings: tuple[str, ...]) -> bool:
    return name.lower().rpartition(".")[2] in endings
