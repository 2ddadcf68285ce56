"""A stand-in engine that says what a test tells it to, one token per step, and a tokenizer of bytes."""

from __future__ import annotations

from collections.abc import Iterator

from puna.core.errors import InputError
from puna.infer.engine import Request, Token
from puna.tokenizer.bpe import Tokenizer


def byte_tokenizer() -> Tokenizer:
    return Tokenizer.from_ranks({bytes([b]): b for b in range(256)})


class ScriptedEngine:
    """`say(request, index)` gives the ids of an answer, as many as are asked for; `None` as an id makes the step fail."""

    max_seq_len = 1000
    eyes = None

    def __init__(self, say, stop_ids):
        self.say, self.stop_ids = say, stop_ids
        self.live: dict[int, list[tuple[int, Iterator[int | None], int]]] = {}
        self.requests: list[Request] = []
        self.cancelled: list[int] = []

    @property
    def busy(self) -> bool:
        return bool(self.live)

    def add(self, request: Request) -> int:
        if len(request.prompt_ids) >= self.max_seq_len:
            what = f"the prompt has {len(request.prompt_ids)} tokens and the model reads {self.max_seq_len}"
            raise InputError(what, where="the request", fix="shorten it")
        self.requests.append(request)
        self.live[len(self.requests)] = [(i, iter(self.say(request, i)), request.max_tokens) for i in range(request.n)]
        return len(self.requests)

    def cancel(self, request_id: int) -> None:
        if self.live.pop(request_id, None):
            self.cancelled.append(request_id)

    def step(self) -> list[Token]:
        tokens = []
        for request_id, samples in list(self.live.items()):
            left = []
            for index, ids, room in samples:
                token = next(ids)
                if token is None:
                    raise ValueError("boom")
                stopped = token in self.stop_ids
                finished = stopped or room == 1
                tokens.append(Token(request_id, index, token, finished, stopped, 0.0))
                if not finished:
                    left.append((index, ids, room - 1))
            self.live[request_id] = left
            if not left:
                del self.live[request_id]
        return tokens
