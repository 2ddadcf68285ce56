"""The endpoints for sound: `/v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/audio/speech`, as OpenAI has them.

Transcripts need a model that listens. Speech is made by `puna.speech.out` with any model: the language model has no part in it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from puna.core.errors import PunaError
from puna.serve.audio import DEFAULT_VOICES, HearingRequest, SpeechRequest, checked, encoded, read_hearing
from puna.serve.generate import Generator
from puna.serve.hearing import Hearing
from puna.serve.local import read_body
from puna.serve.multipart import read_form
from puna.serve.protocol import ApiError, as_api_error
from puna.serve.request_log import JOB
from puna.serve.requests import EventStream, Limits, Running, check_model, unless_gone
from puna.speech.ears import Ears
from puna.speech.sound import SoundRules
from puna.speech.transcript import Said, separator, subtitles, verbose, whole

if TYPE_CHECKING:
    from puna.speech.out.speaker import Speaker

FORM_BYTES = 1 << 20  # of a form beside its file
MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def add_hearing(
    app: FastAPI, generator: Generator, running: Running, name: str, limits: Limits, ears: Ears | None
) -> None:  # fmt: skip
    """Transcriptions and translations; without ears both say that the model has none."""
    rules = SoundRules(limits.audio_bytes, limits.audio_seconds)

    async def hear(request: Request, translate: bool) -> Any:
        if ears is None:
            raise ApiError(400, "this model has no ears: serve a model that listens", param="model")
        running.enter()
        try:
            body = await read_body(request, limits.audio_bytes + FORM_BYTES)
            form = await asyncio.to_thread(read_form, request.headers.get("content-type", ""), body)
            del body  # the file is a copy of it
            asked, file = read_hearing(form)
            check_model(asked.model, name)
            hearing = Hearing(
                generator, ears, file.content, rules, name=file.name, system=asked.system(translate),
                temperature=asked.temperature, seed=asked.seed or 0,
            )  # fmt: skip
        except BaseException:
            running.leave()
            raise
        request.scope[JOB] = hearing

        def end() -> None:
            hearing.cancel()
            running.leave()

        try:
            said = await unless_gone(request, hearing.open() if asked.stream else hearing.collect())
        except BaseException:
            end()
            raise
        if asked.stream:
            return EventStream(_events(hearing, asked, translate), end)
        end()
        return _reply(said or [], hearing, asked, translate)

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Any:
        return await hear(request, False)

    @app.post("/v1/audio/translations")
    async def translations(request: Request) -> Any:
        return await hear(request, True)


def _reply(said: list[Said], hearing: Hearing, asked: HearingRequest, translate: bool) -> Response:
    lang = asked.to_language if translate else asked.language
    form = asked.response_format
    if form == "text":
        return PlainTextResponse(whole(said, lang) + "\n")
    if form == "srt" or form == "vtt":
        return PlainTextResponse(subtitles(said, form), media_type=MEDIA_TYPES[form])
    usage = {"usage": {"type": "duration", "seconds": round(hearing.seconds, 3)}}
    if form == "json":
        return JSONResponse({"text": whole(said, lang), **usage})
    task = "translate" if translate else "transcribe"
    told = verbose(said, lang, task=task, seconds=hearing.seconds, temperature=asked.temperature)
    return JSONResponse(told | usage)


async def _events(hearing: Hearing, asked: HearingRequest, translate: bool) -> AsyncIterator[str]:
    """Text as it comes, then all of it; an error on the way is an event too."""
    between, text, fresh = separator(asked.to_language if translate else asked.language), "", False
    try:
        async for news in hearing.deltas():
            if isinstance(news, Said):
                fresh = True
                continue
            delta = between + news if fresh and text else news
            text, fresh = text + delta, False
            yield _event({"type": "transcript.text.delta", "delta": delta})
    except ApiError as error:
        yield _event(error.body())
        return
    yield _event({"type": "transcript.text.done", "text": text})


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def add_speaking(app: FastAPI, running: Running, name: str, limits: Limits, directory: Path | None) -> None:
    """Speech out of text, with the models of a `speech_out` directory or by rules."""

    @lru_cache(maxsize=1)
    def speaker() -> Speaker:
        from puna.speech.out.speaker import Speaker

        return Speaker.open(directory)

    def spoken(asked: SpeechRequest) -> tuple[bytes, str]:
        voice = None if asked.voice in DEFAULT_VOICES else asked.voice
        blocks = speaker().say(asked.input, lang=asked.language, voice=voice, speed=asked.speed)
        return encoded(np.concatenate(list(blocks)), speaker().rate, asked.response_format)

    @app.post("/v1/audio/speech")
    async def speech(request: Request) -> Any:
        try:
            values = json.loads(await read_body(request, limits.body_bytes))
        except (ValueError, RecursionError):
            raise ApiError(400, "the request is no JSON") from None
        asked = checked(SpeechRequest, values)
        check_model(asked.model, name)
        running.enter()
        try:
            content, media = await unless_gone(request, asyncio.to_thread(spoken, asked))
        except PunaError as error:
            raise as_api_error(error) from None
        finally:
            running.leave()
        return Response(content, media_type=media)
