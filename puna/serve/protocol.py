"""What the OpenAI API says on the wire: requests checked on arrival, errors and answers in its JSON forms.

A field that would change the answer and is not supported is refused by name; one that is merely off, or harmless, is accepted.
Tools are offered to the model as Llama 3.1 custom tools, and its call comes back as `tool_calls`. Forms of answers are enforced
(`puna.serve.forms`).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from puna.core.errors import InputError, PunaError
from puna.core.json_numbers import Number, Whole
from puna.infer.request import MOST_ALTERNATIVES
from puna.infer.shaping import Shaping
from puna.tokenizer.chat import Medium, Message, with_tools
from puna.tokenizer.dialog import PART_TYPES, MessageRow, reason_of
from puna.tokenizer.tool_calls import ROLE_OF, calls_text

HARMLESS = frozenset(
    {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"}
)


class ApiError(Exception):
    """An error as the API reports it: status, message, type, and the parameter or code concerned."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The JSON body of the response."""
        kind = {404: "not_found_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class Wire(BaseModel):
    """Base of request parts: unknown keys are kept, to be judged by `refuse_unsupported`."""

    model_config = ConfigDict(extra="allow")


class StreamOptions(Wire):
    include_usage: StrictBool = False


class ChatMessage(Wire):
    role: Literal["system", "developer", "user", "assistant", "tool", "function", "ipython"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class Sampling(Wire):
    """The fields both endpoints share, with OpenAI's defaults; top_k, min_p, repetition_penalty and guided_* are vLLM's."""

    model: str | None = None
    n: Whole = Field(default=1, ge=1)
    temperature: Number | None = Field(default=1.0, ge=0, le=2)
    top_p: Number | None = Field(default=1.0, gt=0, le=1)
    max_tokens: Whole | None = Field(default=None, ge=1)
    seed: Whole | None = None
    top_k: Whole | None = Field(default=0, ge=-1)
    min_p: Number | None = Field(default=0.0, ge=0, le=1)
    presence_penalty: Number | None = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: Number | None = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: Number | None = Field(default=1.0, gt=0)
    logit_bias: dict[int, Annotated[Number, Field(ge=-100, le=100)]] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    stop: str | list[str] | None = None
    stream: StrictBool = False
    stream_options: StreamOptions | None = None

    def alternatives(self) -> int | None:
        """How many likeliest tokens to tell beside each written one; None: nothing is to be told."""
        return None

    def shaping(self) -> Shaping:
        """What is asked of the distribution beyond temperature and top-p; top_k -1 is none, as elsewhere."""
        return Shaping(max(0, self.top_k or 0), self.min_p or 0.0, self.presence_penalty or 0.0, self.frequency_penalty or 0.0,
                       1.0 if self.repetition_penalty is None else self.repetition_penalty, self.logit_bias or {})  # fmt: skip

    def forms(self) -> dict[str, Any]:
        """The fields that prescribe the form of the answer, by name, and what they prescribe."""
        named = {"guided_json": self.guided_json, "guided_regex": self.guided_regex}
        return {name: form for name, form in named.items() if form is not None}

    def stops(self) -> list[str]:
        """Stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class ChatRequest(Sampling):
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Whole | None = Field(default=None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    response_format: ResponseFormat | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)

    def alternatives(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def offers_tools(self) -> bool:
        """Whether the model may call a tool; otherwise whatever it writes is text."""
        return bool(self.tools) and self.tool_choice != "none"

    def dialog(self) -> list[Message]:
        """The messages for the renderer, with the offered tools written into them."""
        messages = [_message(message) for message in self.messages]
        if not self.tools or not self.offers_tools:
            return messages
        return with_tools(messages, json.dumps([_described(tool) for tool in self.tools], ensure_ascii=False))

    def forms(self) -> dict[str, Any]:
        """Those of `Sampling`, `response_format` with its schema (None: any object), `tool_choice` with the functions to call."""
        forms = super().forms()
        if self.response_format is not None and self.response_format.type != "text":
            forms["response_format"] = _schema(self.response_format)
        if self.tool_choice not in (None, "auto", "none"):
            forms["tool_choice"] = self._to_call()
        elif forms and self.offers_tools:
            what = f"{next(iter(forms))} leaves no room for tool calls: set tool_choice to 'none'"
            raise ApiError(400, what, param="tool_choice")
        return forms

    def _to_call(self) -> list[dict[str, Any]]:
        """The functions of which the answer must call one."""
        functions = [_described(tool)["function"] for tool in self.tools or []]
        if self.tool_choice == "required":
            wanted = functions
        elif isinstance(self.tool_choice, dict) and isinstance(self.tool_choice.get("function"), dict):
            wanted = [function for function in functions if function["name"] == self.tool_choice["function"].get("name")]
        else:
            raise ApiError(400, "tool_choice is 'auto', 'none', 'required' or a function", param="tool_choice")
        if not wanted:
            raise ApiError(400, "tool_choice asks for a tool that is not offered", param="tool_choice")
        return wanted


class CompletionRequest(Sampling):
    prompt: str | list[Whole] | list[str] | list[list[Whole]]
    max_tokens: Whole | None = Field(default=16, ge=1)
    logprobs: Annotated[Whole, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    echo: StrictBool = False

    def alternatives(self) -> int | None:
        if self.echo and self.stream:
            raise ApiError(400, "a streamed answer cannot echo its prompt", param="echo")
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt: a text, or ids."""
        if isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int)):
            return [self.prompt]  # type: ignore[list-item]
        if not self.prompt:
            raise ApiError(400, "the prompt is empty", param="prompt")
        return list(self.prompt)  # type: ignore[arg-type]


def read_request(body: bytes, cls: type[Sampling]) -> Any:
    """A checked request; ApiError 400 names the field that is wrong or not supported."""
    try:
        request = cls.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        param, message = _field(first["loc"], body), first["msg"].removeprefix("Value error, ")
        raise ApiError(400, f"{param}: {message}" if param else message, param=param) from None
    for name, value in (request.model_extra or {}).items():
        if name not in HARMLESS and value not in (None, False, 0, "", [], {}, {"type": "text"}):
            raise ApiError(400, f"'{name}' is not supported by this server", param=name, code="unsupported_parameter")
    return request


def _field(loc: tuple[int | str, ...], body: bytes) -> str | None:
    """Where in the body a problem lies: the part of pydantic's path that the body has, or lacks as a field."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    parts: list[str] = []
    for part in loc:
        inside = isinstance(value, dict) or (isinstance(value, list) and isinstance(part, int) and part < len(value))
        if not inside or (isinstance(value, dict) and part not in value and not str(part).isidentifier()):
            break
        parts.append(str(part))
        value = value.get(part) if isinstance(value, dict) else value[part]  # type: ignore[index]
    return ".".join(parts) or None


def as_api_error(error: PunaError) -> ApiError:
    """A request the engine or renderer refused is the client's mistake (400); a failed engine is the server's (503)."""
    if not isinstance(error, InputError):
        return ApiError(503, error.sentence())
    too_long = "the prompt has" in error.what
    return ApiError(400, error.sentence(), code="context_length_exceeded" if too_long else None)


def tool_calls(call: str | None, call_id: str) -> list[dict[str, Any]] | None:
    """The model's `{"name": ..., "parameters": {...}}` in OpenAI's form; None if it is no such call."""
    try:
        parsed = json.loads(call or "")
    except ValueError:
        return None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("name"), str):
        return None
    parameters = parsed.get("parameters", parsed.get("arguments", {}))
    function = {"name": parsed["name"], "arguments": json.dumps(parameters, ensure_ascii=False)}
    return [{"id": call_id, "type": "function", "function": function}]


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The `usage` object; a sampled terminator counts as a token."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _message(message: ChatMessage) -> Message:
    role = ROLE_OF.get(message.role, message.role)
    calls = message.tool_calls if role == "assistant" else None
    try:
        content, media = _content(message.content)
        if media and role != "user":
            raise ApiError(400, f"a message of role '{message.role}' holds no media: the user's may", param="messages")
        return Message(role, content, tool_calls=calls_text(calls) if calls else None, media=media)
    except ValueError as error:
        raise ApiError(400, str(error), param="messages") from None


def _content(content: str | list[dict[str, Any]] | None) -> tuple[str, tuple[Medium, ...]]:
    """Text, and the media in it."""
    if content is None or isinstance(content, str):
        return content or "", ()
    for part in content:
        if part.get("type") not in PART_TYPES:
            raise ApiError(400, f"content parts of type '{part.get('type')}' are not supported", param="messages")
    try:
        row = MessageRow.model_validate({"role": "user", "content": content})
    except ValidationError as error:
        raise ApiError(400, reason_of(error), param="messages") from None
    return row.content, row.media


def _schema(asked: ResponseFormat) -> dict[str, Any] | None:
    if asked.type == "json_object":
        return None
    schema = (asked.json_schema or {}).get("schema")
    if not isinstance(schema, dict):
        raise ApiError(400, "response_format needs json_schema.schema", param="response_format")
    return schema


def _described(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function" or not isinstance(tool.get("function"), dict) or not tool["function"].get("name"):
        raise ApiError(400, "a tool is {'type': 'function', 'function': {'name': ...}}", param="tools")
    return tool
