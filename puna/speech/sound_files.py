"""Speech of the user's own: rows of files with sounds in them, manifests of recognition data, and corpora as they lie.

Rows are read, kept and divided as those of pictures are (`puna.vision.picture_files`): every sound is decoded once, what cannot
be read is listed with its reason, and rows that share a sound are in one split.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat

from puna.core.errors import InputError
from puna.core.settings import Settings
from puna.post.formats import UnreadableRow
from puna.speech.corpora import CORPORA, Utterance
from puna.speech.prompts import family_of, heard, recognition
from puna.speech.sound import SoundRules, read_sound
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, MessageRow, Provenance, Task, content_id
from puna.vision.converters import to_parts
from puna.vision.fetch import read_url, shown
from puna.vision.picture_files import FilePictures, FileRows
from puna.vision.shelf import Shelf

SOUNDS, TEXTS = ("audio", "audio_filepath", "audio_path"), ("text", "sentence", "transcription", "transcript")  # of a manifest
LONGEST = 60.0  # seconds of a segment (section 8.1.2)


class FileSounds(FilePictures):
    """JSON or JSONL files with rows whose messages have sounds in them (`audio_url`, `input_audio`), or manifests of recognition
    data: a sound (`audio`, `audio_filepath`) with its `text` or `sentence`, and `lang` where it is not that of the source.

    Attributes:
        lang: of the transcripts of a manifest.
        max_seconds: a longer sound is refused.
    """

    lang: str = "en"
    max_seconds: PositiveFloat = LONGEST


class CorpusSounds(Settings):
    """A corpus in the layout of `puna.speech.corpora`, its own splits kept; rows of recognition.

    Attributes:
        corpus: whose layout. path: its folder.
        licence: SPDX identifier as the corpus declares it; it travels with every row.
        name: what the source is called in reports; by default that of the corpus.
    """

    corpus: Literal["librispeech", "common_voice", "fleurs"]
    path: str
    licence: str = "unknown"
    max_seconds: PositiveFloat = LONGEST
    max_mb: PositiveFloat = 20.0
    limit: int | None = Field(default=None, ge=1)
    name: str = ""


class SoundShelf(Shelf):
    """Sounds, kept once by content. `seconds` has the length of each."""

    max_seconds = LONGEST

    def __init__(self, folder: Path, log: Path, rules: Any):
        super().__init__(folder, log, rules)
        self.seconds = array("d")

    def _fetch(self, medium: Medium, root: Path) -> bytes:
        if medium.kind != "audio":
            raise InputError("this is a picture or a video and no sound", where=shown(medium.url))
        return read_url(medium.url, self.rules, root)

    def _look(self, source: bytes | Path, medium: Medium) -> dict[str, Any]:
        return {"seconds": read_sound(source, SoundRules(self.rules.max_bytes, self.max_seconds), shown(medium.url)).seconds}

    def _note(self, about: dict[str, Any], medium: Medium) -> None:
        self.seconds.append(about["seconds"])


@dataclass
class SoundRows(FileRows):
    """Rows of files and corpora, read one by one."""

    shelf: SoundShelf

    def formed(self, row: dict[str, Any], source: FilePictures) -> dict[str, Any]:
        """A row as `puna.post.formats` reads it; `capability` says which family it is of."""
        assert isinstance(source, FileSounds)
        return manifest(row, source.lang) or to_parts(with_urls(row))

    def corpus(self, source: CorpusSounds, pause: Callable[[], None]) -> None:
        """Take the utterances of a corpus; `pause` is called before each."""
        provenance = Provenance(source=source.name or source.corpus, licence=source.licence)
        root = Path(source.path).resolve()
        for number, one in enumerate(CORPORA[source.corpus](root, self.bad)):
            if number == source.limit:
                break
            pause()
            try:
                self.add(_dialog(one, root, provenance), root, one.split, "")
            except InputError as error:
                self.bad.append({"file": one.path.name, "line": number + 1, "reason": f"{error.what}: {error.where}"})


def _dialog(one: Utterance, root: Path, provenance: Provenance) -> Dialog:
    messages = [
        *heard(str(one.path.resolve().relative_to(root)), recognition(one.lang)), MessageRow(role="assistant", content=one.text)
    ]  # fmt: skip
    checks = {"speaks": one.lang, **({"voice": one.speaker} if one.speaker else {})}
    return Dialog(
        id=content_id(messages), messages=messages, lang=one.lang, capability="transcribe",
        provenance=provenance.model_copy(update={"checks": checks}),
    )  # fmt: skip


def tables_of(root: Path) -> list[Path]:
    """The files of a corpus that say what its sounds say."""
    return sorted(path for ending in ("*.tsv", "*.trans.txt") for path in root.rglob(ending))


def manifest(row: dict[str, Any], lang: str) -> dict[str, Any] | None:
    """A sound with its text, as NeMo's manifests and Hugging Face's data sets have them, as a dialog; None for another row.

    Raises UnreadableRow for a language without a name.
    """
    sound = next((row[name] for name in SOUNDS if row.get(name)), None)
    sound = sound.get("path") if isinstance(sound, dict) else sound
    text = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), "").strip()
    if not isinstance(sound, str) or not text or "messages" in row:
        return None
    code = str(row.get("lang") or lang)
    try:
        system = {"role": "system", "content": recognition(code)}
    except InputError as error:
        raise UnreadableRow(error.what) from None
    user = {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": sound}}]}
    kept: dict[str, Any] = {name: row[name] for name in ("id", "provenance") if name in row}
    return {**kept, "lang": code, "messages": [system, user, {"role": "assistant", "content": text}]}


def with_urls(row: dict[str, Any]) -> dict[str, Any]:
    """The row with Hugging Face's parts of type `audio` as OpenAI's would be."""
    return {**row, **{name: [_turn(turn) for turn in row[name]] for name in ("messages", "prompt") if _is_chat(row.get(name))}}


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(turn, dict) for turn in value)


def _turn(turn: dict[str, Any]) -> dict[str, Any]:
    content = turn.get("content")
    return {**turn, "content": [_part(part) for part in content]} if isinstance(content, list) else turn


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "audio":
        url = next((part[key] for key in ("url", "path", "audio") if isinstance(part.get(key), str)), None)
        if url is None:
            raise UnreadableRow("a sound without a path or an address")
        return {"type": "audio_url", "audio_url": {"url": url}}
    return part


def named(row: Dialog | Task, seconds: float) -> Dialog | Task:
    """A row of a split with its family, by its system prompt, and the length of its sound."""
    family = family_of(row.messages if isinstance(row, Dialog) else row.prompt)
    checks = {**row.provenance.checks, "seconds": round(seconds, 3)}
    update: dict[str, Any] = {"capability": family, "provenance": row.provenance.model_copy(update={"checks": checks})}
    return row.model_copy(update=update if isinstance(row, Dialog) else {**update, "family": family})
