"""From a checked API request to growing answers: one engine request per prompt, one text stream per answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from puna.core.errors import PunaError
from puna.core.rng import derive_seed
from puna.infer.engine import Request, Token
from puna.infer.grammar import Grammar
from puna.infer.request import Shown
from puna.serve.answer import AnswerStream
from puna.serve.protocol import ApiError, Sampling, as_api_error
from puna.serve.worker import EngineThread, Ticket
from puna.tokenizer.bpe import Tokenizer


@dataclass
class Answer:
    """One answer in the making: its text so far, its tokens, and why it ended ("stop" or "length").

    `shown` of the tokens have gone out with a piece.
    """

    stream: AnswerStream
    tokens: list[Token] = field(default_factory=list)
    shown: int = 0
    finish: str | None = None


@dataclass
class Piece:
    """New text of one answer and the tokens since the last piece; `finish` is set on the last."""

    index: int
    text: str
    tokens: list[Token]
    finish: str | None


class Generator:
    """Starts jobs on the engine's thread; a request without a seed gets the next one of a stream of its own."""

    def __init__(self, worker: EngineThread, tokenizer: Tokenizer, max_tokens: int, seconds: float):
        self.worker, self.tokenizer, self.max_tokens, self.seconds = worker, tokenizer, max_tokens, seconds
        self.context = worker.engine.max_seq_len
        self._started = 0

    def start(
        self, asked: Sampling, prompts: list[list[int]], *, calls: bool, grammar: Grammar | None = None,
        media: Sequence[Shown] = (),
    ) -> Job:  # fmt: skip
        """The job that gathers the answers to these prompts.

        `calls`: whether an answer may be a tool call. `media`: what the prompt shows, where there is one.
        """
        alternatives, echo = asked.alternatives(), getattr(asked, "echo", False)
        self._started += 1
        seed = asked.seed if asked.seed is not None else derive_seed(0, "serve", self._started)
        longest = getattr(asked, "max_completion_tokens", None) or asked.max_tokens or self.max_tokens
        requests = [
            Request(
                prompt,
                n=asked.n,
                temperature=1.0 if asked.temperature is None else asked.temperature,
                top_p=1.0 if asked.top_p is None else asked.top_p,
                max_tokens=min(longest, self.max_tokens),
                seed=seed,
                shaping=replace(asked.shaping(), grammar=grammar),
                logprobs=alternatives or 0,
                prompt_logprobs=echo and alternatives is not None,
                media=media,
            )
            for prompt in prompts
        ]
        streams = [AnswerStream(self.tokenizer, asked.stops(), calls=calls) for _ in range(asked.n * len(prompts))]
        return Job(self, requests, [Answer(stream) for stream in streams], alternatives, echo)

    def ready(self, requests: list[Request]) -> Job:
        """The job that gathers the one answer to each of these."""
        return Job(self, requests, [Answer(AnswerStream(self.tokenizer, calls=False)) for _ in requests], None, False)


class Job:
    """The answers to one API request, in order: all of the first prompt, then all of the second, ...

    `alternatives` and `echo` are what was asked to be told of tokens and prompts.
    """

    def __init__(
        self, generator: Generator, requests: list[Request], answers: list[Answer], alternatives: int | None, echo: bool
    ):
        self.generator, self.requests, self.answers = generator, requests, answers
        self.alternatives, self.echo = alternatives, echo
        self.prompt_tokens = sum(len(request.prompt_ids) for request in requests)
        self._queue: asyncio.Queue[tuple[int, list[Token] | PunaError]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._deadline = 0.0
        self._first: tuple[int, list[Token]] = (0, [])

    @property
    def completion_tokens(self) -> int:
        return sum(len(answer.tokens) for answer in self.answers)

    async def open(self) -> None:
        """Submit the requests and wait for the first tokens; ApiError if they are refused, so that the status can say so."""
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + self.generator.seconds
        self._submit(loop)
        self._first = await self._next(loop)

    async def pieces(self) -> AsyncIterator[Piece]:
        """New text as it comes, after `open`; ends when every answer has. ApiError when the engine fails or time is up."""
        loop = asyncio.get_running_loop()
        place, news = self._first
        while True:
            for token in news:
                piece = self._take(place * self.requests[place].n + token.index, token)
                if piece is not None:
                    yield piece
            if all(answer.finish for answer in self.answers):
                return
            place, news = await self._next(loop)

    async def collect(self) -> None:
        """Submit the requests and wait for all answers."""
        await self.open()
        async for _ in self.pieces():
            pass

    def cancel(self) -> None:
        """Free the engine of whatever still runs; harmless when nothing does."""
        for ticket in self._tickets:
            self.generator.worker.cancel(ticket)
        self._tickets.clear()

    async def _next(self, loop: asyncio.AbstractEventLoop) -> tuple[int, list[Token]]:
        try:
            place, news = await asyncio.wait_for(self._queue.get(), self._deadline - loop.time())
        except TimeoutError:
            raise ApiError(504, f"no complete answer within {self.generator.seconds:g} seconds", code="timeout") from None
        if isinstance(news, PunaError):
            raise as_api_error(news)
        return place, news

    def _submit(self, loop: asyncio.AbstractEventLoop) -> None:
        for place, request in enumerate(self.requests):

            def sink(news: list[Token] | PunaError, place: int = place) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._queue.put_nowait, (place, news))

            try:
                self._tickets.append(self.generator.worker.submit(request, sink))
            except PunaError as error:
                raise as_api_error(error) from None

    def _take(self, index: int, token: Token) -> Piece | None:
        """Count a token and decode it; None if it shows nothing new."""
        answer = self.answers[index]
        if answer.finish:
            return None
        answer.tokens.append(token)
        text = "" if token.stopped else answer.stream.push(token.token_id)
        if token.finished:
            text += answer.stream.finish()
        if answer.stream.stopped or token.finished:
            answer.finish = "stop" if token.stopped or answer.stream.stopped else "length"
        if not text and not answer.finish:
            return None
        news, answer.shown = answer.tokens[answer.shown :], len(answer.tokens)
        return Piece(index, text, news, answer.finish)
