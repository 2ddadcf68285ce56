"""Rows with pictures as other people write them, to rows whose messages have OpenAI's content parts, and back.

* LLaVA and ShareGPT: `conversations` (or `messages`) with `<image>` and `<video>` in the text, `image`, `images`, `video` or
  `videos` beside them, in the order of the tags. The line break between a tag and the text belongs to the tag. Where a row has
  videos and no images, `<image>` stands for a video, as in LLaVA's video data.
* Hugging Face: parts of type `image` and `video` with a `url`, `path` or `image`, or with the files listed in the row (TRL).
* pairs: an `image` with a `caption` or `text`; questions: an `image` with a `question` and its `answer` or `answers`;
  preferences: `chosen` and `rejected`, with `prompt` or `question` or as whole conversations.

`puna.post.formats` reads what comes out, so roles, tools and provenance are understood here as there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from puna.post.formats import UnreadableRow
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import PARTS, Dialog, MessageRow, write_parts

Supply = Iterator[tuple[str, Any]]  # files that no place in the text has taken yet: kind, entry of a column
LISTS = {"image": ("images", "image", "image_path"), "video": ("videos", "video", "video_path")}  # columns that name files
PLACES = ("url", "path", "image", "video", "file")  # keys of a part or of a column's entry that name one
_TAG = re.compile(r"(\n?)<(image|video)>(\n?)")
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "ipython": "observation"}


def to_parts(row: dict[str, Any], ask: str = "") -> dict[str, Any]:
    """A row of any of these forms as one that `puna.post.formats.read_row` reads, its media as content parts.

    Args:
        ask: the question put before the caption of a pair; without one the picture alone is the prompt.

    Raises:
        UnreadableRow: the files and the places in the text that they should stand at are not of one number.
    """
    if (isinstance(row.get("prompt"), list) and "verifier" in row) or {"context", "candidates"} <= row.keys():
        return row
    files = {kind: [entry for name in names for entry in _entries(row.get(name))] for kind, names in LISTS.items()}
    if "chosen" in row and "rejected" in row:
        return _ranked(row, files)
    turns = row.get("messages", row.get("conversations"))
    return _question(row, files, ask) if turns is None else {**row, "messages": _messages(turns, files)}


def _messages(turns: Any, files: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Messages with the row's files at their places."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise UnreadableRow("its messages are no list of objects")
    supplies: dict[str, Supply] = {kind: iter([(kind, entry) for entry in found]) for kind, found in files.items()}
    if not files["image"]:
        supplies["image"] = supplies["video"]
    messages = [_turn(turn, supplies) for turn in turns]
    left = [_part(kind, _url(entry)) for supply in supplies.values() for kind, entry in supply]
    _place(left, messages, sum(map(len, files.values())))
    return messages


def _ranked(row: dict[str, Any], files: dict[str, list[Any]]) -> dict[str, Any]:
    """Two answers to one prompt, or two conversations that begin alike."""
    asked = row.get("prompt") or row.get("question")
    if asked:
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        return {**row, "prompt": _messages(turns, files)}
    return {**row, **{side: _messages(row[side], files) for side in ("chosen", "rejected")}}


def _question(row: dict[str, Any], files: dict[str, list[Any]], ask: str) -> dict[str, Any]:
    """A pair, or a question with the answers that count as right."""
    media = [_part(kind, _url(entry)) for kind, entries in files.items() for entry in entries]
    if not media:
        raise UnreadableRow(f"no known row shape has the keys {sorted(row)[:8]}")
    if "question" in row:
        answers = [_answer(answer) for answer in _entries(row.get("answers", row.get("answer")))]
        if not answers:
            raise UnreadableRow("a question without an answer")
        prompt = [{"role": "user", "content": [*media, {"type": "text", "text": str(row["question"])}]}]
        kept: dict[str, Any] = {key: row[key] for key in ("lang", "capability", "provenance", "family") if key in row}
        return {"family": "vqa", **kept, "prompt": prompt, "verifier": "exact", "reference": answers, "gold": most_given(answers)}
    caption = next((row[key] for key in ("caption", "text") if isinstance(row.get(key), str)), "")
    if not caption.strip():
        raise UnreadableRow("a picture without a caption")
    asked = [{"role": "user", "content": [*media, {"type": "text", "text": ask}] if ask else media}]
    return {"capability": "caption", **row, "messages": [*asked, {"role": "assistant", "content": caption.strip()}]}


def most_given(answers: Sequence[str]) -> str:
    """The answer that most annotators gave, the first of equals."""
    return max(answers, key=answers.count)


def _answer(given: Any) -> str:
    """An annotator's answer: a text, a number, or as VQA v2 writes it."""
    return str(given["answer"] if isinstance(given, dict) else given)


def _entries(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _url(entry: Any) -> str:
    """The address in a column's entry or in a part."""
    found = entry
    if isinstance(entry, dict):
        found = next((entry[key] for key in PLACES if entry.get(key)), None)
        found = found["url"] if isinstance(found, dict) else found
    if not isinstance(found, str) or not found:
        raise UnreadableRow("a picture or a video without a path or an address")
    return found


def _part(kind: str, url: str, **more: Any) -> dict[str, Any]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url, **more}}


def _turn(turn: dict[str, Any], supplies: dict[str, Supply]) -> dict[str, Any]:
    """One message with its media in parts; tags and parts without an address take the next file of the row."""
    name = "content" if "content" in turn else "value"
    content = turn.get(name)
    if isinstance(content, str) and _TAG.search(content):
        content = _untagged(content, supplies)
    elif isinstance(content, list):
        content = [_spelled(part, supplies) for part in content]
    return {**{key: value for key, value in turn.items() if key != "value"}, "content": content}


def _untagged(text: str, supplies: dict[str, Supply]) -> list[dict[str, Any]]:
    """The text around the tags, and a part for each; a line break after a tag, or before one that ends the text, goes with it."""
    parts, done = list[dict[str, Any]](), 0
    for tag in _TAG.finditer(text):
        begin, end = tag.span()
        if tag[1] and end < len(text):
            begin += 1  # it ends the line before
        if begin > done:
            parts.append({"type": "text", "text": text[done:begin]})
        parts.append(_next(supplies[tag[2]]))
        done = end
    return [*parts, {"type": "text", "text": text[done:]}] if done < len(text) else parts


def _spelled(part: Any, supplies: dict[str, Supply]) -> Any:
    """A part in OpenAI's spelling; one that is no medium as it is."""
    kind = str(part.get("type", "text") if isinstance(part, dict) else "")
    if kind in ("image", "video"):
        has_place = any(part.get(key) for key in PLACES)
        return _part(kind, _url(part)) if has_place else _next(supplies[kind])
    if kind in PARTS and isinstance(part.get(kind), str):
        return _part(kind.removesuffix("_url"), part[kind])
    return {"type": "text", **part} if kind == "text" else part


def _next(supply: Supply) -> dict[str, Any]:
    kind, entry = next(supply, ("", None))
    if not kind:
        raise UnreadableRow("there are more places for pictures and videos than files")
    return _part(kind, _url(entry))


def _place(left: list[dict[str, Any]], messages: list[dict[str, Any]], files: int) -> None:
    """Put files for which no message has a place before the first question; where others have one, they are too many."""
    if not left:
        return
    users = [message for message in messages if message.get("role", message.get("from")) in ("user", "human")]
    if len(left) < files or not users:
        raise UnreadableRow(f"there are {files} files of pictures and videos, and places for {files - len(left)}")
    content = users[0]["content"]
    users[0]["content"] = [*left, *(content if isinstance(content, list) else [{"type": "text", "text": content}])]


def as_llava(dialog: Dialog) -> dict[str, Any]:
    """A dialog as LLaVA and ShareGPT write it, its media in the lists `images` and `videos`.

    Raises:
        ValueError: a message says what the form has no word for: a tag as text, a tool, a stretch of a video.
    """
    turns, files = [], {"image": list[str](), "video": list[str]()}
    for message in dialog.messages:
        _check_plain(message)
        if _TAG.search(message.content):
            raise ValueError("the text has a tag in it")
        turns.append({"from": SHAREGPT[message.role], "value": _tagged(message)})
        for medium in message.media:
            files[medium.kind].append(medium.url)
    lists = {f"{kind}s": found for kind, found in files.items() if found}
    return {"id": dialog.id, **lists, "conversations": turns, **_about(dialog)}


def as_hf(dialog: Dialog) -> dict[str, Any]:
    """A dialog with parts as transformers' processors take them; ValueError as of `as_llava`."""
    messages = []
    for message in dialog.messages:
        _check_plain(message)
        parts = [_hf_part(part) for part in write_parts(message.content, message.media)]
        messages.append({"role": message.role, "content": parts if message.media else message.content})
    return {"id": dialog.id, "messages": messages, **_about(dialog)}


def _check_plain(message: MessageRow) -> None:
    """ValueError for what only our rows and OpenAI's parts can say."""
    if message.tool_calls is not None or message.train is not None or message.end != "eot":
        raise ValueError("a message calls a tool, leaves the turn open, or says whether it is trained on")
    if any(medium != Medium(medium.at, medium.kind, medium.url) or medium.kind not in LISTS for medium in message.media):
        raise ValueError("a picture or a video with a detail, a stretch or a number of frames, or a sound")


def _hf_part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    return part if kind == "text" else {"type": kind.removesuffix("_url"), "url": part[kind]["url"]}


def _about(dialog: Dialog) -> dict[str, Any]:
    return {"lang": dialog.lang, "capability": dialog.capability, "provenance": dialog.provenance.model_dump(mode="json")}


def _tagged(message: MessageRow) -> str:
    """The text with a tag for each medium; one that opens it, or closes it, has a line of its own."""
    text, done = "", 0
    for i, medium in enumerate(message.media):
        text += message.content[done : medium.at] + _tag(medium, message, last=i + 1 == len(message.media))
        done = medium.at
    return text + message.content[done:]


def _tag(medium: Medium, message: MessageRow, last: bool) -> str:
    tag, length = f"<{medium.kind}>", len(message.content)
    if last and medium.at == length > 0:
        return f"\n{tag}"
    return f"{tag}\n" if medium.at < length else tag
