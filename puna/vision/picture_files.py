"""Rows with pictures from the user's files: read and checked one by one, then chosen by text and by picture (paper 7.1).

Rows wait on disk (`puna.post.spool`); in memory there are the numbers of their media, some bytes a row. What is left out has a
reason, and the reasons are counted: a row that cannot be read, a picture that cannot be decoded, a caption in another language, a
near-duplicate, a picture that is held out, a caption that says what many others say.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, PositiveFloat

from puna.core.errors import InputError
from puna.core.settings import Portion, Settings
from puna.data.near_duplicates import components
from puna.post.collect import gold_dialog
from puna.post.formats import UnreadableRow, read_row
from puna.post.prompts import opening, prompt_id
from puna.post.spool import Spool
from puna.post.task_files import json_rows
from puna.tokenizer.dialog import Dialog, MessageRow, Preference, Provenance, Task, content_id
from puna.vision.captions import CaptionFilter, Resampling, refusals, resample
from puna.vision.converters import to_parts
from puna.vision.near_pictures import NearPictures, clusters
from puna.vision.parquet_rows import parquet_rows
from puna.vision.shelf import Shelf
from puna.vision.tar_shards import is_tar, tar_rows

SPLITS = ("train", "dev", "test")
FOLDER = "media/files"  # of the artifact
LEFT_OUT = -1  # in place of a split's number

PictureRow = Dialog | Task | Preference
Score = Callable[[Sequence[Path], Sequence[str]], np.ndarray]  # cosines of pictures and captions, float32 [pairs]


class FilePictures(Settings):
    """JSON or JSONL files with rows of any form that `puna.vision.converters` knows, or shards (tar,
    Parquet) with the pictures inside.

    Attributes:
        path: a file, a folder of JSON files, or a glob.
        media: the folder that paths of pictures start from and may not leave; by default that of the file.
        licence: SPDX identifier as the source declares it; it travels with every row.
        concluded: the licence that was found to be right, where it is another, and the `evidence` for that in words.
        teacher: the model that wrote every row that names none itself.
        ask: the question put before the caption of a pair; empty: the picture alone.
        split: where the rows go; "auto" divides them by picture.
        domains: hosts that pictures may be fetched from; empty: no web.
        max_mb: of one picture or video.
        name: what the source is called in reports; by default the last part of the path.
    """

    path: str
    media: str = ""
    licence: str = "unknown"
    concluded: str = ""
    evidence: str = ""
    teacher: str = ""
    ask: str = ""
    split: Literal["auto", "train", "dev", "test"] = "auto"
    domains: tuple[str, ...] = ()
    max_mb: PositiveFloat = 20.0
    name: str = ""

    def provenance(self) -> Provenance:
        """Of its rows, where they have none of their own."""
        return Provenance(
            source=self.name or Path(self.path).name, licence=self.licence, licence_concluded=self.concluded or None,
            evidence=self.evidence or None, teacher=self.teacher or None,
        )  # fmt: skip


class Choice(Settings):
    """How rows of files are chosen.

    Attributes:
        filter: of captions; null takes all.
        near: near-duplicate pictures; null keeps all.
        resampling: of captions for training, by n-grams; null keeps all.
        dev, test: share of the pictures held out, where a source has no split of its own.
    """

    filter: CaptionFilter | None = CaptionFilter()
    near: NearPictures | None = NearPictures()
    resampling: Resampling | None = None
    dev: Portion = 0.02
    test: Portion = 0.05


@dataclass
class FileRows:
    """Everything read so far. `media` has the numbers of the media of all rows, `ends` where each row's end among them."""

    spool: Spool
    shelf: Shelf
    media: array = field(default_factory=lambda: array("q"))
    ends: array = field(default_factory=lambda: array("q"))
    forced: bytearray = field(default_factory=bytearray)  # 0: by picture, else 1 + the number of the split
    pairs: bytearray = field(default_factory=bytearray)  # whether the row is a picture with a caption
    ranked: bytearray = field(default_factory=bytearray)  # whether the row is a preference
    bad: list[dict[str, Any]] = field(default_factory=list)

    def read(self, source: FilePictures, path: Path, pause: Callable[[], None]) -> None:
        """Take the rows of one file; `pause` is called before each."""
        root, provenance = Path(source.media) if source.media else path.parent, source.provenance()
        if is_tar(path) or path.suffix == ".parquet":  # with the pictures inside
            root = self.shelf.folder.with_name("sample")
            root.mkdir(exist_ok=True)
        for number, row in _rows(path, root, self.shelf.rules.max_bytes, self.bad):
            pause()
            try:
                found = read_row(self.formed(row, source) if isinstance(row, dict) else row, "auto", provenance, media=True)
                if any(not task.gold for task in found.tasks):
                    raise UnreadableRow("a task without a worked answer")
                usable: list[PictureRow] = [*found.dialogs, *found.tasks, *found.preferences]
                for one in usable:
                    self.add(one, root, source.split, str(row.get("id", "")))
            except (UnreadableRow, InputError) as error:
                reason = str(error) if isinstance(error, UnreadableRow) else f"{error.what}: {error.where}"
                self.bad.append({"file": path.name, "line": number, "reason": reason})

    def formed(self, row: dict[str, Any], source: FilePictures) -> dict[str, Any]:
        """A row as `puna.post.formats` reads it."""
        return to_parts(row, source.ask)

    def add(self, one: PictureRow, root: Path, split: str, given_id: str) -> None:
        """Take one row, its media read and put on the shelf; `given_id` is what its source calls it."""
        name, messages, answers = _parts(one)
        numbers = [self.shelf.take(medium, root) for message in messages for medium in message.media]
        names = iter(f"{FOLDER}/{self.shelf.names[number]}" for number in numbers)
        moved = [_moved(message, names) for message in messages]
        identity = one.id if one.id == given_id else content_id([*moved, *answers])
        kept = one.model_copy(update={"id": identity, name: moved})
        self.spool.add(kept, prompt_id(opening(moved)))
        self.media.extend(numbers)
        self.ends.append(len(self.media))
        self.forced.append(0 if split == "auto" else 1 + SPLITS.index(split))
        self.pairs.append(isinstance(one, Dialog) and one.capability == "caption" and len(numbers) == 1)
        self.ranked.append(isinstance(one, Preference))

    def first_media(self) -> np.ndarray:
        """The number of the first medium of each row, -1 without any, int64."""
        ends = np.array(self.ends, np.int64)
        starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1]])
        return np.where(ends > starts, np.append(np.array(self.media, np.int64), LEFT_OUT)[starts], LEFT_OUT)

    def media_of(self, rows: np.ndarray) -> set[int]:
        """The numbers of the media of some rows (bool [rows])."""
        return set(np.array(self.media, np.int64)[rows[self.owners()]].tolist())

    def owners(self) -> np.ndarray:
        """The row that each entry of `media` is of, int64."""
        return np.searchsorted(np.array(self.ends, np.int64), np.arange(len(self.media)), side="right")

    def captions(self, rows: np.ndarray) -> list[str]:
        """The captions of some rows that are pairs."""
        return [json.loads(line)["messages"][-1]["content"] for line in self.spool.lines(rows)]


def _rows(path: Path, root: Path, max_bytes: int, bad: list[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
    """(number, row) of a file of any kind; a JSON file may be one list, as LLaVA's are. Pictures inside a file go to `root`."""
    if is_tar(path):
        yield from tar_rows(path, root, max_bytes, bad)
        return
    if path.suffix == ".parquet":
        yield from parquet_rows(path, root, bad)
        return
    with path.open("rb") as file:
        listed = path.suffix == ".json" and file.read(64).lstrip().startswith(b"[")
    if not listed:
        yield from json_rows(path, bad)
        return
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        bad.append({"file": path.name, "line": 1, "reason": f"not JSON: {error}"})
        return
    yield from enumerate(rows, start=1)


def _moved(message: MessageRow, names: Iterator[str]) -> MessageRow:
    """The message with its media on the shelf."""
    return message.model_copy(update={"media": tuple(replace(medium, url=next(names)) for medium in message.media)})


def _parts(one: PictureRow) -> tuple[str, list[MessageRow], Sequence[BaseModel]]:
    """The field of a row that holds what shows its pictures, these messages, and the answers beside them."""
    if isinstance(one, Preference):
        if any(message.media for candidate in one.candidates for message in candidate.messages):
            raise UnreadableRow("an answer of a preference shows a picture")
        return "context", one.context, one.candidates
    return ("messages", one.messages, []) if isinstance(one, Dialog) else ("prompt", one.prompt, one.gold_messages())


@dataclass
class Chosen:
    """The number of each row's split in SPLITS, or LEFT_OUT; whether it is a preference; the picture it is about. And how many
    were left out, by reason."""

    split: np.ndarray
    ranked: np.ndarray
    reasons: Counter[str]
    shows: list[str]

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split that are no preferences."""
        return np.flatnonzero((self.split == SPLITS.index(split)) & ~self.ranked)

    def preferences(self) -> np.ndarray:
        """The preferences, all of them for training."""
        return np.flatnonzero((self.split == SPLITS.index("train")) & self.ranked)

    def leave(self, rows: np.ndarray, reason: str) -> None:
        """Leave rows out that are in a split still."""
        rows = rows[self.split[rows] != LEFT_OUT]
        self.split[rows] = LEFT_OUT
        if len(rows):
            self.reasons[reason] += len(rows)


def choose(rows: FileRows, settings: Choice, seed: int, score: Score | None = None) -> Chosen:
    """Decide for every row, in the paper's order: by text and similarity, by picture, and at last by n-grams."""
    ranked = np.frombuffer(bytes(rows.ranked), np.bool_)
    chosen = Chosen(np.zeros(len(rows.spool), np.int8), ranked, Counter(), [])
    once = np.zeros(len(rows.spool), bool)
    once[rows.spool.once(0)] = True
    chosen.leave(np.flatnonzero(~once), "the same row again")
    pairs = np.flatnonzero(np.frombuffer(bytes(rows.pairs), np.uint8))
    if settings.filter is not None:
        _filter(rows, pairs, settings.filter, score, chosen)
    pictures = np.arange(len(rows.shelf))
    if settings.near is not None and len(pictures):
        pictures = _without_duplicates(rows, settings.near, chosen)
    _divide(rows, pictures, settings, chosen)
    left = pairs[chosen.split[pairs] == 0]
    if settings.resampling is not None and len(left):
        kept = resample(rows.captions(left), settings.resampling, seed)
        chosen.leave(left[~kept], "the caption says what many others say")
    return chosen


def _filter(rows: FileRows, pairs: np.ndarray, settings: CaptionFilter, score: Score | None, chosen: Chosen) -> None:
    for reason, row in zip(refusals(rows.captions(pairs), settings), pairs, strict=True):
        if reason:
            chosen.leave(np.array([row]), f"caption: {reason}")
    left = pairs[chosen.split[pairs] != LEFT_OUT]
    if score is not None and len(left):
        paths = [rows.shelf.folder / rows.shelf.names[number] for number in rows.first_media()[left]]
        chosen.leave(left[score(paths, rows.captions(left)) < settings.similarity], "caption: unlike the picture")


def _without_duplicates(rows: FileRows, settings: NearPictures, chosen: Chosen) -> np.ndarray:
    """Leave out rows of pictures that rows before them show. Returns for each medium the first that is the same, int64.

    Rows that a source has put into dev or test all stay: a test is asked whole, and what it shows leaves training (`_divide`).
    """
    which, hashes, copies = rows.shelf.pictures()
    same = np.arange(len(rows.shelf))
    same[which] = which[clusters(hashes, copies, settings)]
    first = rows.first_media()
    held = np.frombuffer(bytes(rows.forced), np.uint8) > 1
    shown = np.flatnonzero((first != LEFT_OUT) & (chosen.split != LEFT_OUT) & ~held)
    kept = np.full(len(same), len(same))  # of each set of equal pictures the first that a row still shows
    np.minimum.at(kept, same[first[shown]], first[shown])
    chosen.leave(shown[kept[same[first[shown]]] != first[shown]], "a near-duplicate of another picture")
    if settings.rows == "one":
        shown = shown[chosen.split[shown] != LEFT_OUT]
        _, earliest = np.unique(first[shown], return_index=True)
        chosen.leave(np.delete(shown, earliest), "another row of the same picture")
    return same


def _divide(rows: FileRows, same: np.ndarray, settings: Choice, chosen: Chosen) -> None:
    """Splits by picture: rows that share one, or show near-duplicates, are never on two sides."""
    media, owner = np.array(rows.media, np.int64), rows.owners()
    beside = np.flatnonzero(owner[1:] == owner[:-1]) if len(owner) else np.zeros(0, np.int64)
    first, second = np.concatenate([same, media[beside]]), np.concatenate([np.arange(len(same)), media[beside + 1]])
    roots = components(first, second, len(same))
    of_row = rows.first_media()
    prompts = rows.spool.prompts(np.arange(len(of_row)))
    digests = [
        rows.shelf.digests[roots[number]] if number != LEFT_OUT else prompt
        for number, prompt in zip(of_row, prompts, strict=True)
    ]
    chosen.shows = [bytes(digest).ljust(16, b"\0").hex() for digest in digests]
    place = np.array([int.from_bytes(bytes(digest)[:8].ljust(8, b"\0"), "big") / 2**64 for digest in digests])
    by_picture = np.where(place < settings.test, 2, np.where(place < settings.test + settings.dev, 1, 0))
    forced = np.frombuffer(bytes(rows.forced), np.uint8).astype(np.int8) - 1
    wanted = np.where(forced >= 0, forced, by_picture).astype(np.int8)
    keep = chosen.split != LEFT_OUT
    chosen.split[keep] = wanted[keep]
    names = np.array(chosen.shows, dtype="S32")
    for held in (2, 1):  # whose pictures no split before them may show
        there = names[chosen.split == held]
        chosen.leave(np.flatnonzero((chosen.split < held) & (chosen.split >= 0) & np.isin(names, there)), "a held-out picture")
    chosen.leave(np.flatnonzero(chosen.ranked & (chosen.split > 0)), "a preference about a held-out picture")


def learnt(line: bytes, shows: str) -> Dialog | Preference | None:
    """A row of the spool as something to learn from."""
    row = json.loads(line)
    if "candidates" in row:
        preference = Preference.model_validate(row)
        return preference.model_copy(update={"provenance": marked(preference.provenance, shows)})
    dialog = gold_dialog(Task.model_validate(row)) if "verifier" in row else Dialog.model_validate(row)
    return None if dialog is None else dialog.model_copy(update={"provenance": marked(dialog.provenance, shows)})


def asked(line: bytes, shows: str, split: str) -> Task | None:
    """A row of the spool as a question with the answers that count as right; None for a dialog that does not end in one."""
    row = json.loads(line)
    if "verifier" in row:
        task = Task.model_validate(row)
        return task.model_copy(update={"split": split, "provenance": marked(task.provenance, shows)})
    dialog = Dialog.model_validate(row)
    last = dialog.messages[-1]
    if last.role != "assistant" or last.tool_calls is not None or not last.content or dialog.tools:
        return None
    prompt = dialog.messages[:-1]
    return Task(
        id=content_id({"prompt": prompt}), prompt=prompt, verifier="exact", reference=[last.content], family=dialog.capability,
        capability=dialog.capability, lang=dialog.lang, gold=last.content, split=split,
        provenance=marked(dialog.provenance, shows),
    )  # fmt: skip


def marked(provenance: Provenance, shows: str) -> Provenance:
    """The provenance with the name of the picture that a row is about, by which splits are held apart."""
    return provenance.model_copy(update={"checks": {**provenance.checks, "shows": shows}})
