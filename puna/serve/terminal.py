"""Chat with a model directory in the terminal: one answer for scripts, or a conversation that streams.

Greedy by default, and then the text of a float32 model is the one transformers' `generate` gives on the same directory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from puna.core.errors import InputError
from puna.infer.engine import Engine, Request
from puna.infer.parallel import ONE
from puna.infer.request import Shown
from puna.infer.shards import Layout
from puna.serve.answer import AnswerStream
from puna.serve.media import ears_of, eyes_of, load_for, sounds_of
from puna.serve.models import opened_model
from puna.speech.clip import Clip
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium, Message, parse, render
from puna.vision.fetch import MediaRules, scheme_of
from puna.vision.media import Loaded

Kind = Literal["image", "video", "audio"]

KINDS: dict[str, Kind] = {"/image": "image", "/video": "video", "/audio": "audio"}
COMMANDS = "/reset forgets the conversation · /system TEXT sets the system prompt · /quit ends · Ctrl-C stops an answer"
SHOWING, PLAYING = "/image FILE and /video FILE go with the next message", "/audio FILE goes with the next message"


@dataclass
class Conversation:
    """The messages so far and how answers are drawn."""

    engine: Engine
    tokenizer: Tokenizer
    system: str | None
    temperature: float
    max_tokens: int
    seed: int
    messages: list[Message] = field(default_factory=list)
    loaded: dict[Medium, Loaded | Clip] = field(default_factory=dict)

    def request(self) -> Request:
        """The engine request for the assistant's next message."""
        head = [Message("system", self.system)] if self.system else []
        loaded = [self._load(medium) for message in self.messages for medium in message.media]
        sounds = sounds_of(self.engine, loaded)
        rendered = render(self.tokenizer, [*head, *self.messages], generation_prompt=True, sounds=sounds)
        shown = [Shown(at, one) for at, one in zip(rendered.media, loaded, strict=True)]
        return Request(rendered.ids, temperature=self.temperature, max_tokens=self.max_tokens, seed=self.seed, media=shown)

    def _load(self, medium: Medium) -> Loaded | Clip:
        """A medium, read once. Whoever sits at the terminal may read any file, and fetch from any public address."""
        if medium not in self.loaded:
            self.loaded[medium] = load_for(self.engine, medium, Path("/"), MediaRules(domains=("*",)))
        return self.loaded[medium]


def chat(
    directory: str | Path,
    prompt: str | None = None,
    system: str | None = None,
    temperature: float = 0.0,
    max_tokens: int = 256,
    seed: int = 0,
    as_json: bool = False,
    layout: Layout = ONE,
    images: Sequence[str] = (),
    videos: Sequence[str] = (),
    sounds: Sequence[str] = (),
    **options: Any,
) -> None:
    """Answer `prompt` and return, or converse until /quit when there is none; of a layout's processes the first one does.

    With `as_json`, the one answer is printed as a JSON object: text, tool_calls, finished (an end token came), tokens.
    `images`, `videos`, `sounds`: files or addresses that go with the first message. `options`: as in `opened_model`.
    Raises InputError for a directory that holds no model, or a prompt that does not fit.
    """
    if as_json and prompt is None:
        raise InputError("JSON output needs a prompt", fix="add --prompt TEXT")
    named: tuple[tuple[Kind, Sequence[str]], ...] = (("image", images), ("video", videos), ("audio", sounds))
    shown = tuple(_medium(kind, url) for kind, urls in named for url in urls)
    with opened_model(directory, layout, max_running=1, **options) as found:
        if found is None:
            return
        talk = Conversation(*found, system, temperature, max_tokens, seed)
        if prompt is None:
            _converse(talk, Path(directory).absolute().name, list(shown))
        else:
            talk.messages.append(Message("user", prompt, media=shown))
            _answer_once(talk, as_json)


def _medium(kind: Kind, url: str) -> Medium:
    return Medium(0, kind, url if scheme_of(url) else str(Path(url).expanduser().absolute()))


def _answer_once(talk: Conversation, as_json: bool) -> None:
    completion = talk.engine.generate([talk.request()])[0][0]
    message = parse(talk.tokenizer, completion.ids)
    if as_json:
        answer = {"text": message.content, "tool_calls": message.tool_calls, "finished": completion.finished}
        print(json.dumps({**answer, "tokens": len(completion.ids)}, ensure_ascii=False))
    else:
        print(message.content + (message.tool_calls or ""))


def _converse(talk: Conversation, name: str, waiting: list[Medium]) -> None:
    """Take turns; `waiting` are media that go with the next message."""
    told = SHOWING if eyes_of(talk.engine) is not None else PLAYING if ears_of(talk.engine) is not None else ""
    commands = COMMANDS + (told and f" · {told}")
    print(f"{name} · {commands}")
    while True:
        try:
            line = input("\n> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        command, _, rest = line.strip().partition(" ")
        if command == "/quit":
            return
        if command in ("/reset", "/system"):
            talk.messages.clear()
            talk.loaded.clear()
            waiting.clear()
            talk.system = rest.strip() or None if command == "/system" else talk.system
            print("a new conversation" + (f" with system prompt: {talk.system}" if talk.system else ""))
        elif command in told.split() and rest.strip():
            waiting.append(_medium(KINDS[command], rest.strip()))
        elif command.startswith("/"):
            print(commands)
        elif command:
            _take_turn(talk, line, tuple(waiting))
            waiting.clear()


def _take_turn(talk: Conversation, line: str, media: tuple[Medium, ...]) -> None:
    """Send one line and stream the answer; a turn that cannot be answered leaves the conversation as it was."""
    talk.messages.append(Message("user", line, media=media))
    try:
        message = _stream(talk)
    except InputError as error:
        talk.messages.pop()
        print(error)
        return
    talk.messages.append(message)


def _stream(talk: Conversation) -> Message:
    stream, ids = AnswerStream(talk.tokenizer), []
    request_id = talk.engine.add(talk.request())
    try:
        while talk.engine.busy:
            for token in talk.engine.step():
                if not token.stopped:
                    ids.append(token.token_id)
                    print(stream.push(token.token_id), end="", flush=True)
    except KeyboardInterrupt:
        talk.engine.cancel(request_id)
    print(stream.finish() + (f"calls {stream.call}" if stream.call is not None else ""))
    return parse(talk.tokenizer, ids)
