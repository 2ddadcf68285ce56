"""Transcripts as they are heard: pieces of an upload go to the engine a few at a time, and come out in order.

Decoding, voice activity and frames are computed in threads; the engine answers pieces beside whatever else it is asked. Memory is
that of the upload and of a few pieces, however long the sound.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from torch import Tensor

from puna.core.errors import PunaError
from puna.infer.request import Request
from puna.serve.generate import Generator, Job
from puna.serve.protocol import as_api_error
from puna.speech.clip import clip_of
from puna.speech.cuts import BLOCK_S, LONGEST_S, Cut, cuts
from puna.speech.ears import Ears
from puna.speech.sound import RATE, SoundRules, blocks
from puna.speech.transcribe import request_of
from puna.speech.transcript import Said

AHEAD = 4  # pieces that the engine has at once


@dataclass
class Piece:
    """A piece whose answer is being written; `opened` ends with its first token."""

    start: float
    end: float
    job: Job
    opened: asyncio.Task[None]

    def said(self) -> Said:
        """What it says, once it is done."""
        answer = self.job.answers[0]
        tokens = [token for token in answer.tokens if not token.stopped]
        logprob = sum(token.logprob for token in answer.tokens)
        return Said(self.start, self.end, answer.stream.text, tuple(token.token_id for token in tokens), logprob)


class Hearing:
    """One upload on its way to a transcript.

    Args:
        system: the prompt that says what is wanted.

    Attributes:
        seconds: of sound, read so far. prompt_tokens, completion_tokens: of all pieces so far.
    """

    def __init__(
        self, generator: Generator, ears: Ears, content: bytes, rules: SoundRules, *, name: str, system: str,
        temperature: float, seed: int,
    ):  # fmt: skip
        self.generator, self.ears, self.system, self.temperature, self.seed = generator, ears, system, temperature, seed
        self.seconds, self.prompt_tokens, self.completion_tokens = 0.0, 0, 0
        self._requests = self._cut(content, rules, name)
        self._pieces: deque[Piece] = deque()
        self._ended = False
        self._filling: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Wait for the first token of the first piece; ApiError for a sound that cannot be read."""
        await self._fill(1)
        if self._pieces:
            await self._pieces[0].opened

    async def deltas(self) -> AsyncIterator[str | Said]:
        """Text of the pieces as it comes, each piece ended by what it says as a whole; after `open`."""
        while self._pieces:
            piece = self._pieces[0]
            self._filling = asyncio.create_task(self._fill(AHEAD))
            await piece.opened
            async for news in piece.job.pieces():
                if news.text:
                    yield news.text
            self.prompt_tokens += piece.job.prompt_tokens
            self.completion_tokens += piece.job.completion_tokens
            yield piece.said()
            await self._filling
            self._pieces.popleft()
            await self._fill(1)

    async def collect(self) -> list[Said]:
        """Everything that is said; opens it first."""
        await self.open()
        return [news async for news in self.deltas() if isinstance(news, Said)]

    def cancel(self) -> None:
        """Free the engine of whatever still runs."""
        self._ended = True
        if self._filling is not None:
            self._filling.cancel()
        for piece in self._pieces:
            piece.opened.cancel()
            piece.job.cancel()

    async def _fill(self, most: int) -> None:
        """Give the engine pieces until it has so many."""
        while not self._ended and len(self._pieces) < most:
            try:
                found = await asyncio.to_thread(next, self._requests, None)
            except PunaError as error:
                raise as_api_error(error) from None
            if found is None:
                self._ended = True
                return
            cut, request = found
            job = self.generator.ready([request])
            self._pieces.append(Piece(cut.start, cut.end, job, asyncio.create_task(job.open())))

    def _cut(self, content: bytes, rules: SoundRules, name: str) -> Iterator[tuple[Cut, Request]]:
        for cut in cuts(self._counted(content, rules, name), longest=min(LONGEST_S, self.ears.room)):
            clip = clip_of(cut.wave_N, self.ears.model.sound)
            request = request_of(
                self.generator.tokenizer, self.ears, clip, self.system, temperature=self.temperature, seed=self.seed
            )
            yield cut, request

    def _counted(self, content: bytes, rules: SoundRules, name: str) -> Iterator[Tensor]:
        for block_N in blocks(content, rules, BLOCK_S, name):
            self.seconds += len(block_N) / RATE
            yield block_N
