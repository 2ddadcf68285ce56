"""The chat format: one renderer from messages to ids and masks, for training, evaluation and serving alike (paper 4.1.1, 4.1.3).

    <|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n...

Role, "\\n\\n" and content are encoded separately and content is never stripped, so the ids of a prompt are a prefix of the ids of
prompt plus answer, whatever the answer begins with. An assistant's tool call is <|python_tag|> + JSON + <|eom_id|>; the tool's
result comes back as a message of role ipython. A picture or a video is one <|image|> where it stands in the content; what it
shows enters by cross-attention (paper 7.3). The Jinja template for other tools states the same format and is tested against this
renderer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from puna.core.errors import InputError
from puna.tokenizer.bpe import Tokenizer

ROLES = ("system", "user", "assistant", "ipython")
HEADER_END = "\n\n"
PIECE_BREAK = "\ufdd0\ufdd1"  # two Unicode noncharacters: see `jinja_template`
TOOLS_SYSTEM = "Environment: ipython"
TOOLS_BEFORE = "You can call these functions, one JSON object per line:\n"
TOOLS_AFTER = '\nTo call one, answer only with {"name": its name, "parameters": {its arguments}}.\n\n'


@dataclass(frozen=True)
class Medium:
    """A picture, video or sound in a message.

    Attributes:
        at: where it stands, as a character offset in the message's content.
        url: path relative to the row's file, `data:` or http address.
        detail: of a picture, how closely to look: "low" is one tile.
        frames: of a video, how many to look at; None leaves it to the model.
        start, end: of a video, the part to look at, in seconds.

    Raises ValueError for numbers that no medium can have.
    """

    at: int
    kind: Literal["image", "video", "audio"]
    url: str
    detail: Literal["auto", "low", "high"] = "auto"
    frames: int | None = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if not self.url:
            raise ValueError("a medium needs a url")
        if self.frames is not None and self.frames < 1:
            raise ValueError("num_frames must be at least 1")
        start = self.start or 0.0
        if not start >= 0 or (self.end is not None and not self.end > start):
            raise ValueError("start and end of a video are seconds, 0 <= start < end")


class MessageLike(Protocol):
    """What the renderer reads: `Message` below and the row type `puna.tokenizer.dialog.MessageRow`."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def tool_calls(self) -> str | None: ...
    @property
    def end(self) -> str: ...
    @property
    def train(self) -> bool | None: ...
    @property
    def media(self) -> tuple[Medium, ...]: ...


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        role: system, user, assistant or ipython (the result of a tool).
        content: its text, kept as it is.
        tool_calls: an assistant's call as a JSON string, written after the content and <|python_tag|>; always ends in eom.
        end: "eot" (the turn is over) or "eom" (the assistant goes on after a tool's result).
        train: False keeps an assistant's message out of the loss.
        media: pictures, videos and sounds in the content, in order.
    """

    role: str
    content: str = ""
    tool_calls: str | None = None
    end: str = "eot"
    train: bool | None = None
    media: tuple[Medium, ...] = ()

    def __post_init__(self) -> None:
        if self.tool_calls is not None and self.end != "eom":
            object.__setattr__(self, "end", "eom")


@dataclass
class Rendered:
    """Ids of a dialog and, for each id, whether it is learned (`loss_mask`) and whether it is format (`format_mask`).

    Format is what no preference should push up or down (paper 4.1.4): headers, <|python_tag|>, <|image|>, speech, terminators.
    `spans` holds [start, end) of the body of each message: content and tool call, without header and terminator. `media` holds
    the position in `ids` of each medium's token, of a sound that of its first placeholder, in order.
    """

    ids: list[int]
    loss_mask: list[int]
    format_mask: list[int]
    spans: list[tuple[int, int]]
    media: list[int] = field(default_factory=list)

    def _extend(self, ids: Sequence[int], *, learned: bool = False, form: bool = False) -> None:
        self.ids.extend(ids)
        self.loss_mask.extend([int(learned)] * len(ids))
        self.format_mask.extend([int(form)] * len(ids))


def render(
    tokenizer: Tokenizer, messages: Iterable[MessageLike], *, generation_prompt: bool = False, sounds: Sequence[int] = ()
) -> Rendered:
    """Ids and masks of a dialog, BOS once at the start.

    The loss covers an assistant's content, its <|python_tag|> and its terminator, never a header or a medium's token. With
    `generation_prompt` the ids end in an open assistant header. `sounds` says how many tokens of 80 ms each sound takes; they
    stand as placeholders between the two tokens of speech (paper 8.1.1). Raises InputError for an unknown role, an unknown end, a
    call by another role, a medium outside its content, and other sounds than `sounds` counts.
    """
    rendered = Rendered([], [], [], [])
    lengths = deque(sounds)
    rendered._extend([tokenizer.bos_id], form=True)
    for message in messages:
        _check(message)
        rendered._extend(_header(tokenizer, message.role), form=True)
        _render_body(tokenizer, message, rendered, lengths)
    if lengths:
        raise InputError(f"{len(lengths)} more sounds are counted than the messages hold")
    if generation_prompt:
        rendered._extend(_header(tokenizer, "assistant"), form=True)
    return rendered


def parse(tokenizer: Tokenizer, ids: Iterable[int]) -> Message:
    """The message an assistant wrote: the inverse of `render` for its body, with or without the terminator.

    Everything after the first stop token is ignored, text after <|python_tag|> is the call, other special tokens are dropped.
    """
    body, end = list(ids), "eot"
    for position, token in enumerate(body):
        if token in tokenizer.stop_ids:
            end = "eom" if token == tokenizer.eom_id else "eot"
            body = body[:position]
            break
    if tokenizer.python_tag_id not in body:
        return Message("assistant", tokenizer.decode(body, skip_special=True), end=end)
    tag = body.index(tokenizer.python_tag_id)
    content, call = body[:tag], body[tag + 1 :]
    return Message(
        "assistant", tokenizer.decode(content, skip_special=True), tool_calls=tokenizer.decode(call, skip_special=True), end="eom"
    )


def with_tools(messages: Sequence[Message], tools: str | None) -> list[Message]:
    """Messages that offer the model custom tools the Llama 3.1 way, for `render`.

    `tools` is a JSON array of function descriptions as a string. The system message opens with "Environment: ipython", which is
    what lets the model end a message with <|eom_id|>, and the descriptions stand before the first user message.
    Raises InputError when there is no user message to carry them.
    """
    if not tools:
        return list(messages)
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise InputError("tools are offered but no user message follows", fix="add a user message")
    listed = "\n".join(_tool_lines(tools))
    offered = list(messages)
    first = offered[users[0]]
    offered[users[0]] = _opened(first, TOOLS_BEFORE + listed + TOOLS_AFTER)
    if offered[0].role != "system":
        return [Message("system", TOOLS_SYSTEM), *offered]
    return [_opened(offered[0], TOOLS_SYSTEM + "\n\n"), *offered[1:]]


def check_places(content: str, media: Sequence[Medium]) -> None:
    """ValueError unless the media stand in the content, in order."""
    places = [0, *(medium.at for medium in media), len(content)]
    if places != sorted(places):
        raise ValueError(f"media must stand in order between characters 0 and {len(content)} of the content")


def jinja_template(piece_break: str = PIECE_BREAK) -> str:
    """The same format as a Jinja chat template for transformers, TRL and vLLM.

    Those tools tokenise the text between two special tokens in one go, where this renderer keeps "\\n\\n" and content apart.
    The two differ only if the content opens with a line break, which would be drawn into the "\\n\\n"; the template then writes
    a pair of Unicode noncharacters between them, which the generated `tokenizer.json` removes after splitting there. For engines
    that read no `tokenizer.json`, an empty `piece_break` leaves them out.
    """
    return (
        _TEMPLATE.replace("PIECE_BREAK", piece_break)
        .replace("TOOLS_SYSTEM", _literal(TOOLS_SYSTEM))
        .replace("TOOLS_BEFORE", _literal(TOOLS_BEFORE))
        .replace("TOOLS_AFTER", _literal(TOOLS_AFTER))
    )


def _check(message: MessageLike) -> None:
    if message.role not in ROLES:
        raise InputError(f"unknown role '{message.role}'", fix="roles are " + ", ".join(ROLES))
    if message.end not in ("eot", "eom"):
        raise InputError(f"a message ends in 'eot' or 'eom', not '{message.end}'")
    if message.tool_calls is not None and message.role != "assistant":
        raise InputError(f"a message of role '{message.role}' cannot call tools", fix="only the assistant calls tools")
    try:
        check_places(message.content, message.media)
    except ValueError as error:
        raise InputError(str(error)) from None


def _opened(message: Message, text: str) -> Message:
    """The message with a text before its content."""
    media = tuple(replace(medium, at=medium.at + len(text)) for medium in message.media)
    return replace(message, content=text + message.content, media=media)


def _header(tokenizer: Tokenizer, role: str) -> list[int]:
    return [tokenizer.start_header_id, *tokenizer.encode(role), tokenizer.end_header_id, *tokenizer.encode(HEADER_END)]


def _render_body(tokenizer: Tokenizer, message: MessageLike, rendered: Rendered, sounds: deque[int]) -> None:
    learned = message.role == "assistant" and message.train is not False
    start = len(rendered.ids)
    done = 0
    for medium in message.media:
        rendered._extend(tokenizer.encode(message.content[done : medium.at]), learned=learned)
        ids = _speech(tokenizer, sounds) if medium.kind == "audio" else [tokenizer.image_id]
        rendered.media.append(len(rendered.ids) + (medium.kind == "audio"))
        rendered._extend(ids, form=True)
        done = medium.at
    rendered._extend(tokenizer.encode(message.content[done:]), learned=learned)
    if message.tool_calls is not None:
        rendered._extend([tokenizer.python_tag_id], learned=learned, form=True)
        rendered._extend(tokenizer.encode(message.tool_calls), learned=learned)
    rendered.spans.append((start, len(rendered.ids)))
    ends_turn = message.end == "eot" and message.tool_calls is None
    rendered._extend([tokenizer.eot_id if ends_turn else tokenizer.eom_id], learned=learned, form=True)


def _speech(tokenizer: Tokenizer, sounds: deque[int]) -> list[int]:
    """The tokens of the next sound."""
    if not sounds:
        raise InputError("this model has no ears: a sound needs a model that listens", fix="give pictures, videos and text")
    return [tokenizer.speech_start_id, *[tokenizer.speech_id] * sounds.popleft(), tokenizer.speech_end_id]


def _tool_lines(tools: str) -> list[str]:
    import json

    try:
        listed = json.loads(tools)
    except json.JSONDecodeError as error:
        raise InputError(f"tools are not valid JSON: {error}") from None
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise InputError("tools must be a JSON array of objects")
    return [json.dumps(tool, ensure_ascii=False) for tool in listed]


def _literal(text: str) -> str:
    """A text as a Jinja string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


_TEMPLATE = r"""
{%- macro keep_apart(text) -%}
{%- set opening = text[:(text | length) - (text.lstrip() | length)] -%}
{%- if '\n' in opening or '\r' in opening -%}{{- 'PIECE_BREAK' -}}{%- endif -%}
{{- text -}}
{%- endmacro -%}
{%- macro text_of(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content -%}
{%- for part in content -%}
{%- if part.type is defined and part.type in ['image', 'image_url', 'video', 'video_url'] -%}{{- '<|image|>' -}}
{%- else -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro call_of(calls) -%}
{%- if calls is string -%}{{- calls -}}
{%- else -%}
{%- for call in calls -%}
{%- set function = call.function if call.function is defined else call -%}
{{- '; ' if not loop.first else '' -}}
{{- '{"name": ' ~ (function.name | tojson) ~ ', "parameters": ' -}}
{{- function.arguments if function.arguments is string else (function.arguments | tojson) -}}
{{- '}' -}}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro listed(offered) -%}
{{- TOOLS_BEFORE -}}
{%- for tool in offered -%}{{- '\n' if not loop.first else '' -}}{{- tool | tojson -}}{%- endfor -%}
{{- TOOLS_AFTER -}}
{%- endmacro -%}
{%- set offered = tools if tools is defined and tools else [] -%}
{%- set state = namespace(offer=(offered | length) > 0) -%}
{{- '<|begin_of_text|>' -}}
{%- if state.offer and messages[0].role != 'system' -%}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' ~ TOOLS_SYSTEM ~ '<|eot_id|>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- set content = text_of(message.content) -%}
{%- if state.offer and loop.first and message.role == 'system' -%}
{%- set content = TOOLS_SYSTEM ~ '\n\n' ~ content -%}
{%- elif state.offer and message.role == 'user' -%}
{%- set content = listed(offered) ~ content -%}
{%- set state.offer = false -%}
{%- endif -%}
{{- '<|start_header_id|>' ~ ('ipython' if message.role == 'tool' else message.role) ~ '<|end_header_id|>\n\n' -}}
{{- keep_apart(content) -}}
{%- if message.tool_calls is defined and message.tool_calls -%}
{{- '<|python_tag|>' ~ call_of(message.tool_calls) ~ '<|eom_id|>' -}}
{%- elif message.end is defined and message.end == 'eom' -%}
{{- '<|eom_id|>' -}}
{%- else -%}
{{- '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
""".strip()
