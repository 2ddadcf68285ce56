"""Answers in OpenAI's JSON: whole objects, or chunks as server-sent events that end in [DONE]."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from puna.infer.request import Token
from puna.serve.generate import Answer, Job
from puna.serve.logprobs import TextLogprobs, chat_logprobs, followed
from puna.serve.protocol import ApiError, Sampling, tool_calls, usage


def chat_reply(job: Job, head: dict[str, Any]) -> dict[str, Any]:
    """A finished `chat.completion`."""
    choices = []
    for index, answer in enumerate(job.answers):
        content, calls, finish = _ended(answer, f"call_{head['id'][-24:]}_{index}")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        told = _told(job, answer.tokens)
        choices.append({"index": index, "message": message, "logprobs": told, "finish_reason": finish})
    return {**head, "object": "chat.completion", "choices": choices, "usage": usage(job.prompt_tokens, job.completion_tokens)}


def completion_reply(job: Job, head: dict[str, Any]) -> dict[str, Any]:
    """A finished `text_completion`."""
    choices = []
    for index, answer in enumerate(job.answers):
        prompt = job.requests[index // job.requests[0].n].prompt_ids if job.echo else []
        text = job.generator.tokenizer.decode(prompt, skip_special=True) + answer.stream.text
        told = _told_of_text(job, answer, prompt)
        choices.append({"index": index, "text": text, "logprobs": told, "finish_reason": answer.finish})
    return {**head, "object": "text_completion", "choices": choices, "usage": usage(job.prompt_tokens, job.completion_tokens)}


async def chat_stream(job: Job, asked: Sampling, head: dict[str, Any]) -> AsyncIterator[str]:
    """`chat.completion.chunk` events: role, text as it comes, a whole tool call at its end, finish reason."""
    head = {**head, "object": "chat.completion.chunk"}

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, told: dict[str, Any] | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": index, "delta": delta, "logprobs": told, "finish_reason": finish}]}

    async def chunks() -> AsyncIterator[dict[str, Any]]:
        for index in range(len(job.answers)):
            yield chunk(index, {"role": "assistant", "content": ""})
        async for piece in job.pieces():
            told = _told(job, piece.tokens)
            if piece.text:
                yield chunk(piece.index, {"content": piece.text}, told=told)
            if piece.finish:
                answer = job.answers[piece.index]
                content, calls, finish = _ended(answer, f"call_{head['id'][-24:]}_{piece.index}")
                if calls:
                    yield chunk(piece.index, {"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]})
                elif answer.stream.call:
                    yield chunk(piece.index, {"content": (content or "")[len(answer.stream.text) :]})
                yield chunk(piece.index, {}, finish, None if piece.text else told)

    async for event in _events(chunks(), job, asked, head):
        yield event


async def completion_stream(job: Job, asked: Sampling, head: dict[str, Any]) -> AsyncIterator[str]:
    """`text_completion` events."""
    head = {**head, "object": "text_completion"}

    alternatives = job.alternatives
    tellers = [] if alternatives is None else [TextLogprobs(job.generator.tokenizer, alternatives) for _ in job.answers]

    async def chunks() -> AsyncIterator[dict[str, Any]]:
        async for piece in job.pieces():
            told = tellers[piece.index].answer(piece.tokens) if tellers else None
            choice = {"index": piece.index, "text": piece.text, "logprobs": told, "finish_reason": piece.finish}
            yield {**head, "choices": [choice]}

    async for event in _events(chunks(), job, asked, head):
        yield event


async def _events(chunks: AsyncIterator[dict[str, Any]], job: Job, asked: Sampling, head: dict[str, Any]) -> AsyncIterator[str]:
    """Chunks as events, then usage if asked for, then [DONE]; an error on the way is an event too."""
    try:
        async for chunk in chunks:
            yield _event(chunk)
    except ApiError as error:
        yield _event(error.body())
        return
    if asked.stream_options is not None and asked.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": usage(job.prompt_tokens, job.completion_tokens)})
    yield "data: [DONE]\n\n"


def _told(job: Job, tokens: list[Token]) -> dict[str, Any] | None:
    return None if job.alternatives is None else chat_logprobs(job.generator.tokenizer, tokens)


def _told_of_text(job: Job, answer: Answer, prompt: Sequence[int]) -> dict[str, Any] | None:
    """`logprobs` of a completion, those of its prompt first if it is part of the text."""
    if job.alternatives is None:
        return None
    teller = TextLogprobs(job.generator.tokenizer, job.alternatives)
    before = teller.prompt(prompt, answer.tokens[0].prompt_logprobs or []) if job.echo else teller.prompt([], [])
    return followed(before, teller.answer(answer.tokens))


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _ended(answer: Answer, call_id: str) -> tuple[str | None, list[dict[str, Any]] | None, str | None]:
    """Content, tool calls and finish reason; a call that is no valid JSON call is shown as content and not dropped."""
    calls = tool_calls(answer.stream.call, call_id) if answer.finish == "stop" else None
    if calls:
        return answer.stream.text or None, calls, "tool_calls"
    return answer.stream.text + (answer.stream.call or ""), None, answer.finish
