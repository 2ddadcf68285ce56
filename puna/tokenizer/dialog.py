"""Rows of post-training data as JSONL: dialogs, preferences, tasks and samples, each with its provenance (paper 4.2).

Tool calls and tool descriptions stay JSON *strings*: columnar readers fill the missing keys of nested arguments with nulls, and
the template would then print them. An id is the hash of the content, so equal rows are equal everywhere. A message with pictures
or videos is written as OpenAI's content parts; in memory its `content` is the text alone, and `media` says what stands where.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from puna.core.errors import InputError
from puna.tokenizer.chat import Medium, Message, check_places

TERMS = ("licence_concluded", "evidence", "teacher_licence", "judge_licence")  # of a provenance: known of few rows
PARTS = {  # keys of a content part that names a medium, and the fields of `Medium` they are
    "image_url": {"url": "url", "detail": "detail"},
    "video_url": {"url": "url", "num_frames": "frames", "start": "start", "end": "end"},
    "audio_url": {"url": "url"},
}
PART_TYPES = ("text", *PARTS, "input_audio")
Strength = Literal["significantly", "better", "slightly", "marginally"]


class Row(BaseModel):
    """Base of every row: unknown keys are refused, attributes of dataclasses are accepted for nested rows."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


class Provenance(Row):
    """Where a row comes from: source, licence (SPDX id), the models that wrote and judged it, round, parent rows, checks.

    `licence` is what the source declares; `licence_concluded`, with its `evidence`, is what was found to be right, and counts.
    `teacher_licence` and `judge_licence` are the terms of these models' outputs.
    """

    source: str
    licence: str
    teacher: str | None = None
    judge: str | None = None
    round: int | None = None
    parents: list[str] = Field(default_factory=list)  # a literal would be copied deeply for every row
    checks: dict[str, Any] = Field(default_factory=dict)
    licence_concluded: str | None = None
    evidence: str | None = None
    teacher_licence: str | None = None
    judge_licence: str | None = None


class MessageRow(Row):
    """`puna.tokenizer.chat.Message` as a row; `render` takes either. In a file, media are parts of the content."""

    role: Literal["system", "user", "assistant", "ipython"]
    content: str = ""
    tool_calls: str | None = None
    end: Literal["eot", "eom"] = "eot"
    train: bool | None = None
    media: tuple[Medium, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _content_of_parts(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("content"), list):
            return value
        if value.get("media"):
            raise ValueError("media stand in the content's parts, or in `media` beside a text, not in both")
        content, media = read_parts(value["content"])
        return {**value, "content": content, "media": media}

    @model_validator(mode="after")
    def _calls_end_in_eom(self) -> MessageRow:
        if self.tool_calls is not None:
            self.end = "eom"
        check_places(self.content, self.media)
        return self

    @model_serializer(mode="wrap")
    def _parts_of_content(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        row = write(self)
        row.pop("media", None)
        return {**row, "content": write_parts(self.content, self.media)} if self.media else row

    def message(self) -> Message:
        """The same as a plain `Message`."""
        return Message(self.role, self.content, self.tool_calls, self.end, self.train, self.media)


def read_parts(parts: Sequence[Any]) -> tuple[str, list[dict[str, Any]]]:
    """Text and media of OpenAI's content parts; each medium as fields of `Medium`, unchecked.

    `video_url` (with `num_frames`, `start`, `end`) and `audio_url` are vLLM's additions; OpenAI's `input_audio`, base64 with the
    name of its format, becomes a `data:` URL. ValueError for any other part.
    """
    content, media = "", []
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            content += part["text"]
            continue
        if kind == "input_audio":
            media.append({"at": len(content), "kind": "audio", "url": _audio_url(part, number)})
            continue
        about = part.get(kind) if isinstance(kind, str) and kind in PARTS else None
        if not isinstance(kind, str) or not isinstance(about, dict) or "url" not in about:
            known = ", ".join(f'"{name}": {{"url": ...}}' for name in PARTS)
            raise ValueError(f'content.{number}: a part has a type, and under its name what it holds: "text": ..., {known}')
        if unknown := about.keys() - PARTS[kind].keys():
            raise ValueError(f"content.{number}: {kind} has no '{min(unknown)}'")
        named = {PARTS[kind][key]: value for key, value in about.items() if value is not None}
        media.append({"at": len(content), "kind": kind.removesuffix("_url"), **named})
    return content, media


def _audio_url(part: dict[str, Any], number: int) -> str:
    """The `data:` URL of an `input_audio` part."""
    about = part.get("input_audio")
    known = isinstance(about, dict) and about.keys() == {"data", "format"}
    if not known or not all(isinstance(value, str) for value in about.values()):  # type: ignore[union-attr]
        raise ValueError(f'content.{number}: input_audio holds "data", in base64, and "format", such as "wav"')
    return f"data:audio/{about['format']};base64,{about['data']}"  # type: ignore[index]


def write_parts(content: str, media: Sequence[Medium]) -> list[dict[str, Any]]:
    """Content parts of a message: the inverse of `read_parts`, neighbouring texts joined, what is not set left out."""
    parts, done = list[dict[str, Any]](), 0
    for medium in media:
        if medium.at > done:
            parts.append({"type": "text", "text": content[done : medium.at]})
        kind = f"{medium.kind}_url"
        about = {key: getattr(medium, name) for key, name in PARTS[kind].items()}
        parts.append({"type": kind, kind: {key: value for key, value in about.items() if value is not None}})
        done = medium.at
    return parts if done == len(content) else [*parts, {"type": "text", "text": content[done:]}]


def media_of(messages: Sequence[MessageRow]) -> list[Medium]:
    """The media of messages, in the order of their tokens."""
    return [medium for message in messages for medium in message.media]


def without_media(messages: Sequence[MessageRow]) -> list[MessageRow]:
    """The messages with their text alone."""
    return [message.model_copy(update={"media": ()}) for message in messages]


class Dialog(Row):
    """A conversation to learn from. `tools` is a JSON array of function descriptions as a string."""

    id: str
    messages: list[MessageRow]
    tools: str | None = None
    lang: str = "en"
    capability: str = "general"
    provenance: Provenance


class Candidate(Row):
    """One answer to a context: its messages, who wrote it, and a score if it has one."""

    messages: list[MessageRow]
    origin: str
    score: float | None = None


class Preference(Row):
    """Answers to one context, ranked: `ranking` lists candidate indices from best to worst (edited > chosen > rejected).

    `tools` as in `Dialog`, offered in the context.
    """

    id: str
    context: list[MessageRow]
    tools: str | None = None
    candidates: list[Candidate]
    ranking: list[int]
    strength: Strength = "better"
    kind: str = "verifier"
    provenance: Provenance

    @model_validator(mode="after")
    def _ranking_names_candidates(self) -> Preference:
        known = range(len(self.candidates))
        if len(self.ranking) < 2 or len(set(self.ranking)) != len(self.ranking) or any(i not in known for i in self.ranking):
            raise ValueError("ranking must name at least two different candidates by index")
        return self


class Task(Row):
    """A prompt whose answer can be checked: `verifier` names the check, `reference` is what it compares with.

    `gold` is a worked answer, a text or messages; `constraint` is a further demand on the answer's form.
    """

    id: str
    prompt: list[MessageRow]
    verifier: str
    reference: Any = None
    constraint: dict[str, Any] | None = None
    family: str = ""
    capability: str = "general"
    lang: str = "en"
    gold: str | list[MessageRow] | None = None
    split: str = ""
    provenance: Provenance

    def gold_messages(self) -> list[MessageRow]:
        """The worked answer as messages; empty if there is none."""
        if self.gold is None:
            return []
        return [MessageRow(role="assistant", content=self.gold)] if isinstance(self.gold, str) else self.gold


class Sample(Row):
    """One generated answer: the policy that wrote it (its digest), how it was drawn, its ids and text, and its scores."""

    task_id: str
    policy: str
    temperature: float
    seed: int
    ids: list[int]
    text: str
    finished: bool
    scores: dict[str, float] = Field(default_factory=dict)


RowT = TypeVar("RowT", bound=BaseModel)
BadRow = Callable[[str, int, str], None]


def read_rows(path: str | Path, cls: type[RowT], bad: BadRow | None = None) -> Iterator[RowT]:
    """Rows of a JSONL file, checked, one by one; blank lines are skipped.

    A malformed row raises InputError with file and line, or goes to `bad(path, line number, reason)` when that is given.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("the file does not exist", where=str(path), fix="check the path")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = cls.model_validate_json(line)
            except ValidationError as error:
                reason = reason_of(error)
                if bad is None:
                    raise InputError(
                        f"malformed {cls.__name__} row: {reason}",
                        where=f"{path}:{number}",
                        fix="mend that line, or make the artifact again",
                    ) from None
                bad(str(path), number, reason)
                continue
            yield row


def write_rows(path: str | Path, rows: Iterable[BaseModel]) -> int:
    """Write rows as JSONL (UTF-8, keys in the order of the fields); returns how many."""
    count = 0
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(row_line(row))
            count += 1
    return count


def row_line(row: BaseModel) -> str:
    """A row as `write_rows` writes it, its line end included; terms that nobody has named are left out."""
    value = row.model_dump(mode="json")
    provenance = value.get("provenance")
    if provenance is not None:
        for name in TERMS:
            if provenance[name] is None:
                del provenance[name]
    return json.dumps(value, ensure_ascii=False) + "\n"


def content_id(value: Any) -> str:
    """16 hex digits of the sha256 of a value's canonical JSON (sorted keys, no spaces); rows may be nested in it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Message):
        return MessageRow.model_validate(value).model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")


def reason_of(error: ValidationError) -> str:
    """The first thing wrong with a row, behind the name of its field."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
